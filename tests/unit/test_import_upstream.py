"""Checkpoints in the published project's layout: shards joined to the bit, everything accounted for, nothing executed.

The writer below splits our weights as that project's tensor-parallel ranks hold them; a block run shard by shard says that
the split is the one such a run computes with.
"""

import pickle
import re
import sys
import types

import pytest
import torch

from internlm.checkpoint.manager import CheckpointManager
from internlm.cli import main
from internlm.export.errors import ExportError
from internlm.export.import_upstream import import_upstream
from internlm.export.reading import load_agent
from internlm.export.upstream import is_upstream, read_upstream
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.loss import JointLoss
from internlm.systems.egoagent.network import EgoAgent, EgoNetwork
from internlm.systems.egoagent.weights import init_from
from internlm.trunk.rope import RotaryEmbedding, rotate

HIDDEN, HEADS, LAYERS = 32, 4, 2
SECTION = {
    "hidden_size": HIDDEN, "num_layers": LAYERS, "num_attention_heads": HEADS, "mlp_ratio": 8 / 3, "layer_norm_epsilon": 1e-6,
    "output_dim": 20, "norm_type": "rmsnorm", "dtype": torch.float16, "perframe_atten": True, "use_cls_token": True,
    "lvm_config": {"enable": False, "enable_conv_stem": True, "conv_stem_config": {"img_size": 16, "patch_size": 8}},
}  # fmt: skip
MODEL = ModelConfig(
    hidden_size=HIDDEN, num_layers=LAYERS, num_heads=HEADS, image_size=16, local_image_size=8, patch_size=8,
    head_hidden=24, head_bottleneck=12, prototypes=20,
)  # fmt: skip
TRUNK = {
    "attention.qkv.": "mixer.Wqkv.", "attention.out.": "mixer.out_proj.", "mlp.gate.": "mlp.w1.", "mlp.up.": "mlp.w2.",
    "mlp.down.": "mlp.w3.", "attention_norm.": "norm1.", "mlp_norm.": "norm2.",
}  # fmt: skip


def network(seed=0, actions=False) -> EgoNetwork:
    """Random weights, biases and running statistics: nothing is 0 or 1 by its initialisation."""
    torch.manual_seed(seed)
    made = EgoNetwork(MODEL, actions=actions)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return made.eval()


def upstream_name(name: str) -> str:
    if name.startswith("backbone.blocks."):
        head, _, rest = name.removeprefix("backbone.").partition(".")[2].partition(".")
        ours = next(part for part in TRUNK if rest.startswith(part))
        return f"blocks.{head}.{TRUNK[ours]}{rest.removeprefix(ours)}"
    plain = {"backbone.norm.weight": "norm.weight", "state_query": "embedding.cls_token"}
    plain["head.prototypes"] = "head.last_layer.weight_v"
    if name in plain:
        return plain[name]
    return re.sub("^head.layers.", "head.mlp.", re.sub("^stem.layers.", "embedding.conv_stem.proj.", name))


