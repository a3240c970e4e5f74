"""The encoder as a torch.export program and as an ONNX graph: the same outputs at any batch, or no file."""

import numpy as np
import pytest
import torch
from export_samples import save_run
from safetensors.torch import load_file
from train_samples import SIZE, tiny_config

from internlm.cli import main
from internlm.export import hub, programs
from internlm.export.errors import ExportError
from internlm.export.write import export_model
from internlm.systems.resolve import load_system


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Block attention, so that the program must carry a mask along."""
    folder = tmp_path_factory.mktemp("run")
    return save_run(folder, tiny_config(folder, model={"sequence": "block"}))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "programs"
    assert main(["export", str(run), str(out), "--format", "torch-export", "onnx"]) == 0
    return out


def expected(run, pixels) -> list[torch.Tensor]:
    observer = load_system(run)[0].branch("observer")
    with torch.no_grad():
        patches, state = observer.tokens(pixels)
        return [state, patches, observer.head.bottleneck(state)]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_torch_program_gives_the_networks_outputs(exported, run, batch):
    program = torch.export.load(exported / "encoder.pt2").module()
    pixels = torch.randn(batch, 3, SIZE, SIZE)
    for found, wanted in zip(program(pixels), expected(run, pixels), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_onnx_graph_gives_the_networks_outputs(exported, run, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "encoder.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("pixel_values", ["batch", 3, SIZE, SIZE])
    assert [output.name for output in session.get_outputs()] == ["state", "patches", "bottleneck"]
    pixels = torch.randn(batch, 3, SIZE, SIZE)
    for found, wanted in zip(session.run(None, {given.name: pixels.numpy()}), expected(run, pixels), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


def test_the_size_is_fixed(exported):
    program = torch.export.load(exported / "encoder.pt2").module()
    with pytest.raises(Exception, match="shape|size|Guard"):
        program(torch.randn(1, 3, 2 * SIZE, 2 * SIZE))


def test_programs_alone_need_no_code(exported):
    programs_and_papers = {"encoder.pt2", "encoder.onnx", "preprocessor_config.json"}
    programs_and_papers |= {"training_config.yaml", "export.json", "README.md"}
    assert {path.name for path in exported.iterdir()} == programs_and_papers


def test_a_program_of_other_weights_is_refused(run, tmp_path, monkeypatch):
    system, _ = load_system(run)
    other = programs.Encoder(system, system.fresh_branch(), system.outputs)
    trace = programs.trace
    monkeypatch.setattr(programs, "trace", lambda encoder: trace(other))
    with pytest.raises(ExportError, match="format torch-export differs"):
        export_model(run, tmp_path / "out", formats=["torch-export"])
    assert list(tmp_path.iterdir()) == []


def test_a_check_sees_a_wrong_shape_and_no_number(run):
    system, _ = load_system(run)
    encoder = programs.Encoder(system, system.branch("observer"), system.outputs)

    def halved(pixels):
        return tuple(output[..., :1] for output in encoder(pixels))

    def lost(pixels):
        return tuple(output * float("nan") for output in encoder(pixels))

    assert not max(programs.differences(encoder, halved).values()) < 1e9
    assert not max(programs.differences(encoder, lost).values()) < 1e9
    assert max(programs.differences(encoder, encoder).values()) == 0


def test_a_program_gives_the_features_that_it_is_asked_for(run):
    """Of any system that embeds, in any order."""
    system, _ = load_system(run)
    encoder = programs.Encoder(system, system.branch("observer"), ("bottleneck", "patch"))
    program, pixels = programs.trace(encoder).module(), torch.randn(3, 3, SIZE, SIZE)
    wanted = system.embed(system.branch("observer"), pixels, system.features)
    for found, name in zip(program(pixels), ("bottleneck", "patch"), strict=True):
        torch.testing.assert_close(found, wanted[name].detach(), rtol=0, atol=1e-5)


def test_all_formats_lie_in_one_folder(run, tmp_path, monkeypatch):
    """--format all; the check of the Hugging Face folder has its own tests."""
    monkeypatch.setattr(hub, "check_hf", lambda *_: {"pooler_output": 0.0})
    assert main(["export", str(run), str(tmp_path / "out"), "--format", "all"]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"| {name} |" in card for name in ("hf", "torch-export", "onnx"))
    assert load_file(tmp_path / "out" / "model.safetensors").keys()
    assert {"encoder.pt2", "encoder.onnx", "modeling_egoagent.py"} <= {path.name for path in (tmp_path / "out").iterdir()}
