"""An exported model used by a stranger: a fresh process without this package computes the features that the package computes."""

import ast
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from data_samples import picture
from export_samples import save_run
from PIL import Image
from safetensors.torch import load_file
from train_samples import tiny_config

from internlm.checkpoint.manager import CheckpointError, CheckpointManager
from internlm.cli import main
from internlm.commands.export import hf_models_folder
from internlm.config.resolve import parse_config
from internlm.data.evaluation import evaluation_images
from internlm.data.frames import open_images
from internlm.data.store import StoreWriter, TakeInfo, TakeStore
from internlm.data.view import MEAN, STD, normalise
from internlm.export import hub
from internlm.export import write as export
from internlm.export.errors import ExportError
from internlm.export.sources import exported_sources
from internlm.export.write import export_model
from internlm.systems.egoagent.hf.describe import describe
from internlm.systems.egoagent.upstream.reading import UpstreamError
from internlm.systems.resolve import build_system, load_system

pytestmark = pytest.mark.timeout(900)  # three processes import torch and transformers anew, which a busy machine takes long for

# Finds features with nothing but the folder. The package is made impossible to find, however it is installed.
STRANGER = """
import io, json, sys
from pathlib import Path
folder, frames, out = map(Path, sys.argv[1:])
sys.path = [entry for entry in sys.path if not (Path(entry or ".") / "internlm").exists()]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")
                 and "__editable__" not in str(finder)]
try:
    import internlm
    raise SystemExit("the package is still there: " + str(internlm.__path__))
except ModuleNotFoundError:
    pass
import numpy as np, torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
images = [Image.open(path) for path in sorted(frames.iterdir())]
with torch.no_grad():
    found = model(**processor(images))
features = {"state": found.pooler_output, "bottleneck": found.bottleneck, "patch": found.last_hidden_state[:, :-1].mean(1)}
save_file({name: value.contiguous() for name, value in features.items()}, out)

array = np.asarray(images[0].convert("RGB"))
same = [array, torch.from_numpy(array.copy()).movedim(-1, 0), Image.fromarray(array).convert("RGBA"), array[None], [array]]
first = processor(array).pixel_values
facts = {"same": [bool(torch.equal(processor(image).pixel_values, first)) for image in same]}
facts["numpy"] = type(processor(array, return_tensors="np")["pixel_values"]).__name__
for name, bad in (("16-bit", Image.fromarray(np.zeros((40, 40), np.uint16))), ("float", array / 255.0), ("empty", [])):
    try:
        processor(bad)
        facts[name] = "accepted"
    except ValueError as error:
        facts[name] = str(error)
try:
    type(processor)(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 99})
    facts["view"] = "accepted"
except ValueError as error:
    facts["view"] = str(error)
json.dump(facts, sys.stdout)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One rendered take of three frames."""
    path = tmp_path_factory.mktemp("data") / "world"
    frames = [(number, cv2.imencode(".png", picture(number, 40, 56))[1].tobytes()) for number in range(3)]
    StoreWriter(path).add_take(TakeInfo("take", "take", "train", 30.0, None, None, source="egoworld"), frames)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, store):
    """A finished run with one result of its last step, one of an earlier step, and a file that is no result."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(folder, job_name="tiny", data={"images": [str(store)]})
    save_run(folder, config)
    figure = {"name": "kNN top-1", "unit": "%", "floors": {"raw pixels": 21.25}, "higher_is_better": True, "meaning": ""}
    for name, step, value in (("knn", 8, 34.5), ("early", 3, 99.9)):
        result = {"task": "knn", "model": {"step": step}, "protocol": {"vote": "exp"}, "figures": [figure | {"value": value}]}
        (folder / f"{name}.json").write_text(json.dumps(result))
    (folder / "other.json").write_text('{"task": "knn"}')
    return folder


@pytest.fixture
def unchecked(monkeypatch):
    """Skip the child process that loads the folder; what it says has tests of its own."""
    monkeypatch.setattr(hub, "check_hf", lambda *_: {"pooler_output": 0.0})


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The predictor, written and checked as the command does."""
    out = tmp_path_factory.mktemp("exports") / "predictor"
    assert main(["export", str(run), str(out), "--network", "predictor"]) == 0
    return out


