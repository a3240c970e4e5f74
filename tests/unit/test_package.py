"""What is declared agrees with itself and with what the code imports."""

import ast
import fnmatch
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip carries the same parser
    from pip._vendor import tomli as tomllib

MODULE_OF = {
    "ruamel.yaml": "ruamel",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "faiss-cpu": "faiss",
    "projectaria-tools": "projectaria_tools",
    "flash-attn": "flash_attn",
}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()


def lines(path: Path) -> list[str]:
    found = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in found if line]


def test_requirement_files_hold_the_pins_of_pyproject(root, project):
    folder = root / "requirements"
    runtime = [pin for pin in project["dependencies"] if name_of(pin) != "torch"]
    extras = project["optional-dependencies"]
    assert lines(folder / "runtime.txt") == runtime
    assert lines(folder / "dev.txt") == ["-r torch.txt", "-r runtime.txt", *extras["dev"]]
    others = [pin for name, pins in extras.items() if name != "dev" for pin in pins if pin not in extras["dev"]]
    assert lines(folder / "full_env.txt") == ["-r dev.txt", *others]


def test_the_torch_pin_is_exact_and_allowed_by_pyproject(root, project):
    (pin,) = lines(root / "requirements" / "torch.txt")
    name, _, version = pin.partition("==")
    (allowed,) = [pin for pin in project["dependencies"] if name_of(pin) == "torch"]
    lowest = allowed.partition(">=")[2]
    assert name == "torch" and tuple(map(int, version.split("."))) >= tuple(map(int, lowest.split(".")))


def test_every_import_of_the_package_is_declared(root, project):
    extras = [pin for name, pins in project["optional-dependencies"].items() if name != "dev" for pin in pins]
    declared = {MODULE_OF.get(name_of(pin), name_of(pin)) for pin in project["dependencies"] + extras}
    own = {"internlm", "dataset_preprocess"}
    missing = {}
    for folder in own:
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                for name in (name.split(".")[0] for name in names):
                    if name not in declared | own | sys.stdlib_module_names:
                        missing.setdefault(name, str(path.relative_to(root)))
    assert missing == {}


def test_every_package_folder_has_an_init(root):
    for folder in ("internlm", "dataset_preprocess"):
        for path in (root / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} would be left out of a wheel"


def test_the_code_names_no_machine(root):
    absolute = re.compile(r"[\"'](/work|/home|/tmp|/root)\b")
    for folder in ("internlm", "dataset_preprocess", "configs", "tools", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            assert not absolute.search(path.read_text()), path


def test_version_is_the_packages(project):
    import internlm

    assert internlm.__version__ == project["version"]


def test_every_test_folder_is_collected(root, pytestconfig):
    skipped = pytestconfig.getini("norecursedirs")
    folders = [path.name for path in (root / "tests").iterdir() if any(path.glob("test_*.py"))]
    assert len(folders) >= 4 and not [name for name in folders if any(fnmatch.fnmatch(name, pattern) for pattern in skipped)]
