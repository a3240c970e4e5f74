import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm.config import yaml12
from internlm.config.errors import ConfigError, nearest_key
from internlm.config.load import config_keys, load_config, save_config
from internlm.systems.egoagent.config import EgoAgentConfig as Config


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_python_file_collects_keys_and_leaves_helpers_alone(write):
    path = write(
        "run.py",
        "import math\nfrom pathlib import Path\nLR = 1e-3\n_half = LR / 2\ndef helper(x):\n    return x\n"
        "class Thing: pass\njob_name = 'a'\noptim = dict(lr=helper(_half))\n"
        "data = dict(images=(str(Path('x') / 'y'),), clip=dict(steps=4))\n",
    )
    config = load_config(path)
    assert (config.job_name, config.optim.lr, config.data.images, config.data.clip.steps) == ("a", 5e-4, ("x/y",), 4)
    assert config.optim.final_lr == Config().optim.final_lr


def test_base_is_deep_merged_and_the_file_wins(write):
    write("a/base.py", "model = dict(hidden_size=256, num_layers=2)\noptim = dict(lr=1.0)\n")
    path = write("b/run.py", "base = '../a/base.py'\nmodel = dict(num_layers=3)\n")
    config = load_config(path, ["optim.lr=0.5"])
    assert (config.model.hidden_size, config.model.num_layers, config.optim.lr) == (256, 3, 0.5)


def test_a_file_that_is_its_own_base_is_refused(write):
    write("b.py", "base = 'a.py'\n")
    with pytest.raises(ConfigError, match="its own base"):
        load_config(write("a.py", "base = 'b.py'\n"))


