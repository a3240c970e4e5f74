"""Training batches: a resumable stream that is the same for any number of workers."""

import contextlib
import logging
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from internlm.config.schema import DataConfig
from internlm.data.frames import BrokenFile, DataError
from internlm.data.handover import Packed, StepResult, pack, shared_memory
from internlm.data.order import SampleOrder, Stream

Sample = dict[str, np.ndarray]
_log = logging.getLogger(__name__)
_MAX_REPLACEMENTS = 50  # broken samples in a row before the search for a valid one is given up
_EARLY_READS, _EARLY_SHARE = 20, 0.5  # with this many reads, more than this share broken is no accident
_POLL = 5.0  # seconds after which a wait for a batch looks around
_NOTICE = 30.0  # seconds of waiting for a batch after which it is said
_TIMED_OUT, _DIED = "DataLoader timed out", "DataLoader worker (pid"  # torch's words: it has no classes for these errors


@dataclass
class BrokenCounts:
    """Broken files of a run. ``files`` maps each name, seen once or often, to the reason."""

    max_share: float
    total: int  # files that the data has
    reads: int = 0
    broken: int = 0
    files: dict[str, str] = field(default_factory=dict)

    def add(self, reads: int, broken: list[tuple[str, str]]) -> None:
        """Count, name each file once, and raise DataError above the allowed share.

        The share is that of distinct broken files among all files, so that one bad file early in a run does not end it;
        when most of the first reads fail, waiting for that share would be pointless.
        """
        self.reads += reads
        self.broken += len(broken)
        for name, reason in broken:
            if name not in self.files:
                self.files[name] = reason
                _log.warning("broken file, replaced by the next sample: %s: %s", name, reason)
        limit = max(self.max_share, _EARLY_SHARE)
        if len(self.files) > self.max_share * self.total or (self.reads >= _EARLY_READS and self.broken > limit * self.reads):
            name, reason = next(iter(self.files.items()))
            raise DataError(
                f"{len(self.files)} broken of {self.total} files ({self.broken} of {self.reads} reads) is more than "
                f"data.max_broken_share {self.max_share:g}; the first: {name}: {reason}"
            )


class _StepDataset(Dataset):
    """Item s is all that a process reads for optimizer step s; a worker's is packed."""

    def __init__(self, streams: Mapping[str, Stream], seed: int, rank: int, world: int):
        self.streams, self.rank, self.world = streams, rank, world
        self.sources = {name: stream.open() for name, stream in streams.items()}
        self.orders = {name: SampleOrder(len(self.sources[name]), seed, stream.number) for name, stream in streams.items()}

    def __getitem__(self, step: int) -> "StepResult | Packed":
        result = self._read(step)
        return result if get_worker_info() is None else pack(result)

    def _read(self, step: int) -> StepResult:
        broken: list[tuple[str, str]] = []
        batches, reads = {}, 0
        try:
            for name, stream in self.streams.items():
                positions = stream.positions(step, self.rank, self.world)
                if len(positions):
                    batches[name] = _batch(stream.batch, positions, self.orders[name], self.sources[name].sample, broken)
                    reads += len(positions)
        except DataError as error:
            return StepResult({}, len(broken), broken, str(error))
        return StepResult(batches, reads + len(broken), broken, None)


