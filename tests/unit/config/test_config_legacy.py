import re
import shlex
from pathlib import Path

import pytest

from internlm.config.errors import ConfigError
from internlm.config.legacy import EGOEXO_STORE, TOURS_STORE, is_legacy, translate
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
        if isinstance(value, dict) and any(known.startswith(f"{prefix}{name}.") for known in KNOWN):
            yield from flat_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_published_values_in_upstream_keys_equal_our_file(root, capsys):
    machine = ["parallel.activation_checkpointing=full", "parallel.sequence_parallel=false"]  # how, not what, it trains
    assert load_config(FIXTURE) == load_config(root / "configs/dino_pretrain/lr5e-4_tmp004_300m.py", machine)
    printed = capsys.readouterr().err
    assert "grad_scaler: mixed precision is bfloat16" in printed and printed.count("upstream_300m.py") == 1


def test_the_released_1b_file_equals_ours(root, tmp_path):
    released = tmp_path / "upstream_1b.py"
    text = FIXTURE.read_text()
    for name, value in (
        ("JOB_NAME", '"dino_lr5e-4_tmp004_1B"'),
        ("BATCH_SIZE", "32"),
        ("HIDDEN_SIZE", "2048"),
        ("NUM_ATTENTION_HEAD", "16"),
        ("CHECKPOINT_EVERY", "ONE_EPOCH_ITERS // 4"),
    ):
        text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1
    released.write_text(text)
    machine = ["parallel.activation_checkpointing=full", "parallel.sequence_parallel=false"]
    assert load_config(released) == load_config(root / "configs/dino_pretrain/lr5e-4_tmp004_1b.py", machine)


def test_videos_are_read_from_the_store_that_a_documented_command_makes(names, root):
    """One name: of the translation, the files in configs/, and the guide's command."""
    ours = translate(names, "file")
    assert ours.values["data"]["images"] == [TOURS_STORE, EGOEXO_STORE]
    assert f"egoagent data videos {TOURS_STORE} " in (root / "docs/data.md").read_text()
    (note,) = ours.notes
    words = shlex.split(note[note.index("egoagent data") :])
    assert words[3] == TOURS_STORE and words[4:-2] == names["data"]["train_folder"] and words[-2:] == ["--rate", "0"]
    assert note in ours.report("file")
    for file in (root / "configs").rglob("lr*.py"):
        data = load_config(file).data
        assert set(data.images + data.clips) <= {TOURS_STORE, EGOEXO_STORE}, file


def test_other_training_folders_are_read_as_they_are(names):
    names["data"] |= dict(train_folder="local:frames", use_egoexo=False)
    ours = translate(names, "file")
    assert ours.values["data"]["images"] == ["frames"] and not ours.notes


@pytest.mark.parametrize(
    "more",
    [
        {"enable_tb": True, "tensorboard_folder": "tb", "resume_tb_folder": None, "alert_address": None, "use_fp32_norm": False},
        {"monitor": {"alert": {"enable_feishu_alert": False}, "tensorboard": {"queue_max_length": 10}}},
        {"parallel": {"zero1": 1, "tensor": 1, "pipeline": 1, "sequence_parallel": False}},
        {"hybrid_zero_optimizer": {"zero_overlap_communication": True, "clip_grad_norm": 1.0}},
        {"ckpt": {"checkpoint_every": 5, "auto_resume": True, "stop_file_path": "x", "load_optimizer": True}},
        {"ckpt": {"load_ckpt_folder": {"path": "local:llm_ckpts/a", "content": ["all"], "ckpt_type": "normal"}}},
        {"ckpt": {"load_ckpt_info": {"path": "local:llm_ckpts/a", "content": ("model",), "ckpt_type": "internlm"}}},
    ],
)
def test_other_keys_of_the_framework_load(names, more, tmp_path):
    ours = translate({**names, **more}, "file").values
    assert Config.model_validate(ours).train.steps == 751_036


@pytest.mark.parametrize("value", ["local:llm_ckpts/a", {"path": "local:llm_ckpts/a", "content": ["model"]}])
@pytest.mark.parametrize("key", ["load_ckpt_folder", "load_model_only_folder", "load_ckpt_info"])
def test_joint_starts_from_the_checkpoint_however_it_is_named(names, key, value):
    names["loss"] |= dict(name="img_rep_motion")
    names["ckpt"] |= {key: value}
    assert translate(names, "file").values["train"]["init_from"] == "llm_ckpts/a"


@pytest.mark.parametrize("micro_bsz", [1, 20])
def test_a_released_batch_counts_samples_whatever_their_frames(names, micro_bsz):
    """The released files set micro_bsz to the frames of a sample, N_FRAMES."""
    names["loss"] |= dict(name="img_rep_motion", nframes=20)
    names["data"] |= dict(frames_per_clip=20, micro_bsz=micro_bsz)
    assert translate(names, "file").values["train"]["clip_batch"] == 64


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
        ("model", "lvm_config", dict(enable=True), r"model\.lvm_config\.enable = True .* convolutional stem"),
        ("teacher", "lvm_config", dict(enable_encoder=True), r"teacher\.lvm_config\.enable_encoder = True"),
        ("model", "lvm_config", dict(enable_conv_stem=False), r"model\.lvm_config\.enable_conv_stem = False"),
        ("model", "drop_rate", 0.1, r"model\.drop_rate = 0\.1 .* no dropout"),
        ("momentum_scheduler", "epochs", 100, r"momentum_scheduler\.epochs = 100 .* 101"),
        ("data", "train_folder", 3, r"data\.train_folder = 3 .* list of paths"),
        ("ckpt", "load_ckpt_folder", 3, r"ckpt\.load_ckpt_folder = 3 is neither a path"),
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
