"""Config files as editors and other programs write them: what is lost or cannot be read is refused, naming file, key and line."""

import codecs
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internlm.cli import main
from internlm.config import yaml12
from internlm.config.errors import ConfigError
from internlm.config.load import load_config


@pytest.fixture
def write(tmp_path):
    def write(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("optim:\n  lr: 1.0e-5\ntrain:\n  steps: 3\noptim:\n  eps: 0.1\n", "optim", 1, 5),
        ("optim:\n  lr: 1\n  eps: 1\n  lr: 2\n", "optim.lr", 2, 4),
        ("data:\n  crops:\n    flip: 1\n    hue: 0\n    flip: 1\n", "data.crops.flip", 3, 5),
        ("optim: {lr: 1, eps: 1,\n  lr: 2}\n", "optim.lr", 1, 2),
        ("job_name: a\n'job_name': b\n", "job_name", 1, 2),
        ("data:\n  images:\n  - {a: 1,\n     a: 2}\n", "data.images.a", 3, 4),
        ("optim: &o {lr: 1}\ntrain:\n  <<: *o\n  <<: *o\n", "train.<<", 3, 4),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_key_given_twice_in_yaml(write, text, key, first, second, ends):
    path = write("run.yaml", text.replace("\n", ends))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:{second}: ")
    assert f"{key} is given twice, in line {first} and in line {second}" in str(caught.value)


def test_a_key_given_twice_elsewhere(write):
    with pytest.raises(ConfigError, match=r"run\.json:1: .*optim\.lr is given twice"):
        load_config(write("run.json", '{"optim": {"lr": 1.0, "lr": 2.0}}'))
    write("base.yaml", "seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"base\.yaml:2: .*seed is given twice"):
        load_config(write("run.yaml", "base: base.yaml\n"))
    with pytest.raises(ConfigError, match=r"command line: value of optim .*lr is given twice"):
        load_config(write("one.yaml", "seed: 1\n"), ["optim={lr: 1, lr: 2}"])


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("optim = dict(lr=1.0)\ntrain = dict(steps=3)\noptim = dict(eps=0.1)\n", "optim", 1, 3),
        ("seed = 1\nseed: int = 2\n", "seed", 1, 2),
        ("optim = {'lr': 1.0,\n 'lr': 2.0}\n", "lr", 1, 2),
        ("optim = dict(**{'lr': 1.0, 'eps': 0.1, 'lr': 2.0})\n", "lr", 1, 1),
    ],
)
def test_a_key_given_twice_in_python(write, text, key, first, second):
    with pytest.raises(ConfigError, match=rf"run\.py:{second}: {key} is given twice, in line {first} and in line {second}"):
        load_config(write("run.py", text))


@pytest.mark.parametrize(
    "text",
    [
        "optim = dict(lr=1.0)\noptim = dict(optim, eps=0.1)\n",
        "optim = dict(lr=1.0)\noptim['eps'] = 0.1\n",
        "optim = dict(lr=0.5)\nif True:\n    optim = dict(lr=1.0, eps=0.1)\n",
        "seed = 1\nseed += 1\noptim = dict(lr=1.0, eps=0.1)\n",
        "LR = 2.0\nLR = 1.0\n_x = 1\n_x = 2\noptim = dict(lr=LR, eps=0.1)\n",
        "def f(lr):\n    return {'lr': lr, 'eps': 0.1}\noptim = f(0.5)\nprint(optim)\noptim = f(1.0)\n",
    ],
)
def test_python_that_reads_what_it_sets_again_is_fine(write, text):
    config = load_config(write("run.py", text))
    assert config.optim.lr == 1.0


def test_anchors_and_merge_keys(write):
    text = "data:\n  clip: &clip {steps: 4}\n  crops: &c {flip: 0.25, hue: 0.125}\n"
    write("base.yaml", text)
    config = load_config(write("run.yaml", "base: base.yaml\noptim: {<<: {lr: 1, eps: 0.5}, eps: 0.25}\n"))
    assert (config.optim.lr, config.optim.eps, config.data.clip.steps) == (1.0, 0.25, 4)
    merged = yaml12.parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc:\n  <<: [*a, {z: 4}]\n")
    assert merged["b"] == {"x": 1, "y": 3} and merged["c"] == {"x": 1, "y": 2, "z": 4}
    assert yaml12.parse(yaml12.dump({"a": "<<"})) == {"a": "<<"}


BOMS = [("utf-8", b""), ("utf-8", codecs.BOM_UTF8), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE), ("utf-32-be", codecs.BOM_UTF32_BE)]  # fmt: skip


