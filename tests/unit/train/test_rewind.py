"""Bad steps in a row and spikes: the run stops, or goes back and on with other batches, and never for ever."""

import json
from dataclasses import replace

import pytest
import torch
from train_samples import batches, both, same_weights, tiny_config

from internlm.monitor import spikes
from internlm.monitor.metrics import read_metrics
from internlm.train.bad_steps import BAD_STEPS_NAME, BadStepsError
from internlm.train.loop import train


def poisoned(steps, by=float("nan")):
    """Batches of which those of ``steps`` (of the data) have poses times ``by``."""

    def source(start):
        for step, (images, clips) in enumerate(map(dict.values, batches(start)), start):
            bad = replace(clips, poses=(clips.poses + 1) * by, visible=torch.ones_like(clips.visible))
            yield both(images, bad if step in steps else clips)

    return source


def config(folder, **options):
    return tiny_config(folder, train=tiny_config().train.model_dump() | {"max_bad_steps": 3, **options})


def records(folder):
    return [json.loads(line) for line in (folder / BAD_STEPS_NAME).read_text().splitlines()]


def test_a_rewind_is_a_run_that_never_saw_the_batches_in_between(tmp_path, capsys):
    result = train(config(tmp_path / "rewound", on_bad="rewind"), batches=poisoned({4, 5, 6}))
    counters = result.state.counters
    # Steps 5, 6 and 7 are bad; the last checkpoint is that of step 3, and step 4 gets the batch that step 8 would have had.
    assert (result.finished, counters.rewinds, counters.skipped_batches, counters.bad_steps) == (True, 1, 4, 3)
    assert counters.seen == {"image": 32, "clip": 32}

    def other(start):
        return (next(batches(step if step < 3 else step + 4)) for step in range(start, 100))

    train(config(tmp_path / "other"), batches=other)
    assert same_weights(tmp_path / "rewound", tmp_path / "other")
    metrics = read_metrics(tmp_path / "rewound")
    assert [record["step"] for record in metrics] == list(range(1, 9)) and metrics[-1]["rewinds"] == 1
    expected = [record["loss"] for record in read_metrics(tmp_path / "other")]
    assert [record["loss"] for record in metrics] == expected
    assert [record["clip_samples"] for record in records(tmp_path / "rewound")] == [
        list(range(4 * step, 4 * step + 4)) for step in (4, 5, 6)
    ]
    assert "REWIND 1 of at most 3: back from step 7 to step 3" in capsys.readouterr().err


def test_a_run_continued_after_a_rewind_keeps_its_place_in_the_data(tmp_path):
    steps = []

    def noting(start):
        steps.append(start)
        return poisoned({4, 5, 6})(start)

    options = {"on_bad": "rewind", "checkpoint_every": 2}
    train(config(tmp_path, **options), batches=noting)
    train(config(tmp_path, **options, steps=9), batches=noting)
    # Step 4's checkpoint, then the batches from 7 on; the ninth step continues at 8 + 3.
    assert steps == [0, 7, 11]


def test_rewinds_are_limited(tmp_path):
    with pytest.raises(BadStepsError, match="3 steps in a row"):
        train(config(tmp_path, on_bad="rewind", max_rewinds=2), batches=poisoned(range(4, 1000)))
    assert len(records(tmp_path)) == 9  # three times three: the first, and one for each of two rewinds
    with pytest.raises(BadStepsError):  # what was rewound is remembered: the same command does not begin anew
        train(config(tmp_path, on_bad="rewind", max_rewinds=2), batches=poisoned(range(4, 1000)))
    assert len(records(tmp_path)) == 12


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    with pytest.raises(BadStepsError):
        train(config(tmp_path, on_bad="rewind"), batches=poisoned(range(0, 10)))


def test_amid_bad_steps_nothing_is_saved_until_a_good_one(tmp_path):
    kept = {"keep_last": 9, "max_bad_steps": 5}
    train(config(tmp_path, **kept), batches=poisoned({2, 3}))
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").glob("step_*")) == ["5", "6", "8"]


@pytest.mark.parametrize("factor", [None, 10.0])
def test_a_spike_is_skipped_where_it_is_asked_for(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(spikes, "LEAST", 3)
    result = train(config(tmp_path, spike_factor=factor), batches=poisoned({5}, by=1e6))
    assert result.finished and result.bad_steps == (factor is not None)
    if factor:
        (record,) = records(tmp_path)
        assert record["step"] == 6 and record["reason"].startswith("loss ") and record["clip_samples"] == [20, 21, 22, 23]
        assert max(record["grad_norm"] for record in read_metrics(tmp_path)) > 100  # shown as it was


def test_spikes_are_judged_the_same_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "LEAST", 4)
    short = config(tmp_path, spike_factor=10.0, steps=5)
    assert train(short, batches=batches).bad_steps == 0
    assert train(config(tmp_path, spike_factor=10.0), batches=poisoned({5}, by=1e6)).bad_steps == 1


def test_a_full_disk_under_the_account_of_bad_steps_ends_nothing(tmp_path, caplog):
    tmp_path.joinpath(BAD_STEPS_NAME).mkdir()  # as unwritable as a full disk
    assert train(config(tmp_path), batches=poisoned({2})).finished
    assert "bad step 3 could not be written" in caplog.text
