"""The download helper: its commands as printed, and run against an `egoexo` that only pretends."""

import json
import shlex
import stat
import sys

import pytest
from data_samples import data_command

from dataset_preprocess.download_egoexo import PARTS, plan
from dataset_preprocess.errors import RecordingError

# Writes what each part would bring, notes its arguments, and fails for uids and parts named in FAIL.
FAKE = """#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
value = lambda flag: words[words.index(flag) + 1]
def values(flag):
    rest = words[words.index(flag) + 1:] if flag in words else []
    return rest[:next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))]
out, part, uids = pathlib.Path(value("-o")), value("--parts"), values("--uids")
with open(os.environ["EGOEXO_LOG"], "a") as log:
    log.write(json.dumps(words) + "\\n")
if "-y" not in words:
    input("really? ")
fail = os.environ.get("EGOEXO_FAIL", "").split()
if part in fail or set(uids) & set(fail):
    sys.exit(7)
def put(name, text="{{}}"):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
cameras = dict(cameras=[dict(cam_id="aria01", is_ego=True)])
takes = [dict(take_uid=f"u{{i}}", take_name=f"take_{{i}}", capture=cameras) for i in range(5)]
if "EGOEXO_EMPTY" in os.environ:
    sys.exit(0)
if part == "metadata":
    put("takes.json", json.dumps(takes))
if part == "annotations":
    put("annotations/ego_pose/train/camera_pose/u0.json")
if part == "ego_pose_pseudo_gt":
    put("annotations/ego_pose/train/body/automatic/u0.json")
for take in takes:
    if not uids or take["take_uid"] in uids:
        if part == "downscaled_takes/448":
            put(f"takes/{{take['take_name']}}/frame_aligned_videos/downscaled/448/aria01_214-1.mp4")
        if part == "take_vrs_noimagestream":
            put(f"takes/{{take['take_name']}}/aria01_noimagestreams.vrs")
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """A fake downloader on PATH; returns the commands it was given so far."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "egoexo"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("EGOEXO_LOG", str(tmp_path / "log"))
    return lambda: [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def parts_of(calls):
    return [words[words.index("--parts") + 1] for words in calls]


def test_the_plan_fetches_what_the_scripts_read(tmp_path, capsys):
    assert data_command("download", tmp_path / "raw", "--s3-profile", "mine") == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert parts_of(lines) == list(PARTS)
    for words in lines:
        assert words[:3] == ["egoexo", "-o", str(tmp_path / "raw")] and words[-1] == "-y"
        assert words[words.index("--s3_profile") + 1] == "mine" and words[words.index("--release") + 1] == "v2"
        assert ("--views" in words) == ("downscaled_takes/448" in words)
    assert not (tmp_path / "raw").exists(), "printing changes nothing"
    assert data_command("download", tmp_path / "raw", "--need", "poses") == 0
    shown = capsys.readouterr().out
    assert "ego_pose_pseudo_gt" in shown and "take_vrs" not in shown


def test_takes_come_in_batches(tmp_path):
    steps = plan(tmp_path, ["metadata", "take_vrs_noimagestream"], uids=list("abcde"), batch=2)
    assert [step.uids for step in steps] == [(), ("a", "b"), ("c", "d"), ("e",)]


def test_a_failed_step_is_told_and_only_it_is_repeated(tmp_path, calls, monkeypatch, capfd):
    monkeypatch.setenv("EGOEXO_FAIL", "annotations")
    assert data_command("download", tmp_path / "raw", "--run") == 1
    assert "annotations: failed: egoexo ended with code 7" in capfd.readouterr().out
    assert parts_of(calls()) == list(PARTS), "the other parts were fetched all the same"
    monkeypatch.delenv("EGOEXO_FAIL")
    assert data_command("download", tmp_path / "raw", "--run") == 0
    assert parts_of(calls())[len(PARTS) :] == ["annotations"]
    assert data_command("download", tmp_path / "raw", "--run", "--force") == 0
    assert len(calls()) == 2 * len(PARTS) + 1


def test_success_without_files_is_no_success(tmp_path, calls, monkeypatch, capfd):
    monkeypatch.setenv("EGOEXO_EMPTY", "1")
    assert data_command("download", tmp_path / "raw", "--run", "--parts", "metadata") == 1
    assert "holds nothing of metadata" in capfd.readouterr().out


def test_only_missing_asks_for_the_takes_that_lack_something(tmp_path, calls, monkeypatch, capfd):
    raw = tmp_path / "raw"
    assert data_command("download", raw, "--run", "--need", "frames") == 0
    (raw / "takes/take_1/aria01_noimagestreams.vrs").unlink()
    (raw / "takes/take_3/aria01_noimagestreams.vrs").rename(raw / "takes/take_3/aria01_noimagestreams.calib.json")
    before = len(calls())
    monkeypatch.setenv("EGOEXO_FAIL", "u1")
    assert data_command("download", raw, "--run", "--only-missing") == 1
    monkeypatch.delenv("EGOEXO_FAIL")
    assert data_command("download", raw, "--run", "--only-missing") == 0
    new = calls()[before:]
    assert parts_of(new) == ["take_vrs_noimagestream"] * 2
    assert all(words[words.index("--uids") + 1 : -1] == ["u1"] for words in new)
    assert data_command("download", raw, "--run", "--only-missing") == 0 and len(calls()) == before + 2


def test_calibration_only_never_fetches_all_recordings_at_once(tmp_path, calls, monkeypatch, capfd):
    monkeypatch.setattr("dataset_preprocess.download_egoexo.keep_calibrations", lambda out: None)
    raw = tmp_path / "raw"
    words = ("download", raw, "--run", "--parts", "take_vrs_noimagestream", "--calibration-only", "--batch", 2)
    assert data_command(*words) == 0
    assert parts_of(calls()) == ["metadata", *["take_vrs_noimagestream"] * 3], "takes.json comes first"
    assert [len(w[w.index("--uids") + 1 : -1]) for w in calls()[1:]] == [2, 2, 1]
    monkeypatch.setenv("EGOEXO_EMPTY", "1")
    (raw / "takes/take_2/aria01_noimagestreams.vrs").unlink()
    assert data_command(*words, "--force") == 0
    assert "not in this release: take_vrs_noimagestream of take_2" in capfd.readouterr().out


def test_takes_by_name(tmp_path, calls, capfd):
    raw = tmp_path / "raw"
    (tmp_path / "list.txt").write_text("take_4\nu0\n")
    words = ("download", raw, "--run", "--need", "frames", "--takes-file", tmp_path / "list.txt")
    assert data_command(*words) == 0
    assert sorted(path.name for path in (raw / "takes").iterdir()) == ["take_0", "take_4"]
    with pytest.raises(RecordingError, match="no take 'nobody'"):
        data_command("download", raw, "--takes", "nobody")


def test_without_the_downloader_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecordingError, match="pip install ego4d"):
        data_command("download", tmp_path / "raw", "--run")


def test_calibration_is_kept_and_the_recording_removed(tmp_path, shared_data):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    import shutil

    from dataset_preprocess.aria.calibration import read_calibration
    from dataset_preprocess.download_egoexo import keep_calibrations

    folder = tmp_path / "takes" / "t"
    folder.mkdir(parents=True)
    shutil.copy(shared_data / "aria_gen1/adt/video.vrs", folder / "aria01_noimagestreams.vrs")
    (folder / "aria02_noimagestreams.vrs").write_text("cut off")
    assert "aria02_noimagestreams.vrs" in keep_calibrations(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["aria01_noimagestreams.calib.json", "aria02_noimagestreams.vrs"]
    expected = read_calibration(shared_data / "aria_gen1/calib_json/video.calib.json")
    assert read_calibration(folder / "aria01_noimagestreams.calib.json").sensor == expected.sensor