def test_a_missing_base_names_both_files(write):
    with pytest.raises(FileNotFoundError, match=r"gone\.py.*run\.py"):
        load_config(write("run.py", "base = 'gone.py'\n"))


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("optim.lr=3e-4", lambda c: c.optim.lr, 3e-4),
        ("optim.lr=1", lambda c: c.optim.lr, 1.0),
        ("data.images=[a, b/c]", lambda c: c.data.images, ("a", "b/c")),
        ("data.split=no", lambda c: c.data.split, "no"),
        ("train.init_from=null", lambda c: c.train.init_from, None),
        ("monitor.tensorboard=false", lambda c: c.monitor.tensorboard, False),
        ("data.crops.init_scale=[0.5, 1]", lambda c: c.data.crops.init_scale, (0.5, 1.0)),
        ("model={num_layers: 3}", lambda c: c.model.num_layers, 3),
        ("job_name=x=y", lambda c: c.job_name, "x=y"),
    ],
)
def test_overrides_are_yaml_values(write, override, get, value):
    found = get(load_config(write("run.yaml", "model: {hidden_size: 256}"), [override]))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optm.lr=1", r"command line: unknown key optm\.lr; did you mean optim\.lr\?"),
        ("lr=1", r"unknown key lr; did you mean optim\.lr\?"),
        ("model.hiden_size=8", r"unknown key model\.hiden_size; did you mean model\.hidden_size\?"),
        ("data.crops.local_scal=[0,1]", r"did you mean data\.crops\.local_scale\?"),
        ("optim.lr=fast", r"command line: optim\.lr = 'fast': input should be a valid number"),
        ("train.steps=3.0", r"train\.steps = 3\.0: .*integer"),
        ("train.steps='3'", r"train\.steps = '3': .*integer"),
        ("train.steps=true", r"train\.steps = True: .*integer"),
        ("train.steps=0", r"train\.steps = 0: .*greater than or equal to 1"),
        ("train.device=gpu", r"train\.device = 'gpu': .*'auto', 'cpu' or 'cuda'"),
        ("model=4", r"model = 4: must be a section"),
        ("optim.eps=.inf", r"optim\.eps = inf is not a finite number"),
        ("model.hidden_size=100", r"hidden_size 100 is not divisible by num_heads 8"),
        ("train.clip_batch=4", r"train\.clip_batch 4 needs stage 'joint'"),
        ("data.crops.local_scale=[0.4, 0.1]", r"command line: data\.crops\.local_scale: \(0\.4, 0\.1\) is not \(smallest"),
        ("data.crops={global_crops: 1, local_crops: 0}", r"nothing to compare"),
        ("seed", r"'seed' is not of the form section\.key=value"),
        ("optim.lr=[1", r"value of optim\.lr is not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(write, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write("run.yaml", "job_name: a"), [override])


def test_an_error_in_a_base_names_the_base(write):
    write("base.py", "train = dict(stepps=4)\n")
    with pytest.raises(ConfigError, match=r"base\.py: unknown key train\.stepps; did you mean train\.steps\?"):
        load_config(write("run.py", "base = 'base.py'\ntrain = dict(log_every=1)\n"))


def test_every_wrong_key_is_reported_at_once(write):
    with pytest.raises(ConfigError) as caught:
        load_config(write("run.yaml", "train: {stepps: 4}\nsed: 1\n"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.py", "x = 1\nmodel = dict(hidden_size=1 / 0)\n", r"run\.py:2: ZeroDivisionError"),
        ("run.py", "model = dict(\n", r"run\.py:\d+: SyntaxError"),
        ("run.py", "from pathlib import Path\nmodel = dict(hidden_size={1})\n", r"model\.hidden_size = \{1\}"),
        ("run.yaml", "a: [", r"not valid YAML"),
        ("run.yaml", "- 1", r"holds a list"),
        ("run.toml", "", r"ends in \.py, \.yaml or \.yml"),
    ],
)
def test_a_broken_file_is_an_error_with_its_name(write, name, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(name, text))


def test_nearest_key_prefers_the_same_name_elsewhere():
    assert nearest_key("train.lr", config_keys(Config)) == "optim.lr"
    assert nearest_key("data.weight_decay", config_keys(Config)) == "optim.weight_decay"
    assert nearest_key("zzzzqqqq", config_keys(Config)) is None


def test_run_folder_is_a_config(tmp_path):
    config = Config(job_name="x", seed=3)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path) == config.model_copy(update={"run_dir": str(tmp_path)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


SAFE_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)
FINITE = st.floats(1e-300, 1e300)


@settings(deadline=None, max_examples=150)
@given(
    text=SAFE_TEXT,
    images=st.lists(st.one_of(SAFE_TEXT, st.sampled_from(["3e-4", "no", "1:30", "010", "null", "", "~", "true", "1_0"]))),
    lr=FINITE,
    scale=st.tuples(st.floats(1e-9, 1), st.floats(1e-9, 1)).map(lambda pair: tuple(sorted(pair))),
    steps=st.integers(1, 10**12),
    choice=st.sampled_from(["sinkhorn", "centering"]),
    flag=st.booleans(),
    none=st.one_of(st.none(), SAFE_TEXT),
)
def test_save_then_load_is_the_same_config(tmp_path_factory, text, images, lr, scale, steps, choice, flag, none):
    config = Config(
        job_name=text,
        run_dir=none,
        data=dict(images=tuple(images), crops=dict(global_scale=scale)),
        optim=dict(lr=lr),
        train=dict(steps=steps),
        loss=dict(targets=choice),
        monitor=dict(tensorboard=flag),
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    save_config(config, path)
    normal = Config.model_validate(config.model_dump() | {"run_dir": none and os.path.normpath(none)})
    normal = normal.model_copy(
        update={"data": normal.data.model_copy(update={"images": tuple(name and os.path.normpath(name) for name in images)})}
    )
    back = load_config(path)
    assert back == config or back == normal


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | SAFE_TEXT, lambda s: st.lists(s)))
def test_yaml_scalars_survive(value):
    back = yaml12.parse(yaml12.dump(value))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize(
    ("file", "batch", "processes", "steps", "parameters"),
    [
        ("dino_pretrain/lr5e-4_tmp004_300m.py", 1024, 16, 751_036, (1024, 8)),
        ("dino_pretrain/lr5e-4_tmp004_1b.py", 512, 16, 1_502_072, (2048, 16)),
        ("joint_train/lr6e-04_tmp004_300m.py", 1920, 32, 16_000, (1024, 8)),
        ("joint_train/lr6e-04_tmp004_1b.py", 1920, 48, 14_500, (2048, 16)),
    ],
)
def test_paper_files_hold_the_published_values(root, file, batch, processes, steps, parameters):
    config = load_config(root / "configs" / file)
    train, optim = config.train, config.optim
    assert (config.model.hidden_size, config.model.num_heads) == parameters
    assert train.steps == steps
    if config.stage == "joint":
        assert (train.clip_batch * processes, optim.lr, config.data.clip.steps) == (batch, 6e-4, 20)
        assert (config.loss.rep_weight, config.loss.pred_weight, config.loss.act_weight) == (2, 1, 3)
    else:
        assert (train.image_batch * processes, optim.lr, train.accumulation) == (batch, 5e-4, 4)
    assert (optim.final_lr, optim.warmup_share, optim.momentum, optim.grad_clip) == (5e-6, 0.1, 0.996, 1.0)
    assert (optim.weight_decay, optim.weight_decay_end, config.loss.teacher_temp) == (0.04, 0.4, 0.04)


def test_every_shipped_config_loads_with_relative_data_paths(root):
    files = sorted((root / "configs").rglob("*.py"))
    assert len(files) >= 6
    for file in files:
        data = load_config(file).data
        assert not [path for path in data.images + data.clips if path.startswith("/")], file


def test_config_keys_are_the_schema():
    keys = list(config_keys(Config))
    assert len(keys) == len(set(keys))
    assert {"optim", "optim.lr", "data.crops.local_scale", "data.clip.steps"} <= set(keys)
    config = Config().model_dump()
    for key in keys:
        value = config
        for part in key.split("."):
            value = value[part]