def shard(name: str, tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor | None:
    """What one tensor-parallel rank holds of a tensor under upstream's name."""
    if ".Wqkv." in name:  # whole heads of each of q, k and v
        return torch.cat([block.chunk(ranks)[rank] for block in tensor.chunk(3)])
    if name.endswith((".w1.weight", ".w2.weight")):
        return tensor.chunk(ranks)[rank]
    if name.endswith((".w3.weight", ".out_proj.weight")):
        return tensor.chunk(ranks, dim=1)[rank]
    if name.endswith(".out_proj.bias") and rank:
        return None
    return tensor.view(1, 1, -1) if name.endswith("cls_token") else tensor


def write(folder, tensors, ranks=1, section=SECTION, extra=(), prefix="model."):
    """A step folder as upstream saves it, with the tensors beside the network that its files hold."""
    folder.mkdir(parents=True)
    computed = {f"blocks.{i}.mixer.rotary_emb.inv_freq": 10_000.0 ** -(torch.arange(0, 8, 2) / 8) for i in range(LAYERS)}
    computed["head.last_layer.weight_g"] = torch.ones(20, 1)
    computed["embedding.vq_model.quantize.embedding.weight"] = torch.zeros(4, 2)
    for rank in range(ranks):
        state = {upstream_name(name): shard(upstream_name(name), tensor, rank, ranks) for name, tensor in tensors.items()}
        state = {name: tensor.clone() for name, tensor in state.items() if tensor is not None} | computed | dict(extra)
        torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / f"model_tp{rank}_pp0.pt")
    if section is not None:
        torch.save(section, folder / "model_config.pt")
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_our_weights_come_back_to_the_bit(tmp_path, ranks):
    student, teacher = network(0, actions=True).state_dict(), network(1).state_dict()
    folder = write(tmp_path / "save_ckpt" / "job" / "120", student, ranks)
    write(tmp_path / "save_ckpt" / "job_teacher" / "120", teacher, ranks)
    done = import_upstream(folder, tmp_path / "out")
    agent, config, step = load_agent(tmp_path / "out")
    assert (step, config.stage, config.job_name, config.model) == (120, "joint", "job", MODEL)
    for part, given in (("predictor", student), ("observer", teacher)):
        read = getattr(agent, part).state_dict()
        assert read.keys() == given.keys()
        assert all(torch.equal(read[name], given[name]) and read[name].dtype == given[name].dtype for name in given)
    assert done.teacher.folder.parent.name == "job_teacher" and done.fresh == ()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_shards_compute_what_the_joined_block_computes(tmp_path, ranks):
    """Row-split q, k, v, gate and up on whole heads, column-split outputs summed over ranks: tensor parallelism by hand."""
    made = network(3)
    folder = write(tmp_path / "7", made.state_dict(), ranks, prefix="")
    states = [torch.load(folder / f"model_tp{rank}_pp0.pt", weights_only=True) for rank in range(ranks)]
    x = torch.randn(2, 5, HIDDEN) * 0.01
    table = RotaryEmbedding(HIDDEN // HEADS)(5, x.device)

    def attend(state):
        heads = HEADS // ranks
        normed = torch.nn.functional.rms_norm(x, (HIDDEN,), state["blocks.0.norm1.weight"], 1e-6)
        fused = normed @ state["blocks.0.mixer.Wqkv.weight"].T + state["blocks.0.mixer.Wqkv.bias"]
        q, k, v = (part.view(2, 5, heads, -1).transpose(1, 2) for part in fused.chunk(3, -1))
        mixed = torch.nn.functional.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v, is_causal=True)
        return mixed.transpose(1, 2).reshape(2, 5, -1) @ state["blocks.0.mixer.out_proj.weight"].T

    y = x + sum(attend(state) for state in states) + states[0]["blocks.0.mixer.out_proj.bias"]

    def feed(state):
        normed = torch.nn.functional.rms_norm(y, (HIDDEN,), state["blocks.0.norm2.weight"], 1e-6)
        gate, up = (normed @ state[f"blocks.0.mlp.{w}.weight"].T for w in ("w1", "w2"))
        return (torch.nn.functional.silu(gate) * up) @ state["blocks.0.mlp.w3.weight"].T

    expected = y + sum(feed(state) for state in states)
    joined = network(9)
    joined.load_state_dict(read_upstream(folder).tensors)
    torch.testing.assert_close(joined.backbone.blocks[0](x, table, None), expected, rtol=1e-5, atol=1e-6)


def test_stage_one_alone_has_fresh_action_parts_and_a_copied_observer(tmp_path):
    given = network().state_dict()
    done = import_upstream(write(tmp_path / "12", given), tmp_path / "out")
    agent, config, _ = load_agent(tmp_path / "out")
    assert config.stage == "pretrain" and done.teacher is None
    assert all(name.startswith(("action_query", "pose_")) for name in done.fresh) and done.fresh
    assert all(torch.equal(agent.observer.state_dict()[name], tensor) for name, tensor in given.items())
    again = import_upstream(tmp_path / "12", tmp_path / "again")
    for name, tensor in load_agent(again.path)[0].state_dict().items():
        assert torch.equal(tensor, agent.state_dict()[name]), name
    report = init_from(EgoAgent(MODEL), JointLoss(config.loss, MODEL.prototypes), tmp_path / "out")
    assert set(report.missing) >= {f"predictor.{name}" for name in done.fresh}


def test_a_job_folder_stands_for_its_newest_step(tmp_path):
    for step in (90, 100, 7):
        write(tmp_path / "job" / str(step), network(step).state_dict())
    found = read_upstream(tmp_path / "job")
    assert found.step == 100 and torch.equal(found.tensors["state_query"], network(100).state_query)
    assert is_upstream(tmp_path / "job") and not is_upstream(tmp_path) and not is_upstream(tmp_path / "none")


def test_half_precision_becomes_float32(tmp_path):
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in network().state_dict().items()}
    read = read_upstream(write(tmp_path / "1", halved)).tensors
    assert {tensor.dtype for name, tensor in read.items() if "num_batches" not in name} == {torch.float32}
    assert torch.equal(read["head.prototypes"], halved["head.prototypes"].float())