def stranger(folder, frames, tmp_path) -> tuple[dict, dict]:
    """Features of image files, and what the image processor does with odd inputs, in a process without the package."""
    out = tmp_path / "features.safetensors"
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-I", "-c", STRANGER, str(folder), str(frames), str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return load_file(out), json.loads(done.stdout)


@torch.no_grad()
def package_features(network, source) -> dict[str, torch.Tensor]:
    """The package's own way from a source of images to features."""
    views = torch.cat([batch.images for batch in evaluation_images(source, network.config.image_size, 4)])
    patches, state = network.tokens(normalise(views))
    return {"state": state, "patch": patches.mean(1), "bottleneck": network.head.bottleneck(state)}


def write_frames(folder, images: list[bytes], suffix):
    folder.mkdir()
    for index, data in enumerate(images):
        (folder / f"{index:03d}{suffix}").write_bytes(data)
    return folder


def test_a_stranger_finds_the_packages_features(exported, run, tmp_path):
    shapes = [(40, 56), (200, 30), (16, 16), (17, 90)]
    encoded = [cv2.imencode(".png", picture(i, *shape))[1].tobytes() for i, shape in enumerate(shapes)]
    frames = write_frames(tmp_path / "frames", encoded, ".png")
    found, facts = stranger(exported, frames, tmp_path)
    expected = package_features(load_system(run)[0].branch("predictor"), open_images([frames]))
    for kind, values in found.items():
        torch.testing.assert_close(values, expected[kind], rtol=0, atol=1e-5)
        assert (expected[kind][0] - expected[kind][1]).abs().max() > 1e-2  # features that differ between images
    assert facts["same"] == [True] * 5 and facts["numpy"] == "ndarray"
    assert "I;16" in facts["16-bit"] and "float64" in facts["float"] and "no images" in facts["empty"]
    assert "shortest_edge" in facts["view"] and "99" in facts["view"]


def test_the_same_on_real_aria_frames(run, shared_data, tmp_path, unchecked):
    pytest.importorskip("projectaria_tools", reason="projectaria-tools is not installed")
    recordings = sorted((shared_data / "aria_gen1").glob("*/*.vrs"))
    if not recordings:
        pytest.skip(f"no Aria recordings in {shared_data}")
    assert main(["data", "vrs", str(tmp_path / "store"), *map(str, recordings), "--size", "128"]) == 0
    source = open_images([tmp_path / "store"])
    data = [take.read_frame(n) for take in TakeStore(tmp_path / "store").select() for n in take.frame_numbers.tolist()]
    frames = write_frames(tmp_path / "frames", data, ".jpg")
    out = export_model(run, tmp_path / "observer").path
    found, _ = stranger(out, frames, tmp_path)
    expected = package_features(load_system(run)[0].branch("observer"), source)
    assert len(data) == 15 and all(len(values) == 15 for values in found.values())
    for kind, values in found.items():
        torch.testing.assert_close(values, expected[kind], rtol=0, atol=1e-5)


def without_imports(text: str) -> str:
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if not isinstance(node, ast.ImportFrom)]
    return ast.unparse(tree)


def test_the_exported_code_is_the_packages_own(exported, run, root):
    described = describe(load_system(run)[0].branch("predictor"), "predictor")
    sources = exported_sources(described.entries, described.replaced)
    assert {f"{name}.py" for name in ("modeling_egoagent", "network", "backbone", "layout", "frames", "view")} <= sources.keys()
    folder = {path.name: path.read_text() for path in exported.glob("*.py")}
    assert folder == sources
    for name, text in sources.items():
        for part in ("systems.egoagent.hf", "systems.egoagent", "trunk", "modality", "core", "data", "config"):
            if (path := root.joinpath("internlm", *part.split("."), name)).is_file():
                break
        original = path.read_text()
        assert without_imports(text) == without_imports(original), name
        changed = [line for line in text.splitlines() if line not in original.splitlines()]
        assert all(line.lstrip().startswith("from .") for line in changed), (name, changed)
        assert not [line for line in text.splitlines() if "import" in line.split() and "internlm" in line], name


