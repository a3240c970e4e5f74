"""The name of the demo's world: it follows everything that its takes are made by."""

import shutil
from pathlib import Path

from internlm import egoworld
from internlm.demo import command as demo


def test_any_change_of_the_code_that_makes_a_world_gives_it_another_name(tmp_path, monkeypatch):
    source, copy = Path(egoworld.__file__).parent, tmp_path / "egoworld"
    shutil.copytree(source, copy)
    camera = tmp_path / "data" / "camera.py"
    camera.parent.mkdir()
    shutil.copy(source.parent / "data" / "camera.py", camera)
    before = demo._digest({"seed": 1})
    monkeypatch.setattr(egoworld, "__file__", str(copy / "__init__.py"))
    assert demo._digest({"seed": 1}) == before != demo._digest({"seed": 2}), "where the package lies does not count"
    files = [*copy.rglob("*.py"), camera]
    assert {path.parent.name for path in files} == {"data", "egoworld", "pieces", "textures"}
    for path in files:
        code = path.read_bytes()
        path.write_bytes(code + b"\n# changed\n")
        assert demo._digest({"seed": 1}) != before, path
        path.write_bytes(code)
