"""A run goes on in the folder that is given, with its own data, wherever that folder is and wherever the command starts."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from train_samples import batches, tiny_config

from internlm.cli import main
from internlm.config import yaml12
from internlm.config.errors import ConfigError
from internlm.config.load import load_config, save_config
from internlm.config.places import portable, record_of
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.resolve import load_system
from internlm.train.loop import train

DATA = {"images": ["demo/world"], "clips": ["demo/world", "more/clips"]}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project folder with data and the record of a run in it, and the working directory in it."""
    folder = tmp_path / "home"
    for path in ("demo/world", "more/clips"):
        (folder / path).mkdir(parents=True)
    monkeypatch.chdir(folder)
    write_run("runs/a")
    return folder


def write_run(run_dir, **sections) -> Config:
    config = tiny_config(run_dir, **{"data": DATA, **sections})
    (Path(run_dir) / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_config(config, Path(run_dir) / "config.yaml")
    return config


def old_record(path: Path) -> None:
    """As versions wrote it that did not say where the paths start from."""
    values = yaml12.parse(path.read_text())
    del values["paths_from"]
    path.write_text(yaml12.dump(values))


def seen(path, *overrides) -> tuple[str, set[str]]:
    """Run folder and data of a config, as real paths."""
    config = load_config(path, overrides)
    return os.path.realpath(config.run_dir), {os.path.realpath(path) for path in config.data.images + config.data.clips}


def data_of(home: Path) -> set[str]:
    return {str(home / "demo/world"), str(home / "more/clips")}


def test_from_its_own_directory_a_run_says_what_was_written(home, capsys):
    assert load_config("runs/a") == tiny_config("runs/a", data=DATA)
    assert load_config("runs/a/config.yaml") == tiny_config("runs/a", data=DATA)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("given", ["{}", "{}/", "{}/config.yaml"])
def test_a_copy_is_a_run_of_its_own(home, given, old):
    if old:
        old_record(home / "runs/a/config.yaml")
    shutil.copytree("runs/a", "runs/copy")
    assert seen(given.format("runs/copy")) == (str(home / "runs/copy"), data_of(home))
    assert seen("runs/copy", "run_dir=runs/other")[0] == str(home / "runs/other")


def test_a_copied_config_file_means_the_run_that_it_names(home):
    (home / "mine").mkdir()
    shutil.copy("runs/a/config.yaml", "mine/config.yaml")
    assert seen("mine/config.yaml") == (str(home / "runs/a"), data_of(home))
    assert seen("mine") == (str(home / "mine"), data_of(home))  # given as a run folder, it is one


@pytest.mark.parametrize("old", [False, True])
def test_from_another_directory(home, tmp_path, monkeypatch, capsys, old):
    if old:
        old_record(home / "runs/a/config.yaml")
    other = tmp_path / "other"
    (other / "demo/world").mkdir(parents=True)  # of the same name, and not the run's
    monkeypatch.chdir(other)
    for given in ("../home/runs/a", str(home / "runs/a")):
        assert seen(given) == (str(home / "runs/a"), data_of(home))
        assert str(home / "demo/world") in capsys.readouterr().err


@pytest.mark.parametrize("old", [False, True])
def test_a_run_and_its_data_that_moved_together(home, tmp_path, monkeypatch, old):
    if old:
        old_record(home / "runs/a/config.yaml")
    new = home.rename(tmp_path / "new")
    for where in (new, tmp_path):
        monkeypatch.chdir(where)
        assert seen(os.path.relpath(new / "runs/a")) == (str(new / "runs/a"), data_of(new))


def test_a_project_that_was_copied_uses_its_own_data(home, tmp_path, monkeypatch):
    shutil.copytree(home, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert seen("runs/a") == (str(tmp_path / "new/runs/a"), data_of(tmp_path / "new"))


def test_a_run_that_moved_alone(home, tmp_path, monkeypatch):
    far = tmp_path / "archive/2024/a"
    far.parent.mkdir(parents=True)
    shutil.move("runs/a", far)
    for where in (home, tmp_path, far):
        monkeypatch.chdir(where)
        assert seen(os.path.relpath(far)) == (str(far), data_of(home))


def test_a_run_on_another_disk_than_its_data(home, tmp_path, monkeypatch):
    write_run(str(tmp_path / "scratch/a"))
    monkeypatch.chdir(tmp_path)
    assert seen("scratch/a") == (str(tmp_path / "scratch/a"), data_of(home))
    shutil.move(tmp_path / "scratch/a", tmp_path / "scratch/deep/b")
    assert seen("scratch/deep/b") == (str(tmp_path / "scratch/deep/b"), data_of(home))


def test_through_links(home, tmp_path, monkeypatch):
    """A folder of runs that is a link to another disk, and a project seen through a link."""
    shutil.move(home / "runs", tmp_path / "disk")
    (home / "runs").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(home)
    for where in (home, tmp_path, tmp_path / "link"):
        monkeypatch.chdir(where)
        assert seen(tmp_path / "link/runs/a") == (str(tmp_path / "disk/a"), data_of(home))
        assert seen(home / "runs/a") == (str(tmp_path / "disk/a"), data_of(home))


def test_absolute_paths_stay(home, tmp_path, monkeypatch):
    write_run(str(home / "runs/b"), data={"images": [str(home / "demo/world")], "clips": []})
    shutil.move(home / "runs/b", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    config = load_config("b")
    assert (config.run_dir, config.data.images) == ("b", (str(home / "demo/world"),))


@pytest.mark.parametrize("old", [False, True])
def test_data_that_is_not_there_is_named_and_none_of_the_same_name_is_taken(home, tmp_path, monkeypatch, capsys, old):
    if old:
        old_record(home / "runs/a/config.yaml")
    shutil.rmtree("demo")
    monkeypatch.chdir(tmp_path)
    config = load_config("home/runs/a")
    said = capsys.readouterr().err
    assert f"data.images demo/world is not in {home}" in said and "data.images=[PATH]" in said
    assert os.path.abspath(config.data.images[0]) == str(home / "demo/world")
    load_config("home/runs/a", ["data.images=[here]", "data.clips=[here]"])
    assert capsys.readouterr().err == "", "what is given is not looked up"
    if not old:
        (tmp_path / "demo/world").mkdir(parents=True)
        assert os.path.abspath(load_config("home/runs/a").data.images[0]) == str(home / "demo/world")


def test_an_old_record_whose_place_says_nothing_is_read_as_before(home, tmp_path, monkeypatch):
    write_run(str(home / "runs/b"))
    old_record(home / "runs/b/config.yaml")
    assert seen("runs/b") == (str(home / "runs/b"), data_of(home))


def test_data_outside_the_working_directory(home, monkeypatch, tmp_path):
    """Trained from a folder below: the record names the folder that holds both, so that both can move."""
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    outside = {"images": ["../demo/world"], "clips": ["../demo/world", "../more/clips"]}
    config = write_run("runs/b", data=outside)
    assert load_config("runs/b") == config
    new = home.rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    assert seen("new/work/runs/b") == (str(new / "work/runs/b"), data_of(new))


def test_continued_from_elsewhere_a_run_records_the_same(home, tmp_path, monkeypatch):
    first = (home / "runs/a/config.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    save_config(load_config(home / "runs/a"), home / "runs/a/config.yaml")
    assert (home / "runs/a/config.yaml").read_text() == first
    new = home.rename(tmp_path / "new")
    assert seen(new / "runs/a") == (str(new / "runs/a"), data_of(new))


def test_a_launched_config_is_its_run_folders(home, tmp_path, monkeypatch, capsys):
    assert main(["launch", "runs/a", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"egoagent train {home}/runs/a/launch/config.yaml\n"
    config = load_config("runs/a", [f"run_dir={home}/runs/a"])
    (home / "runs/a/launch").mkdir()
    save_config(config, home / "runs/a/launch/config.yaml")
    shutil.move("runs/a", "runs/moved")
    (home / "runs/launch").mkdir()
    shutil.copytree("runs/moved", "runs/launch", dirs_exist_ok=True)
    for where in (home, tmp_path, home / "runs/moved/launch"):
        monkeypatch.chdir(where)
        given = os.path.relpath(home / "runs/moved/launch/config.yaml")
        assert seen(given) == (str(home / "runs/moved"), data_of(home))
        assert seen(home / "runs/launch") == (str(home / "runs/launch"), data_of(home)), "a run that is called so"


def test_launched_from_elsewhere(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["launch", "home/runs/a", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"egoagent train {home}/runs/a/launch/config.yaml\n"


def test_a_config_that_somebody_wrote_stays_of_the_working_directory(home, tmp_path, monkeypatch):
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("job_name: mine\nrun_dir: runs/mine\ndata: {images: [demo/world]}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config("home/mine")
    assert (config.run_dir, config.data.images) == ("runs/mine", ("demo/world",))


def test_a_record_as_base_gives_its_data(home, tmp_path, monkeypatch):
    Path("next.yaml").write_text("base: runs/a/config.yaml\nrun_dir: runs/next\noptim: {lr: 1.0}\n")
    monkeypatch.chdir(tmp_path)
    assert seen("home/next.yaml") == (str(tmp_path / "runs/next"), data_of(home))


def test_a_file_of_ones_own_may_say_where_its_paths_start(home, tmp_path, monkeypatch):
    Path("configs").mkdir()
    Path("configs/mine.yaml").write_text("paths_from: ..\ndata: {images: [demo/world]}\n")
    monkeypatch.chdir(tmp_path)
    assert os.path.realpath(load_config("home/configs/mine.yaml").data.images[0]) == str(home / "demo/world")
    Path("wrong.yaml").write_text("paths_from: [a]\nseed: 1\n")
    with pytest.raises(ConfigError, match=r"wrong\.yaml: paths_from is \['a'\]; it must be the folder"):
        load_config("wrong.yaml")


def test_stage_two_finds_stage_one(home, tmp_path, monkeypatch):
    write_run("runs/b", train={"init_from": "runs/a"})
    monkeypatch.chdir(tmp_path)
    assert os.path.realpath(load_config("home/runs/b").train.init_from) == str(home / "runs/a")


def test_a_folder_without_a_config(home):
    with pytest.raises(FileNotFoundError, match=r"demo/world holds no config\.yaml; give a config file, or a run folder"):
        load_config("demo/world")


def test_training_goes_on_in_the_folder_that_is_given(home, tmp_path, monkeypatch, caplog):
    """Trained, moved, continued from another directory: one run, and nothing changed but its place."""
    train(tiny_config("runs/a", data=DATA, train={"steps": 2}), batches=batches)
    shutil.copytree("runs/a", "runs/copy")
    shutil.move("runs/a", "runs/moved")
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    result = train(load_config("home/runs/moved", ["train.steps=3"]), batches=batches)
    assert result.step == 3 and (home / "runs/moved/checkpoints/step_000000003").is_dir()
    changed = [record.getMessage() for record in caplog.records if "config changed" in record.getMessage()]
    assert changed == ["config changed since the checkpoint: train.steps was 2, is 3"]
    assert not (home / "runs/a").exists() and not (tmp_path / "runs").exists()
    assert [path.name for path in (home / "runs/copy/checkpoints").iterdir()] == ["step_000000002"]
    for given in ("home/runs/moved", "home/runs/moved/checkpoints", "home/runs/moved/checkpoints/step_000000003"):
        system, step = load_system(given)
        assert step == 3 and {os.path.realpath(path) for path in system.config.data.clips} == data_of(home)


def test_an_evaluation_without_its_data_says_where_it_looked(home, monkeypatch, tmp_path, capsys):
    train(tiny_config("runs/a", data=DATA, train={"steps": 1}), batches=batches)
    shutil.rmtree("demo")
    monkeypatch.chdir(tmp_path)
    for task in ("knn", "retrieval", "motion"):
        assert main(["eval", task, "--run", "home/runs/a"]) == 2
        said = capsys.readouterr().err
        assert "home/demo/world, which is not there" in said and "--data" in said


def test_a_broken_record_is_still_a_config_error(home):
    Path("runs/a/config.yaml").write_text(Path("runs/a/config.yaml").read_text().replace("images: [demo/world]", "images: 3"))
    with pytest.raises(ConfigError, match=r"data\.images = 3"):
        load_config("runs/a")


PARTS = st.lists(st.sampled_from(["a", "b", "c", ".."]), min_size=1, max_size=4).map("/".join)


@settings(deadline=None, max_examples=100)
@hypothesis.given(images=st.lists(PARTS, max_size=3), run=PARTS, file=PARTS)
def test_what_is_recorded_is_found_again(tmp_path_factory, images, run, file):
    """Whatever the data's paths and the run folder are: read back, they mean the same places."""
    home = tmp_path_factory.mktemp("home") / "x" / "y" / "z" / "w" / "v"
    home.mkdir(parents=True)
    before = os.getcwd()
    try:
        os.chdir(home)
        wanted = {os.path.abspath(path) for path in images}
        for path in wanted:
            os.makedirs(path, exist_ok=True)
        run = os.path.join(run, "run")
        os.makedirs(run)
        save_config(Config(run_dir=run, data={"images": tuple(images)}), os.path.join(run, "config.yaml"))
        run = os.path.abspath(run)
        os.makedirs(file, exist_ok=True)
        os.chdir(file)
        config = load_config(os.path.relpath(run))
        assert {os.path.abspath(path) for path in config.data.images} == wanted and os.path.abspath(config.run_dir) == run
    finally:
        os.chdir(before)


def test_what_is_recorded_is_a_copy(home, monkeypatch):
    values = tiny_config("runs/a", data={"images": ["x"], "clips": []}).model_dump(mode="json")
    monkeypatch.chdir(home.parent)
    values["data"]["images"] = ["home/demo/world"]
    moved, base = portable(values, "home/runs/a")
    assert (values["data"]["images"], moved["data"]["images"]) == (["home/demo/world"], ["demo/world"])
    assert (moved["run_dir"], base) == ("runs/a", str(home))
    assert record_of(Path("x/config.yaml"), {"run_dir": "y"}) is None