def test_configuration_and_preprocessing_say_what_the_run_says(exported, run):
    config = load_system(run)[0].config
    written = json.loads((exported / "config.json").read_text())
    assert {name: written[name] for name in type(config.model).model_fields} == config.model.model_dump(mode="json")
    assert (written["network"], written["actions"]) == ("predictor", True)
    view = json.loads((exported / "preprocessor_config.json").read_text())
    assert view["size"] == {"shortest_edge": round(16 * 256 / 224)} and view["crop_size"] == {"height": 16, "width": 16}
    assert view["image_mean"] == list(MEAN) and view["image_std"] == list(STD) and view["resample"] == 3


def test_the_card_says_what_it_is_and_what_it_reaches(exported):
    card = (exported / "README.md").read_text()
    assert "# tiny, predictor at step 8" in card and "Synthetic data" in card and "**Small data.** 3 training images" in card
    assert "34.5" in card and "floor: raw pixels" in card and "21.25" in card and '"vote": "exp"' in card
    assert "99.9" not in card and "early.json" not in card
    record = json.loads((exported / "export.json").read_text())
    assert record["formats"] == ["hf"] and max(record["largest_difference"]["hf"].values()) <= 1e-5
    assert {"pooler_output", "last_hidden_state", "pixel_values", "predict.action"} <= record["largest_difference"]["hf"].keys()


def test_the_card_of_data_that_is_gone_says_so(tmp_path, unchecked):
    run = save_run(tmp_path / "run", tiny_config(tmp_path / "run", data={"images": [str(tmp_path / "gone")]}))
    card = (export_model(run, tmp_path / "out").path / "README.md").read_text()
    assert "Training data not at hand" in card and "not readable at export" in card and "No evaluation of this step" in card


def test_the_card_shows_how_the_next_motion_is_asked_for(exported, run, tmp_path, unchecked):
    """Its example runs as it is, and names what every tensor's axes are."""
    from internlm.systems.egoagent.hf.configuration_egoagent import EgoAgentConfig
    from internlm.systems.egoagent.hf.modeling_egoagent import EgoAgentModel

    card = (exported / "README.md").read_text()
    example = next(block for block in card.split("```python\n") if "model.predict" in block).partition("```")[0]
    for name in ("images", "poses", "visible", "past_poses", "past_visible"):
        assert f"    {name}=" in example and "[B, T, " in example.partition(f" {name}=")[2].partition("\n")[0]
    shape = json.loads((exported / "config.json").read_text())
    names: dict = {"model": EgoAgentModel(EgoAgentConfig(**shape)).eval()}
    exec(example, names)
    read, steps = names["read"], names["T"]
    poses = (1, steps, shape["poses_per_step"], shape["num_joints"])
    assert read.action.shape == (*poses, 3) and read.visibility.shape == poses
    assert read.state.shape == (1, steps, shape["hidden_size"])
    observer = (export_model(run, tmp_path / "observer").path / "README.md").read_text()
    assert "model.predict" not in observer
    program = export_model(run, tmp_path / "program", branch="predictor", formats=["torch-export"]).path
    assert "model.predict" not in (program / "README.md").read_text()


def test_the_card_is_the_same_from_another_folder(tmp_path, monkeypatch, unchecked):
    """What it says of the data does not depend on where the command was given."""
    home = tmp_path / "home"
    frames = [(number, cv2.imencode(".png", picture(number, 40, 56))[1].tobytes()) for number in range(3)]
    StoreWriter(home / "demo" / "world").add_take(TakeInfo("take", "take", "train", 30.0, None, None, source="egoworld"), frames)
    monkeypatch.chdir(home)
    save_run(home / "runs" / "a", tiny_config("runs/a", data={"images": ["demo/world"]}))
    here = (export_model("runs/a", "out").path / "README.md").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = export_model("../home/runs/a", tmp_path / "out2").path
    assert (there / "README.md").read_text() == here and "data `demo/world` | 3 images" in here
    assert str(tmp_path) not in (there / "training_config.yaml").read_text(), "a folder for others names no place of this machine"
    assert load_system(there)[0].config.data.images == ("../home/demo/world",)


