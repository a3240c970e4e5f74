"""Pieces of tensors in files: whatever division wrote them, any other reads them, and other tools read the files."""

import hashlib
import json
from itertools import product

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internlm import cli
from internlm.checkpoint import index
from internlm.checkpoint.background import BackgroundSaver
from internlm.checkpoint.manager import CheckpointError, CheckpointManager, read_checkpoint
from internlm.checkpoint.sums import write_sums
from internlm.checkpoint.tensor_file import DTYPES, Entry, write_tensors
from internlm.checkpoint.writing import write_share
from internlm.core.boxes import Piece, Share
from internlm.core.collectives import Group
from internlm.parallel.plan import Cut


def divided(tensor: torch.Tensor, data: int, tp: int, cut: Cut | None) -> list[Share]:
    """What each process of a mesh holds: tensor-parallel cut first, then rows as ``torch.chunk`` gives them, first ones full."""
    shares = []
    for rank in range(tp):
        part = cut.share(tensor, Group(None, tp, rank)) if cut else tensor
        chunks = list(part.chunk(data)) + [part[:0]] * data
        start = 0
        for local in chunks[:data]:
            offset = (start,) + (0,) * (tensor.ndim - 1)
            if cut:
                pieces = tuple(cut.pieces(local.clone(), offset, part.shape[cut.dim], Group(None, tp, rank)))
            else:
                pieces = (Piece(offset, local.clone()),)
            shares.append(Share(tuple(tensor.shape), tuple(p for p in pieces if p.tensor.numel()), saved=bool(cut) or rank == 0))
            start += len(local)
    return shares


def save(folder, processes: list[dict], step=1, meta=None):
    """A checkpoint as several processes write it, one after the other."""

    def write(path):
        return [write_share(path, parts, rank, len(processes)) for rank, parts in enumerate(processes)]

    return CheckpointManager(folder).save_with(step, write, meta or {})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_one_division_wrote_any_other_reads(tmp_path, data):
    tp = data.draw(st.sampled_from([1, 2, 3]))
    sections = data.draw(st.sampled_from([1, 3]))
    dim = data.draw(st.sampled_from([0, 1])) if sections == 1 else 0
    shape = [data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))]
    shape[dim] = sections * 6 * data.draw(st.integers(1, 2))  # divisible by all numbers of processes
    tensor = torch.arange(float(shape[0] * shape[1])).view(shape)
    ways = [(data.draw(st.sampled_from([1, 2, 3, 5])), t, Cut(dim, sections) if t > 1 else None) for t in (tp, 1, 2)]
    shares = divided(tensor, *ways[0])
    path = save(tmp_path, [{"predictor": {"weight": share}} for share in shares])
    found = read_checkpoint(path)
    assert torch.equal(found.parts["predictor"]["weight"], tensor)
    for way in ways:
        for share, expected in zip(divided(torch.zeros_like(tensor), *way), divided(tensor, *way), strict=True):
            found.fill("predictor", {"weight": share})
            for piece, right in zip(share.pieces, expected.pieces, strict=True):
                assert piece.offset == right.offset and torch.equal(piece.tensor, right.tensor)


def test_no_more_is_read_than_a_process_holds(tmp_path, monkeypatch):
    tensor, cut, read = torch.arange(96.0).view(12, 8), Cut(1), []
    path = save(tmp_path, [{"predictor": {"weight": share}} for share in divided(tensor, 3, 1, None)])
    found = read_checkpoint(path)
    reader = index._Reader._file

    class Counting:
        def __init__(self, file):
            self.file = file

        def get_slice(self, key):
            self.slice = self.file.get_slice(key)
            return self

        def __getitem__(self, place):
            read.append(self.slice[place].numel())
            return self.slice[place]

    monkeypatch.setattr(index._Reader, "_file", lambda self, name: Counting(reader(self, name)))
    for share in divided(torch.zeros(12, 8), 2, 2, cut):
        read.clear()
        found.fill("predictor", {"weight": share})
        assert sum(read) == tensor.numel() // 4


def test_a_share_of_another_model_is_refused(tmp_path):
    found = read_checkpoint(save(tmp_path, [{"loss": {"a": torch.zeros(2)}}]))
    with pytest.raises(CheckpointError, match=r"loss\.a has shape \(2,\), the model's is \(3,\)"):
        found.fill("loss", {"a": Share.whole(torch.zeros(3))})
    with pytest.raises(CheckpointError, match="1 tensors differ: b is in the model only"):
        found.fill("loss", {name: Share.whole(torch.zeros(2)) for name in "ab"})
    with pytest.raises(CheckpointError, match="a is in the checkpoint only"):
        found.fill("loss", {})


def test_the_safetensors_library_reads_every_type_and_shape(tmp_path):
    tensors = {
        f"{name} {shape}": torch.randint(0, 2, shape).to(dtype)
        for name, dtype in DTYPES.items()
        for shape in ((), (3,), (0, 2), (2, 3))
    }
    tensors["transposed"] = torch.arange(6.0).view(2, 3).t()
    entries = [Entry(key, t.dtype, tuple(t.shape), lambda t=t: t) for key, t in tensors.items()]
    path = tmp_path / "t.safetensors"
    digest = write_tensors(path, entries)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = safetensors.torch.load_file(path)
    assert found.keys() == tensors.keys()
    assert all(found[key].dtype == t.dtype and torch.equal(found[key], t) for key, t in tensors.items())


