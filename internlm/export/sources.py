"""The Python files of an exported folder: the package's own modules, flat, with only the imports between them rewritten.

What an exported model runs is therefore the text that was trained and tested here; there is no second copy to drift.
"""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import ExportError

Replaced = Mapping[str, tuple[str, str, str]]
_PACKAGE = "internlm"


def exported_sources(entries: Sequence[str], replaced: Replaced) -> dict[str, str]:
    """File name -> text of every module that an exported model needs, found by following the imports of ``entries``.

    ``replaced``: by module that stays behind the one name that others import from it, and the file and name in its place.

    Raises ExportError for an import of the package that is not ``from module import names``, for two modules of one name,
    and for one that has no counterpart outside the package.
    """
    files: dict[str, str] = {}
    origin: dict[str, str] = {}
    waiting = [*entries]
    while waiting:
        module = waiting.pop()
        name = f"{module.rpartition('.')[2]}.py"
        if origin.setdefault(name, module) != module:
            raise ExportError(f"{module} and {origin[name]} would both become {name} in the exported folder; rename one")
        if name not in files:
            files[name], needed = _rewrite(module, replaced)
            waiting += needed
    return dict(sorted(files.items()))


def _rewrite(module: str, replaced: Replaced) -> tuple[str, list[str]]:
    """Text of a module with its imports of the package made flat and relative, and the modules that these name."""
    text = source_of(module).read_text(encoding="utf-8")
    lines: list[str | None] = list(text.split("\n"))
    needed: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(alias.name.partition(".")[0] == _PACKAGE for alias in node.names):
            raise ExportError(f"{module}:{node.lineno}: write 'from module import names', which an export can rewrite")
        if not isinstance(node, ast.ImportFrom) or not (target := _absolute(module, node)):
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before, after = lines[first].encode()[: node.col_offset], lines[last].encode()[node.end_col_offset :]
        lines[first] = before.decode() + _flat(module, node, target, replaced) + after.decode()
        lines[first + 1 : last + 1] = [None] * (last - first)  # dropped below: the numbers of later lines must hold
        if target not in replaced:
            needed.append(target)
    return "\n".join(line for line in lines if line is not None), needed


def _absolute(module: str, node: ast.ImportFrom) -> str | None:
    """The module of the package that an import names, or None where it is another package's."""
    if node.level:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
    return node.module if node.module and node.module.partition(".")[0] == _PACKAGE else None


def _flat(module: str, node: ast.ImportFrom, target: str, replaced: Replaced) -> str:
    if target not in replaced:
        names = ", ".join(alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names)
        return f"from .{target.rpartition('.')[2]} import {names}"
    known, file, name = replaced[target]
    others = ", ".join(alias.name for alias in node.names if alias.name != known)
    if others:
        raise ExportError(f"{module}:{node.lineno}: {target} has no counterpart in an exported folder for {others}")
    return f"from .{file} import {name} as {node.names[0].asname or known}"


def source_of(module: str) -> Path:
    """The file of a module, without importing it. Raises ExportError for a package folder."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or spec.submodule_search_locations is not None:
        raise ExportError(f"{module} is not one file; import from the module that defines the name")
    return Path(spec.origin)
