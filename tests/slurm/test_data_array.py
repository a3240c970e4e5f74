"""Preprocessing as a job array of a real Slurm."""

import os
from functools import partial

import pytest
from pipeline_samples import GOOD, Recording, run

from dataset_preprocess import slurm


@pytest.fixture
def array(cluster, tmp_path, samples, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    monkeypatch.setenv("PYTHONPATH", str(samples), prepend=os.pathsep)  # tasks unpickle what is defined there
    monkeypatch.setattr(slurm, "POLL_SECONDS", 1.0)
    return partial(slurm.SlurmOptions, tmp_path / "logs", tasks=2, memory=1, minutes=5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_array_does_what_a_pool_does(tmp_path, array):
    jobs = [*GOOD, Recording("d", "skip"), Recording("e", "bad"), Recording("k", "killed")]
    summary = run(tmp_path / "s", *jobs, slurm=array(), workers=1)
    assert sorted(summary.done) == ["a", "b", "c"] and summary.skipped.keys() == {"d"}
    assert summary.failed["e"] == "e.mp4: is cut off" and "killed (SIGKILL)" in summary.failed["k"]
    again = run(tmp_path / "s", *GOOD, Recording("k"), slurm=array(), workers=1)
    assert sorted(again.kept) == ["a", "b", "c"] and sorted(again.done) == ["k"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_task_that_dies_whole_is_not_waited_for(tmp_path, array):
    """With workers=0 the kill takes the array task itself: no result file ever comes, and without accounts sacct is silent."""
    summary = run(tmp_path / "s", Recording("k", "killed"), Recording("a"), slurm=array(), workers=0)
    assert sorted(summary.done) == ["a"] and "its array task ended before it" in summary.failed["k"]
