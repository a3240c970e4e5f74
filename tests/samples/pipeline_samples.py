"""Recordings that a worker finishes, skips or fails at, in every way, and a run over them."""

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from store_samples import info, jpeg

from dataset_preprocess.pipeline import SkipTake, run_jobs
from internlm.data.store import DiskFullError, StoreError, StoreWriter


@dataclass(frozen=True)
class Recording:
    name: str
    what: str = "good"


def write(job: Recording, *, out: Path, frames: int = 4) -> dict:
    """One take of ``frames`` pictures, or what ``job.what`` says."""
    if job.what == "skip":
        raise SkipTake("has no wearer")
    if job.what == "bad":
        raise StoreError(f"{job.name}.mp4: is cut off")
    if job.what == "bug":
        raise KeyError("aria01")
    if job.what == "full":
        raise DiskFullError("no room")
    if job.what == "greedy":
        raise MemoryError("Unable to allocate 9 TiB")
    if job.what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.what == "warned":
        for name in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), name)
    if job.what == "exit":
        os._exit(3)
    if job.what == "sleep":
        time.sleep(600)
    pictures = ((n, jpeg(n)) for n in range(frames))
    StoreWriter(out).add_take(info(job.name, pose_space=None), pictures, overwrite=True)
    return {"frames": frames}


def run(out: Path, *jobs: Recording, frames: int = 4, **options):
    options = {"workers": 0, "settings": {"frames": frames, "size": (8, 8)}, **options}
    return run_jobs(jobs, partial(write, out=out, frames=frames), out=out, step="frames", **options)


GOOD = [Recording(name) for name in "abc"]