@pytest.mark.parametrize(("encoding", "mark"), BOMS)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json"])
def test_yaml_in_any_encoding_that_it_names(write, encoding, mark, ends, name):
    text = '{"job_name": "café 東京",\n\t"seed": 3}\n' if name.endswith("json") else "job_name: café 東京\nseed: 3\n"
    config = load_config(write(name, mark + text.replace("\n", ends).encode(encoding)))
    assert (config.job_name, config.seed) == ("café 東京", 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.yaml", b"seed: 1\njob_name: caf\xe9\n", r"run\.yaml:2: .*byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("run.yaml", "seed: 1\n".encode("utf-16-le"), r"run\.yaml: .*UTF-16 without a byte order mark"),
        ("run.yaml", codecs.BOM_UTF16_LE + b"s\0e", r"run\.yaml: .*is not UTF-16"),
        ("run.yaml", b"seed: 1\noptim:\n\tlr: 1\n", r"run\.yaml:3: .*indented with spaces"),
        ("run.yaml", b"seed: 1\njob_name: \x07\n", r"run\.yaml:2: .*0x07"),
        ("run.yaml", b"\x89PNG\r\n\x1a\n\0\0", r"run\.yaml:1: .*byte 0x89"),
        ("run.yaml", b"", r"run\.yaml: is empty"),
        ("run.yaml", b"# all\n# comments\n---\n", r"run\.yaml: is empty"),
        ("run.yaml", b"- seed\n- 1\n", r"run\.yaml: holds a list"),
        ("run.yaml", b"seed\n", r"run\.yaml: holds a str"),
        ("run.yaml", b"seed: 1\n---\nseed: 2\n", r"run\.yaml:2: .*another document"),
        ("run.yaml", b"seed: 1\n1: 2\n", r"key 1 under the top level is not text"),
        ("run.yaml", b"seed: 1\n? {a: 1}\n: 2\n", r"run\.yaml:2: .*unhashable"),
        ("run.yaml", b"seed: " + b"1" * 6000 + b"\n", r"run\.yaml: .*cannot be read"),
        ("run.yaml", b"seed: !!int x\n", r"run\.yaml: .*cannot be read"),
        ("run.yaml", b"seed: !!float x\n", r"run\.yaml: .*cannot be read"),
        ("run.yaml", b"seed: !!python/object/apply:os.getcwd []\n", r"run\.yaml:1: .*could not determine a constructor"),
        ("run.yaml", b"optim: &a\n  lr: *a\n", r"run\.yaml:\d: .*optim.* contains itself"),
        ("run.yaml", b"seed: *gone\n", r"run\.yaml:1: .*undefined alias"),
        ("run.yaml", b"seed: " + b"[" * 1000, r"run\.yaml: .*nested too deeply"),
        ("run.py", b"", r"run\.py: sets no key"),
        ("run.py", b"# nothing\nLR = 1\n_x = 2\n", r"run\.py: sets no key"),
        ("run.py", b"job_name = 'caf\xe9'\n", r"run\.py:?\d*: SyntaxError"),
        ("run.py", b"# -*- coding: nonsense -*-\nseed = 1\n", r"run\.py:?\d*: SyntaxError: .*nonsense"),
        ("run.py", "seed = 1\n".encode("utf-16"), r"run\.py:?\d*: \w+Error"),
        ("run.py", b"seed = " + b"(" * 5000, r"run\.py:?\d*: \w+Error"),
    ],
)
def test_what_cannot_be_read_is_named(write, name, content, message, capsys):
    path = write(name, content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    assert main(["describe", str(path)]) == 2 and "Traceback" not in capsys.readouterr().err


def test_aliases_of_aliases_do_not_hang(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match=r"means more than 100,000 values"):
        load_config(write("run.yaml", "\n".join(lines)))


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + "job_name = 'café'\r\nseed = 3\r\n".encode(),
        "# -*- coding: latin-1 -*-\njob_name = 'café'\nseed = 3\n".encode("latin-1"),
        "#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\njob_name = 'café'\nseed = 3\n".encode("cp1252"),
        codecs.BOM_UTF8 + "# coding: utf-8\njob_name = 'café'\nseed = 3\n".encode(),
        "job_name = 'café'\rseed = 3\r".encode(),
    ],
)
def test_python_as_editors_save_it(write, content):
    config = load_config(write("run.py", content))
    assert (config.job_name, config.seed) == ("café", 3)


def test_a_record_is_read_in_any_locale(tmp_path, run_command):
    """Written and read as UTF-8, whatever the machine's own encoding is."""
    code = (
        "import sys; from internlm.config.load import *; from internlm.config.schema import Config\n"
        "if sys.argv[1] == 'w': save_config(Config(job_name='caf\\u00e9'), 'config.yaml')\n"
        "else: assert load_config('.').job_name == 'caf\\u00e9'\n"
    )
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for word, env in (("w", c_locale), ("r", {}), ("w", {}), ("r", c_locale)):
        done = run_command([sys.executable, "-c", code, word], cwd=tmp_path, **env)
        assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_utf8_is_refused(write):
    """As a file name in another encoding comes from the system."""
    with pytest.raises(ConfigError, match=r"run\.py: run_dir = 'caf\\udce9' is not UTF-8; give it another name"):
        load_config(write("run.py", "import os\nrun_dir = os.fsdecode(b'caf\\xe9')\n"))


KEYS = st.text("abc", min_size=1, max_size=2)
TREES = st.recursive(st.integers(0, 9), lambda below: st.dictionaries(KEYS, below, max_size=4), max_leaves=12)


@settings(deadline=None, max_examples=150)
@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=4), data=st.data())
def test_one_key_more_anywhere_is_found(tree, data):
    """YAML of any shape is read as it is; with one of its keys given once more, at any depth, it is refused."""
    text = json.dumps(tree)
    assert yaml12.parse(text) == yaml12.parse(yaml12.dump(tree)) == tree
    places = [place for place, sign in enumerate(text) if sign == "{" and text[place + 1] != "}"]
    place = data.draw(st.sampled_from(places))
    key = text[place + 1 : text.index(":", place)]
    with pytest.raises(yaml12.YamlError, match=f"{key.strip(chr(34))} is given twice"):
        yaml12.parse(f"{text[: place + 1]}{key}: 0, {text[place + 1 :]}")
