from pathlib import Path

import pytest

from internlm.config.errors import ConfigError
from internlm.config.legacy import is_legacy, translate
from internlm.config.legacy_table import KNOWN, RULES, Map
from internlm.config.load import config_keys, load_config
from internlm.config.schema import ParallelConfig
from internlm.config.source import read_names
from internlm.systems.egoagent.config import EgoAgentConfig as Config

FIXTURE = Path(__file__).parent / "configs" / "upstream_300m.py"


@pytest.fixture
def names():
    return read_names(FIXTURE)


def flat_keys(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict) and prefix + name not in KNOWN:
            yield from flat_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_published_values_in_upstream_keys_equal_our_file(root, capsys):
    machine = ["parallel.activation_checkpointing=full", "parallel.sequence_parallel=false"]  # how, not what, it trains
    assert load_config(FIXTURE) == load_config(root / "configs/dino_pretrain/lr5e-4_tmp004_300m.py", machine)
    printed = capsys.readouterr().err
    assert "grad_scaler: mixed precision is bfloat16" in printed and printed.count("upstream_300m.py") == 1


def test_every_key_is_mapped_or_reported(names):
    result = translate(names, "file")
    accounted = {key for entry, _ in result.mapped + result.ignored for key in entry.split(", ")}
    assert set(flat_keys(names)) <= accounted


def test_every_row_of_the_table_points_at_one_of_our_keys():
    ours = set(config_keys(Config))
    assert {rule.key for rule in RULES.values() if isinstance(rule, Map)} <= ours


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ({"zero1": 4, "tensor": 2, "sequence_parallel": True}, {"dp_shard": 4, "zero": 2, "tp": 2, "sequence_parallel": True}),
        ({"zero1": {"size": 8, "fsdp": True}}, {"dp_shard": 8, "zero": 3}),
        ({"zero1": -1}, {"dp_shard": 1}),
    ],
)
def test_upstreams_parallel_keys_become_a_mesh(names, upstream, expected):
    found = translate(names | {"parallel": upstream}, "file").values["parallel"]
    parallel = ParallelConfig(**found)
    assert {key: getattr(parallel, key) for key in expected} == expected and parallel.activation_checkpointing == "full"


def test_overrides_lie_over_a_translated_file():
    assert load_config(FIXTURE, ["optim.lr=1e-3"]).optim.lr == 1e-3


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "hiden_size", 3, r"unknown upstream key model\.hiden_size; did you mean model\.hidden_size"),
        ("data", "unheard_of", 3, r"unknown upstream key data\.unheard_of"),
        ("model", "head_type", "swiglu", r"model\.head_type = 'swiglu' cannot be honoured"),
        ("model", "causal", False, r"model\.causal"),
        ("teacher", "hidden_size", 512, r"teacher\.hidden_size = 512 .* 1024"),
        ("data", "vid_crop_size", 192, r"data\.vid_crop_size = 192 .* 224"),
        ("data", "micro_num", "64", r"data\.micro_num = '64' is not a number"),
        ("data", "global_crops_scale", 3, r"data\.global_crops_scale = 3"),
        ("loss", "name", "latent_motion", r"loss\.name = 'latent_motion'"),
        ("adam", "adam_beta2_c", 0.8, r"adam\.adam_beta2_c"),
        ("adam", "lr", "fast", r"upstream keys\): optim\.lr = 'fast'"),
        ("parallel", "pipeline", dict(size=2), r"parallel\.pipeline\.size = 2"),
        ("lr_scheduler", "total_steps", 5, r"lr_scheduler\.total_steps = 5"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(tmp_path, section, key, value, message):
    changed = tmp_path / "changed.py"
    changed.write_text(FIXTURE.read_text() + f"\n{section}[{key!r}] = {value!r}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(changed)


def test_an_unknown_top_level_key_is_an_error(names):
    with pytest.raises(ConfigError, match=r"unknown upstream key mdoel"):
        translate({**names, "mdoel": {}}, "file")


def test_joint_keys_are_mapped(names):
    names["loss"] |= dict(name="img_rep_motion", nframes=20)
    names["kd_config"] = dict(gt_weight=1, reg_weight=3, kd_weight=1, dino_weight=2, type="img_rep_motion")
    names["data"] |= dict(frames_per_clip=20)
    names["ckpt"] |= dict(load_ckpt_folder="local:llm_ckpts/stage1/100")
    ours = translate(names, "file").values
    assert ours["stage"] == "joint"
    weights = dict(rep_weight=2, pred_weight=1, act_weight=3, visibility_weight=1)
    assert weights.items() <= ours["loss"].items()
    assert ours["train"]["init_from"] == "llm_ckpts/stage1/100"
    assert ours["train"]["clip_batch"] == ours["train"]["image_batch"] == 64 and ours["train"]["mixing"] == "alternate"
    assert ours["data"]["clip"]["steps"] == 20 and ours["data"]["clips"] == ["data/stores/egoexo4d"]


def test_joint_without_images(names):
    names["loss"] |= dict(name="img_and_motion", nframes=20)
    names["data"] |= dict(frames_per_clip=20)
    ours = translate(names, "file").values
    assert (ours["train"]["image_batch"], ours["loss"]["rep_weight"]) == (0, 0)


def test_our_own_files_are_not_taken_for_upstreams(root):
    for file in (root / "configs").rglob("*.py"):
        assert not is_legacy(read_names(file)), file