class TrainingBatches:
    """Iterator of one optimizer step's batches by stream (those whose turn it is), with ``ready()``, ``counts``, ``close()``.

    Raises DataError when too many files are broken, or when a worker dies, stalls or cannot hand over a batch.
    """

    def __init__(self, dataset: _StepDataset, steps: range, counts: BrokenCounts, workers: int, timeout: float, pin_memory: bool):
        self.counts = counts
        self.sources = dataset.sources
        self._workers = workers = min(workers, len(steps))
        options = {}
        if workers:
            context = multiprocessing.get_context("fork") if sys.platform == "linux" else None
            options = dict(
                prefetch_factor=2, timeout=min(_POLL, timeout), worker_init_fn=_init_worker, multiprocessing_context=context
            )
        self._timeout = timeout
        self._next: StepResult | None = None
        self._opening: Future[StepResult] | None = None
        self._opener = ThreadPoolExecutor(1, "open batch")
        self._waiting_since: float | None = None
        self._said = self._unshared = False
        options |= {"batch_size": None, "sampler": steps, "num_workers": workers, "collate_fn": _unchanged}
        try:
            self._iterator = iter(DataLoader(dataset, pin_memory=pin_memory, **options))
        except OSError as error:
            if not workers:
                raise
            raise DataError(
                f"{workers} data workers cannot be started: {error}. They need semaphores in /dev/shm ({shared_memory()}) and "
                "processes (ulimit -u); data.workers=0 reads in the main process"
            ) from error

    def __iter__(self) -> "TrainingBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        while not self.ready():
            pass
        result, self._next = self._next, None
        return result.batches

    def ready(self) -> bool:
        """Wait a few seconds for the next batch; True when it is there. StopIteration after the last one, DataError as above."""
        if self._next is not None:
            return True
        if self._iterator is None:
            raise StopIteration
        began = self._waiting_since = self._waiting_since or time.monotonic()
        try:
            result = self._fetch()
        except (RuntimeError, EOFError, OSError) as error:
            # An error that was raised in a worker is "Caught".
            waited = time.monotonic() - began
            if str(error).startswith(_TIMED_OUT) and waited < self._timeout:
                self._say_waiting(waited)
                return False
            self.close()
            if not self._workers or str(error).startswith("Caught"):
                raise
            raise _worker_error(error, waited) from error
        except BaseException:
            self.close()
            raise
        self._waiting_since, self._said = None, False
        if result.unshared and not self._unshared:
            self._unshared = True
            _log.warning(
                f"data workers cannot use shared memory for batches ({result.unshared}; /dev/shm has {shared_memory()}): they "
                "come through pipes, which takes longer. Give it more (docker run --shm-size=8g or --ipc=host), or use fewer "
                "data.workers, each of which keeps two batches ready"
            )
        try:
            self.counts.add(result.reads, result.broken)
            if result.failure is not None:
                raise DataError(result.failure)
        except DataError:
            self.close()
            raise
        self._next = result
        return True

    def _fetch(self) -> StepResult:
        if self._opening is None:
            result = next(self._iterator)
            if not isinstance(result, Packed):
                return result
            # In a thread: the memory's descriptor comes from the worker, and one that is stopped never answers.
            self._opening = self._opener.submit(result.open)
        if not wait([self._opening], min(_POLL, self._timeout)).done:
            raise RuntimeError(f"{_TIMED_OUT}: a worker does not answer")
        opened, self._opening = self._opening, None
        return opened.result()

    def _say_waiting(self, waited: float) -> None:
        if waited > _NOTICE and not self._said:
            self._said = True
            states = ", ".join(f"{worker.pid} {_state(worker.pid)}" for worker in self._iterator._workers)
            _log.warning(
                f"no batch for {waited:.0f} s; data workers: {states}. Is the file system stalled? The run ends after "
                f"{self._timeout:g} s without a batch"
            )

    def close(self) -> None:
        """Stop the workers; further iteration ends at once."""
        iterator, self._iterator = self._iterator, None
        self._opener.shutdown(wait=False)
        if hasattr(iterator, "_shutdown_workers"):
            # torch's handler of SIGCHLD raises wherever it strikes, and the death it reports may be what is dealt with here.
            with contextlib.suppress(RuntimeError):
                if self._waiting_since is not None:  # a thread that waits for a stopped worker would be joined for ever
                    for worker in iterator._workers:
                        worker.kill()
            with contextlib.suppress(RuntimeError):
                iterator._shutdown_workers()
            for worker in iterator._workers:
                if worker.is_alive():  # stalled in a read, and deaf to SIGTERM by _init_worker
                    worker.kill()


def dead_worker(error: BaseException) -> DataError | None:
    """The DataError that an error means where it is torch's word, at whatever moment, that a data worker has died."""
    return _worker_error(error, 0) if type(error) is RuntimeError and str(error).startswith(_DIED) else None


def _worker_error(error: BaseException, waited: float) -> DataError:
    kinds = {_TIMED_OUT: f"gave nothing for {waited:.0f} s", _DIED: "died"}
    hung_up = isinstance(error, (EOFError, ConnectionError, FileNotFoundError))  # of the socket that batches come through
    other = "died" if hung_up else "did not hand over a batch"
    what = next((said for start, said in kinds.items() if str(error).startswith(start)), other)
    return DataError(
        f"a data worker {what}: {error}. Look for a lack of memory (the kernel's log names whom it killed) or of /dev/shm "
        f"({shared_memory()}) and for a stalled file system; data.workers=0 reads in the main process"
    )


def _state(pid: int) -> str:
    """What a process does, as far as Linux tells (proc(5))."""
    names = {"R": "runs", "S": "sleeps", "D": "waits for a disk or file server", "T": "is stopped", "Z": "is dead"}
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "is not seen"
    return names.get(letter, letter)


def training_batches(
    streams: Mapping[str, Stream],
    steps: range,
    *,
    seed: int,
    data: DataConfig,
    rank: int = 0,
    world: int = 1,
    timeout: float = 600,
    pin_memory: bool = False,
) -> TrainingBatches:
    """Batches of some optimizer steps; streams without samples (size 0) are not opened.

    The sample at position n of a stream is a pure function of (seed, epoch, n): batches depend neither on data.workers nor on
    where a run was resumed, and ranks share one global order. timeout: seconds without a batch of the workers that end the run.
    """
    dataset = _StepDataset({name: stream for name, stream in streams.items() if stream.size}, seed, rank, world)
    counts = BrokenCounts(data.max_broken_share, sum(source.files for source in dataset.sources.values()))
    return TrainingBatches(dataset, steps, counts, data.workers, timeout, pin_memory)


def _batch(kind, positions: range, order: SampleOrder, read: Callable[[int, np.random.Generator], Sample], broken: list):
    """The batch of some positions; a broken sample is replaced by the next valid one, read with the same random numbers."""
    samples = []
    for position in positions:
        _, index = order.locate(position)
        for _ in range(min(_MAX_REPLACEMENTS, order.length)):
            try:
                samples.append(read(index, order.rng(position)) | {"sample_ids": np.int64(position)})
                break
            except BrokenFile as error:
                broken.append((error.name, error.reason))
                index = error.resume_at % order.length
        else:
            name, reason = broken[-1]
            raise DataError(f"no valid sample among {min(_MAX_REPLACEMENTS, order.length)} in a row; the last: {name}: {reason}")
    return stack(kind, samples)


def stack(kind, samples: list[Sample]):
    """A batch from samples, tensor by tensor."""
    return kind(**{name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]})


def _unchanged(item):
    return item


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # A scheduler signals the whole process group; the main process saves and then ends its workers itself.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