def test_an_export_is_a_checkpoint_for_single_images(exported, run):
    system, step = load_system(exported)
    original = load_system(run)[0].branch("predictor")
    assert (step, system.config.stage, system.config.job_name) == (8, "pretrain", "tiny")
    images = torch.randn(2, 3, 16, 16)
    for name in system.branches:
        assert torch.equal(system.branch(name).encode(images), original.encode(images))


def test_an_export_names_its_system_and_an_earlier_one_is_egoagents(run, tmp_path, unchecked):
    out = export_model(run, tmp_path / "out").path
    record = json.loads((out / "export.json").read_text())
    assert record.pop("system") == "egoagent"
    (out / "export.json").write_text(json.dumps(record))
    query = load_file(out / "model.safetensors")["network.state_query"]
    assert torch.equal(load_system(out)[0].branch("observer").state_query, query)
    for damaged in ("{", "[]"):
        (out / "export.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"export\.json is damaged"):
            load_system(out)


def test_a_stage_one_predictor_leaves_its_untrained_action_parts_behind(tmp_path, unchecked):
    run = save_run(tmp_path / "run", tiny_config(tmp_path / "run", stage="pretrain"))
    out = export_model(run, tmp_path / "out", branch="predictor").path
    names = load_file(out / "model.safetensors").keys()
    assert not [name for name in names if "pose" in name or "action" in name]
    assert json.loads((out / "config.json").read_text())["actions"] is False


@pytest.mark.parametrize("difference", [2e-3, float("nan")])
def test_a_folder_with_other_outputs_is_not_kept(run, tmp_path, monkeypatch, difference):
    monkeypatch.setattr(hub, "check_hf", lambda *_: {"pooler_output": 0.0, "bottleneck": difference})
    with pytest.raises(ExportError, match="format hf differs from the network by .*bottleneck"):
        export_model(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_the_earlier_one(run, tmp_path, monkeypatch, unchecked):
    first = export_model(run, tmp_path / "out", branch="observer").path
    before = {path.name: path.read_bytes() for path in first.iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "model_card", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_model(run, tmp_path / "out", branch="predictor", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before
    # Killed between the two renames, with an unfinished folder beside: the earlier one is still known as an export.
    first.rename(tmp_path / ".replaced-out")
    (tmp_path / ".partial-out").mkdir()
    export_model(run, tmp_path / "out", branch="predictor", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((first / "export.json").read_text())["network"] == "predictor"


def test_what_is_at_the_target_is_safe(run, exported, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for out, options, says in ((tmp_path / "notes", ["--overwrite"], "is not an export"), (exported, [], "--overwrite")):
        assert main(["export", str(run), str(out), *options]) == 2
        assert says in capsys.readouterr().err
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_what_cannot_be_exported_is_named(run, exported, tmp_path, monkeypatch, unchecked):
    with pytest.raises(ExportError, match="none does not exist"):
        export_model(tmp_path / "none", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        export_model(tmp_path, tmp_path / "out")
    forecaster = build_system(parse_config({"system": "forecaster", "train": {"clip_batch": 4, "image_batch": 0}}))
    parts = {name: part.module.state_dict() for name, part in forecaster.parts().items()}
    poses = tmp_path / "poses"
    CheckpointManager(poses).save(1, parts, {"config": forecaster.config.model_dump(mode="json")})
    with pytest.raises(ExportError, match="poses is of system 'forecaster'; this needs a run of one that hands its branches on"):
        export_model(poses, tmp_path / "out")
    shutil.rmtree(poses)
    with pytest.raises(ExportError, match="no network 'teacher'; choose from observer, predictor"):
        export_model(run, tmp_path / "out", branch="teacher")
    with pytest.raises(ExportError, match="'coreml' is unknown; choose from hf"):
        export_model(run, tmp_path / "out", formats=["coreml"])
    with pytest.raises(ExportError, match="measured at step 3, the exported weights are of step 8"):
        export_model(run, tmp_path / "out", results=[run / "early.json"])
    with pytest.raises(ExportError, match="is not a result"):
        export_model(run, tmp_path / "out", results=[run / "other.json"])
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name, *_: None)
        with pytest.raises(ModuleNotFoundError, match=r"onnx: pip install 'egoagent\[export\]'"):
            export_model(run, tmp_path / "out", formats=["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_folder_is_named(run, tmp_path, unchecked):
    out = export_model(run, tmp_path / "out").path
    weights = (out / "model.safetensors").read_bytes()
    for damaged, says in ((weights[:-100], "cut short"), (weights[:5], "cut short"), (b"", "cut short")):
        (out / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"model\.safetensors is missing, {says}"):
            load_system(out)
    (out / "model.safetensors").write_bytes(weights)
    (out / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_system(out)


def test_a_folder_that_a_stranger_cannot_load_is_an_error(run, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("import sys\nassert sys.flags.isolated\nraise SystemExit('no such layer: ' + sys.argv[1])")
    described = describe(load_system(run)[0].branch("observer"), "observer")
    with pytest.raises(ExportError, match="cannot be loaded without this package:\nno such layer: .*here"):
        hub.check_hf(tmp_path / "here", replace(described, check=script))


def test_upstreams_arguments(run, tmp_path, root, unchecked, capsys):
    source = save_run(tmp_path / "save_ckpt" / "job", tiny_config(tmp_path / "run"))
    assert hf_models_folder(source) == tmp_path / "hf_models" / "job"
    assert hf_models_folder(tmp_path / "save_ckpt" / "a" / "120") == tmp_path / "hf_models" / "a" / "120"
    assert main(["export", "--src_folder", str(source), "--remove_vq_embed"]) == 0
    assert (tmp_path / "hf_models" / "job" / "model.safetensors").is_file()
    assert main(["export", str(run), "--src_folder", str(source)]) == 2
    assert main(["export", str(run)]) == 2
    assert main(["export", str(run), str(tmp_path / "o"), "--rename", "(=x"]) == 2
    said = capsys.readouterr().err
    assert "given twice" in said and "give the folder to write" in said and "not a regular expression" in said
    script = ast.parse((root / "tools" / "convert2hf_dino_conv_stem_cls.py").read_text())
    assert '["export", *sys.argv[1:]]' in ast.unparse(script).replace("'", '"')


def test_an_upstream_folder_exports_its_own_weights(tmp_path, unchecked):
    from upstream_samples import MODEL, network, write

    student, teacher = network(0), network(1)
    folder = write(tmp_path / "save_ckpt" / "job" / "9", student.state_dict(), ranks=2)
    out = export_model(folder, tmp_path / "student").path
    assert torch.equal(load_file(out / "model.safetensors")["network.state_query"], student.state_query)
    assert "Imported weights" in (out / "README.md").read_text()
    with pytest.raises(UpstreamError, match="has no teacher beside it"):
        export_model(folder, tmp_path / "teacher", branch="observer")
    write(tmp_path / "save_ckpt" / "job_teacher" / "9", teacher.state_dict())
    out = export_model(folder, tmp_path / "teacher", branch="observer").path
    assert torch.equal(load_file(out / "model.safetensors")["network.state_query"], teacher.state_query)
    assert load_system(out)[0].config.model == MODEL


def test_pictures_reach_the_network_as_eight_bit_rgb():
    """The reading that the stranger does with Pillow and the package does with its own decoder is the same."""
    from internlm.data.frames import decode

    buffer = io.BytesIO()
    Image.fromarray(picture(1, 64, 80)).save(buffer, "JPEG", quality=90)
    np.testing.assert_array_equal(decode(buffer.getvalue()), np.asarray(Image.open(buffer).convert("RGB")))
