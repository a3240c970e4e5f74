"""The house rules about imports: nothing climbs to a higher floor, and what must stay light stays light."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

FLOORS = (
    {"config", "core"},
    {"trunk", "modality", "objective", "data/store"},
    {"data", "egoworld", "parallel", "solver", "checkpoint", "monitor"},
    {"systems"},
    {"train", "eval", "export", "estimate"},
    {"launch", "demo"},
    {"commands", "cli"},
)
FLOOR = {part: level for level, parts in enumerate(FLOORS) for part in parts}
APART = {"trunk", "modality", "objective"}  # these do not import each other


def imports(path: Path, root: Path, *, top_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import; ``from a import b`` gives ``a.b``."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def place(parts: Sequence[str]) -> str:
    """The part of the house that a module path below internlm/ lies in; ``data/store`` has a floor of its own."""
    return "/".join(parts[:2]) if "/".join(parts[:2]) in FLOOR else parts[0]


def climbing(path: Path, root: Path) -> list[str]:
    """Imports of one file of internlm/ that the floors forbid."""
    parts = path.relative_to(root).with_suffix("").parts
    here = place(parts[1:])
    faults = []
    for line, name in imports(path, root):
        target = name.split(".")
        there = place(target[1:]) if len(target) > 1 else ""
        if target[0] != "internlm" or there not in FLOOR or there == here:
            continue
        sideways = {here, there} <= APART
        if FLOOR.get(here, -1) < FLOOR[there] or sideways:
            faults.append(f"{path.relative_to(root)}:{line}: {here} imports {name}")
    return faults


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, given by what each imports."""
    reached = {name: set(others) for name, others in graph.items()}
    for middle in graph:
        for found in reached.values():
            if middle in found:
                found |= reached[middle]
    groups = {tuple(sorted(other for other in found if name in reached[other])) for name, found in reached.items()}
    return sorted(list(group) for group in groups if group)


def sources(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def test_nothing_climbs(root):
    files = sources(root, "internlm")
    assert len(files) > 20
    assert [fault for path in files for fault in climbing(path, root)] == []


def test_no_files_import_each_other_in_a_circle(root):
    """Neither at run time nor for types alone, nor inside functions: of two files one can be read without the other."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in sources(root, "internlm")}
    graph = {module: set() for module in files}
    for module, path in files.items():
        for _, name in imports(path, root):
            graph[module] |= {found for found in (name, name.rpartition(".")[0]) if found in files and found != module}
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "d"}}) == [["b", "c"], ["d"]]


def test_every_part_has_a_floor(root):
    parts = {path.relative_to(root / "internlm").with_suffix("").parts[0] for path in sources(root, "internlm")}
    assert parts - {"__init__"} <= FLOOR.keys()


def test_unit_tests_lie_in_folders_named_like_what_they_test(root):
    folders = {path.relative_to(root / "tests" / "unit").parts[0] for path in (root / "tests" / "unit").rglob("*/test_*.py")}
    assert folders - FLOOR.keys() == {"dataset_preprocess", "docs"}


@pytest.mark.parametrize(
    ("file", "text", "faults"),
    [
        ("internlm/trunk/x.py", "from internlm.train import loop", 1),
        ("internlm/trunk/x.py", "def f():\n    from ..eval import knn", 1),
        ("internlm/objective/x.py", "from internlm.data.batch import ClipBatch", 1),
        ("internlm/systems/x/y.py", "from internlm.trunk.layout import Layout", 0),
        ("internlm/data/store/x.py", "from internlm.data.geometry import is_rigid", 1),
        ("internlm/data/x.py", "from internlm.data.store import Camera", 0),
        ("internlm/train/x.py", "import internlm.cli", 1),
        ("internlm/train/x.py", "from internlm.eval import knn\nfrom internlm.config.schema import Config", 0),
        ("internlm/trunk/sub/x.py", "from ...solver import ema", 1),
    ],
)
def test_the_check_sees_what_it_should(tmp_path, file, text, faults):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert len(climbing(path, tmp_path)) == faults


ENTRY = "internlm.cli.main"  # the published project's scripts, run by name, hand over to the command line
# What preprocessing may use of the package: all of it runs without torch.
SHARED = ("core/errors", "core/files", "data/store", "data/camera", "data/geometry", "data/skeleton", "data/mocap", "egoworld")


def test_preprocessing_shares_only_the_torch_free_data_parts(root):
    for path in sources(root, "dataset_preprocess"):
        for line, name in imports(path, root):
            parts = name.split(".")
            assert parts[0] not in ("torch", "torchvision"), f"{path}:{line}"
            if name == ENTRY:
                continue
            assert parts[0] != "internlm" or {parts[1], "/".join(parts[1:3])} & set(SHARED), f"{path}:{line}: {name}"


@pytest.mark.parametrize("part", SHARED)
def test_what_preprocessing_shares_needs_no_torch(root, part):
    files = sources(root, f"internlm/{part}") or [root / f"internlm/{part}.py"]
    for path in files:
        assert not [name for _, name in imports(path, root) if name.split(".")[0] == "torch"], path


def test_the_model_knows_no_processes(root):
    for path in [path for part in ("trunk", "modality", "objective") for path in sources(root, f"internlm/{part}")]:
        assert not [name for _, name in imports(path, root) if name.startswith("torch.distributed")], path


def test_who_works_for_every_system_names_none(root):
    """Nobody outside systems/ does, but the demo, which is of one."""
    seam = ("base", "resolve")
    for path in sources(root, "internlm"):
        if path.relative_to(root / "internlm").parts[0] in ("systems", "demo"):
            continue
        for line, name in imports(path, root):
            parts = name.split(".")
            assert parts[:2] != ["internlm", "systems"] or parts[2] in seam, f"{path}:{line}: {name}"


# By the pipeline, by the reader of configs, by "egoagent train", by a Slurm job, by the calibration of the random floor.
CAUGHT = {"SkipTake", "YamlError", "LostProcessError", "EarlyStop", "_AllMet"}


def test_errors_that_the_user_can_mend_have_one_base(root):
    bases = {}
    for path in sources(root, "internlm") + sources(root, "dataset_preprocess"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    errors = {name for name, of in bases.items() if any(base.endswith(("Error", "Exception")) for base in of)}
    mendable = {"UserError"}
    for _ in errors:
        mendable |= {name for name in errors if mendable & set(bases[name])}
    assert len(mendable) > 15 and errors - mendable == CAUGHT


def test_only_commands_parse_arguments(root):
    """Of the package; preprocessing's scripts keep the published names, and evaluation's options are declared beside it."""
    found = {
        path.relative_to(root / "internlm").parts[0]
        for path in sources(root, "internlm")
        if any(name.split(".")[0] == "argparse" for _, name in imports(path, root))
    }
    assert found == {"commands", "eval"}


def test_entry_scripts_are_thin(root):
    for path in root.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 20, path
