"""Files that appear whole or not at all, and locks that die with their process."""

import errno
import fcntl
import json
import multiprocessing
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from internlm.core.files import locked, write_text, written


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), written(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    assert write_text(path, "\udcff", errors="surrogateescape").read_bytes() == b"\xff"


def test_what_cannot_be_replaced_is_told_and_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "a", "text")
    with pytest.raises(FileNotFoundError), written(tmp_path / "b") as temporary:
        temporary.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_rest_of_a_killed_writer_is_used_again(tmp_path):
    (tmp_path / ".a.txt.tmp").write_text("a long rest of somebody")
    assert write_text(tmp_path / "a.txt", "new").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_mode_is_what_the_umask_allows_also_where_a_library_makes_the_file(tmp_path):
    old = os.umask(0o027)
    try:
        with written(tmp_path / "a") as temporary:
            save_file({"x": torch.ones(2)}, temporary)
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640 and load_file(tmp_path / "a")["x"].tolist() == [1, 1]


def _add(path, rounds: int) -> None:
    for _ in range(rounds):
        with written(path) as temporary:
            temporary.write_text(json.dumps(json.loads(path.read_text()) + 1))


def test_writers_take_turns_and_readers_see_whole_files(tmp_path):
    path = write_text(tmp_path / "count.json", "0")
    writers = [multiprocessing.get_context("fork").Process(target=_add, args=(path, 50)) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        json.loads(path.read_text())
    assert [writer.exitcode for writer in writers] == [0, 0, 0] and path.read_text() == "150"


def test_a_held_lock_is_refused_in_time_and_freed_at_the_end(tmp_path):
    with locked(tmp_path / "lock"):
        with pytest.raises(BlockingIOError, match="busy"), locked(tmp_path / "lock", 0.05, BlockingIOError("busy")):
            raise AssertionError
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_faster_writer_takes_the_content_along(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with written(tmp_path / "a") as temporary:
        temporary.write_text("slow")
        write_text(tmp_path / "a", "fast")
    assert (tmp_path / "a").read_text() == "fast" and len(list(tmp_path.iterdir())) == 1