def test_a_checkpoint_of_version_1_is_read(tmp_path):
    folder = tmp_path / "step_000000007"
    folder.mkdir()
    safetensors.torch.save_file({"weight": torch.ones(2)}, folder / "predictor.safetensors")
    (folder / "meta.json").write_text(json.dumps({"format": "egoagent-checkpoint", "version": 1, "step": 7, "of": "old"}))
    write_sums(folder, {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()})
    found = CheckpointManager(tmp_path).load()
    assert (found.step, found.meta["of"]) == (7, "old") and torch.equal(found.parts["predictor"]["weight"], torch.ones(2))


def test_a_background_save_holds_what_was_there_when_it_began(tmp_path):
    manager = CheckpointManager(tmp_path)
    background, tensor, buffer, meta = BackgroundSaver(manager), torch.ones(1000), torch.ones(2), {"n": [1]}
    for step in (1, 2):
        background.start(step, {"predictor": {"w": tensor, "b": buffer}}, meta, moving={"predictor": {"b"}})
        buffer.add_(1)
        meta["n"].append(2)
        background.before_change()
        tensor.add_(1)
    background.wait()
    assert background.failure() is None
    for step in (1, 2):
        found = manager.load(step)
        assert all((t == step).all() for t in found.parts["predictor"].values()) and found.meta["n"] == [1, 2][:step]


def test_a_background_save_that_fails_says_so_and_a_defect_is_raised(tmp_path):
    (tmp_path / "file").write_text("")
    background = BackgroundSaver(CheckpointManager(tmp_path / "file" / "checkpoints"))
    background.start(1, {"predictor": {}}, {})
    background.wait()
    assert "step 1 could not be written" in str(background.failure()) and background.failure() is None
    background = BackgroundSaver(CheckpointManager(tmp_path))
    background.start(1, {"predictor": {}}, {"not JSON": object()})
    background.wait()
    with pytest.raises(TypeError):
        background.failure()


@pytest.fixture
def run(tmp_path):
    """A run folder with two checkpoints that two processes wrote."""
    tensor = torch.arange(30.0).view(10, 3)
    shares = divided(tensor, 2, 1, None)
    for step in (1, 2):
        parts = [
            {"predictor": {"weight": share, "step": Share.whole(torch.tensor(step), saved=r == 0)}}
            for r, share in enumerate(shares)
        ]
        parts = [part | {"loss": {}} for part in parts]
        meta = {"counters": {"step": step, "images_seen": 4}, "config": {"optim": {"lr": 1.0, "gone": 2}}, "mesh": {"tp": 2}}
        save(tmp_path / "run" / "checkpoints", parts, step, meta)
    return tmp_path / "run"


def test_inspect_says_what_a_checkpoint_holds(run, capsys):
    assert cli.main(["ckpt", "inspect", str(run), "--tensors"]) == 0
    said = capsys.readouterr().out
    for words in (
        "step_000000002", "images_seen 4", "tp 2", "float32, int64 in 2 files", "weight  float32 [10, 3] in 2 pieces",
        "optim.lr = 1.0  (default 0.0005)", "optim.gone = 2  (not a key today)",
    ):  # fmt: skip
        assert words in said, words


def test_verify_finds_any_change_of_any_file(run, capsys):
    folder = run / "checkpoints" / "step_000000001"
    assert cli.main(["ckpt", "verify", str(run)]) == 0
    assert capsys.readouterr().out.count("intact") == 2

    def flip(path, content):
        path.write_bytes(
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        )

    changes = {
        "flipped": flip,
        "a byte less": lambda path, content: path.write_bytes(content[:-1]),
        "a byte more": lambda path, content: path.write_bytes(content + b"\n"),
        "missing": lambda path, content: path.unlink(),
    }
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 6  # two files of the predictor, one of the loss, index, meta data, sums
    for name, (change, spoil) in product(names, changes.items()):
        content = (folder / name).read_bytes()
        spoil(folder / name, content)
        assert cli.main(["ckpt", "verify", str(run)]) == 2, (name, change)
        said = capsys.readouterr()
        assert name in said.err and "step_000000001" in said.err and "step_000000002" in said.out, (name, change)
        (folder / name).write_bytes(content)
    more = folder / "observer.safetensors"  # one of our own names: then the list of sums lacks a line
    more.write_text("")
    assert cli.main(["ckpt", "verify", str(folder)]) == 2 and more.name in capsys.readouterr().err
    more.unlink()
    assert cli.main(["ckpt", "verify", str(folder)]) == 0
    assert cli.main(["ckpt", "verify", str(run / "nothing")]) == 2


@pytest.mark.parametrize("files", [1, 3])
def test_convert_keeps_every_tensor(run, tmp_path, files, capsys):
    assert cli.main(["ckpt", "convert", str(run), str(tmp_path / "out"), "--files", str(files)]) == 0
    found, source = read_checkpoint(tmp_path / "out" / "step_000000002"), read_checkpoint(run / "checkpoints" / "step_000000002")
    assert found.meta == source.meta
    assert (found.path / "index.json").exists() == (files > 1) and (files > 1 or (found.path / "predictor.safetensors").exists())
    for part, tensors in source.parts.items():
        assert found.parts[part].keys() == tensors.keys()
        assert all(torch.equal(found.parts[part][name], t) for name, t in tensors.items())
    assert cli.main(["ckpt", "convert", str(run), str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
