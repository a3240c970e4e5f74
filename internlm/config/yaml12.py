"""YAML 1.2 through ruamel.yaml: ``3e-4`` is a number, ``no``, ``1:30`` and a date are text, and a key is given once.

What is added here: a file's encoding, keys given twice with both their lines, and an end to what aliases may multiply.
"""

import codecs
import io
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

_MAX_VALUES = 100_000  # aliases of aliases make a file of a kilobyte mean billions
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip


class YamlError(ValueError):
    """Text that is not YAML, or says something twice. ``line`` is the line to look at, from 1, where it is known."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


class _Constructor(SafeConstructor):
    pass


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)  # the core schema has no dates


class _Representer(SafeRepresenter):
    def represent_text(self, text: str) -> ScalarNode:
        """Quoted where ruamel.yaml would not read back, inside brackets, what it writes there: ``[?0]`` is a key."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if text[:1] in ("?", ":") else None)


_Representer.add_representer(str, _Representer.represent_text)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.Representer = _Constructor, _Representer
    yaml.default_flow_style, yaml.width, yaml.sort_base_mapping_type_on_output = None, 120, False
    return yaml


def decode(data: bytes) -> str:
    """The text of a file: UTF-8, or whatever its byte order mark says. Raises YamlError naming the byte and its line."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}"
        raise YamlError(f"{wrong}; save the file as UTF-8", line if encoding.startswith("utf-8") else None) from None
    if "\0" in text:
        raise YamlError("holds zero bytes: it is UTF-16 without a byte order mark, or no text at all; save it as UTF-8")
    return text


def parse(text: str) -> Any:
    """Parse YAML text. Raises YamlError."""
    yaml = _yaml()
    try:
        node = yaml.compose(text)
        if node is None:
            return None
        _check(node, "", {}, set())
        return yaml.constructor.construct_document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tab = "; YAML is indented with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        raise YamlError(f"{error.problem or error.context}{tab}", mark.line + 1 if mark else None) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f"character 0x{ord(text[error.position]):02x} is not allowed", line) from None
    except RecursionError:
        raise YamlError("is nested too deeply") from None
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # a tag such as !!int on what is none
        raise error if isinstance(error, YamlError) else YamlError(f"a value cannot be read: {error}") from None


def _check(node: Node, key: str, sizes: dict[int, int], above: set[int]) -> int:
    """Number of values that a node means, aliases written out. YamlError for a key given twice, and for what has no end."""
    if id(node) in above:
        raise YamlError(f"{key} contains itself", node.start_mark.line + 1)
    if id(node) not in sizes:
        below = {id(node)} | above
        sizes[id(node)] = 1 + sum(_check(value, name, sizes, below) for name, value in _children(node, key))
        if sizes[id(node)] > _MAX_VALUES:
            raise YamlError(f"means more than {_MAX_VALUES:,} values", node.start_mark.line + 1)
    return sizes[id(node)]


def _children(node: Node, key: str) -> Iterator[tuple[str, Node]]:
    if isinstance(node, SequenceNode):
        yield from ((key, value) for value in node.value)
    elif isinstance(node, MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for name, value in node.value:
            yield key, name
            if isinstance(name, ScalarNode):
                here, line = (f"{key}.{name.value}" if key else name.value), name.start_mark.line + 1
                first = lines.get((name.tag, name.value))
                if first is not None:
                    raise YamlError(f"{here} is given twice, in line {first} and in line {line}; join the two", line)
                lines[name.tag, name.value] = line
                yield here, value
            else:
                yield key, value


def dump(value: Any) -> str:
    """Write plain dicts, lists and scalars as YAML, keys in the given order."""
    text = io.StringIO()
    _yaml().dump(value, text)
    return text.getvalue()