def test_a_config_saved_as_upstreams_own_class_is_read_without_it(tmp_path, monkeypatch):
    module = types.ModuleType("internlm.core.context.parallel_context")
    module.Config = type("Config", (dict,), {"__module__": module.__name__, "__qualname__": "Config"})
    section = module.Config(SECTION | {"lvm_config": module.Config(SECTION["lvm_config"])})
    section.note = "an attribute"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "internlm.core.context", types.ModuleType("internlm.core.context"))
        patch.setitem(sys.modules, module.__name__, module)
        folder = write(tmp_path / "1", network().state_dict(), section=section)
    assert read_upstream(folder).model == MODEL and module.__name__ not in sys.modules


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "1", network().state_dict())
    with (folder / "model_config.pt").open("wb") as file:
        torch.save(Bomb(), file)
    with pytest.raises(ExportError, match=r"model_config\.pt holds more than tensors"):
        read_upstream(folder)
    (folder / "model_tp0_pp0.pt").write_bytes(pickle.dumps({"model.norm.weight": Bomb()}))
    with pytest.raises(ExportError, match=r"model_tp0_pp0\.pt"):
        read_upstream(folder)
    assert "executed" not in capsys.readouterr().out


def test_missing_and_unknown_tensors_are_listed_and_can_be_renamed(tmp_path, capsys):
    given = network().state_dict()
    extra = {"embedding.summary": given["state_query"][None, None], "embedding.position": torch.zeros(3)}
    folder = write(tmp_path / "5", {name: t for name, t in given.items() if name != "state_query"}, extra=extra)
    with pytest.raises(ExportError) as refused:
        read_upstream(folder)
    text = str(refused.value)
    assert "state_query" in text and "embedding.summary" in text and "embedding.position" in text and "--rename" in text
    rename = ["--rename", r"embedding\.summary=cls_token", r"embedding\.position="]
    assert main(["import", str(folder), str(tmp_path / "out"), *rename]) == 0
    said = capsys.readouterr().out
    assert "inv_freq" in said and "vq_model" in said and "never trained" in said and "copy of the predictor" in said
    assert torch.equal(load_agent(tmp_path / "out")[0].predictor.state_query, given["state_query"])


def break_file(folder):
    path = folder / "model_tp0_pp0.pt"
    path.write_bytes(path.read_bytes()[:-200])


def change(name, function):
    def act(folder):
        state = torch.load(folder / "model_tp1_pp0.pt", weights_only=True)
        state[f"model.{name}"] = function(state[f"model.{name}"])
        torch.save(state, folder / "model_tp1_pp0.pt")

    return act


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda folder: (folder / "model_tp1_pp0.pt").unlink(), r"lacks model_tp1_pp0\.pt"),
        (lambda folder: [(folder / f"model_tp{i}_pp0.pt").unlink() for i in (2, 3)], "joined from 2 of the ranks' parts"),
        (lambda folder: [path.unlink() for path in folder.glob("model_tp*")], r"holds no model_tp<rank>"),
        (lambda folder: (folder / "model_tp0_pp1.pt").write_bytes(b""), "2 pipeline stages"),
        (lambda folder: (folder / "model_config.pt").unlink(), "--config FILE"),
        (lambda folder: torch.save([1], folder / "model_config.pt"), "holds a list"),
        (lambda folder: torch.save(SECTION | {"hidden": 1}, folder / "model_config.pt"), "unknown upstream key model.hidden"),
        (lambda folder: torch.save(SECTION | {"num_attention_heads": 8}, folder / "model_config.pt"), "frequencies of head size"),
        (lambda folder: torch.save({"model.a": 1}, folder / "model_tp0_pp0.pt"), "not a dict of tensors"),
        (break_file, "model_tp0_pp0.pt"),
        (change("norm.weight", lambda t: t + 1), "different copies of norm.weight"),
        (change("blocks.0.mlp.w1.weight", lambda t: t[:-1]), "blocks.0.mlp.w1.weight"),
        (change("blocks.1.mixer.Wqkv.weight", lambda t: t[:-1]), "blocks.1.mixer.Wqkv.weight"),
        (change("head.last_layer.weight_g", lambda t: t * 2), "weight_g is not 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, act, says):
    folder = write(tmp_path / "3", network().state_dict(), ranks=4)
    act(folder)
    with pytest.raises(ExportError, match=says):
        import_upstream(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_target_is_left_alone(tmp_path, capsys):
    folder = write(tmp_path / "3", network().state_dict())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    assert main(["import", str(folder), str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err and [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_config_can_come_from_a_file(tmp_path):
    folder = write(tmp_path / "3", network().state_dict(), section=None)
    (tmp_path / "run.py").write_text(f"job_name = 'mine'\nmodel = {MODEL.model_dump()!r}\ndata = dict(images=['frames'])\n")
    assert main(["import", str(folder), str(tmp_path / "out"), "--config", str(tmp_path / "run.py")]) == 0
    _, config, _ = load_agent(tmp_path / "out")
    assert (config.job_name, config.data.images) == ("mine", ("frames",))
    assert CheckpointManager(tmp_path / "out").load().meta["imported"]["tensor_parallel_ranks"] == 1
