"""The name of the demo's world: it follows everything that its takes are made by."""

import shutil
from pathlib import Path

from internlm import egoworld
from internlm.data import camera
from internlm.demo import run as demo


def test_any_change_of_the_code_that_makes_a_world_gives_it_another_name(tmp_path, monkeypatch):
    copy = shutil.copytree(Path(egoworld.__file__).parent, tmp_path / "egoworld")
    rays = Path(shutil.copy(camera.__file__, tmp_path / "camera.py"))
    before = demo._digest({"seed": 1})
    monkeypatch.setattr(egoworld, "__file__", str(copy / "__init__.py"))
    monkeypatch.setattr(camera, "__file__", str(rays))
    assert demo._digest({"seed": 1}) == before != demo._digest({"seed": 2}), "where the package lies does not count"
    files = [*copy.rglob("*.py"), *copy.rglob("*.json"), rays]
    assert {path.parent.name for path in files} == {tmp_path.name, "egoworld", "textures"}
    assert {"furniture.json", "things.json", "patterns.json"} <= {path.name for path in files}
    for path in files:
        code = path.read_bytes()
        path.write_bytes(code + b"\n# changed\n")
        assert demo._digest({"seed": 1}) != before, path
        path.write_bytes(code)
