"""One training a run folder: a lock that several machines see, that tells who holds it and that a killed holder loses.

``training-<n>.lock`` in the folder says who holds it; the highest number holds. It is made by a hard link, which is atomic on
NFS and Lustre, where flock may be missing or local to a machine. Its holder touches it every ``beat`` seconds. A holder is gone
when its process is (seen from the same machine), when Slurm has queued its job again, or when the file has not been touched while
somebody watched for ``patience`` seconds: nobody compares the clocks of two machines. A process that finds the holder gone makes
number n + 1, which only one can do. A holder that was stopped for so long finds out by ``check``, before it writes.

Reading needs no lock: what is visible in a run folder is complete.
"""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from internlm.core.errors import UserError

BEAT, PATIENCE = 10.0, 60.0  # seconds
PATTERN = "training-*.lock"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of file systems without hard links

log = logging.getLogger(__name__)


class RunLockError(UserError):
    """Another process trains in this run folder, or the folder cannot be written."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run folder."""

    host: str = "an unknown host"
    pid: int = 0
    since: str = "an unknown time"
    job: str = ""  # of Slurm
    restarts: int = 0  # how often Slurm has queued that job again
    machine: str = ""  # differs between boots and between containers; empty where the system does not say
    started: str = ""  # when the process began, which tells it from a later one of its number
    folder: int = 0  # the folder's number on its disk: a copy has another
    token: str = ""

    def __str__(self) -> str:
        job = f", Slurm job {self.job.partition('@')[0]}" if self.job else ""
        return f"process {self.pid} on {self.host} since {self.since}{job}"


class RunLock:
    """Context that holds a run folder for this process; other folders and other processes' locks are left alone.

    Raises RunLockError when another process holds it, which takes up to ``patience`` seconds to see where that is on another
    machine, and when the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self.folder, self.beat, self.patience = Path(folder), beat, patience
        self._number, self._content = 0, b""
        self._done = threading.Event()

    def __enter__(self) -> "RunLock":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.me = this_process(self.folder)
            self._content = json.dumps(asdict(self.me)).encode()
            self._acquire()
        except OSError as error:
            raise RunLockError(f"{self.folder} cannot be locked for writing: {error}") from error
        self._thread = threading.Thread(target=self._keep, name="run lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join(self.beat)
        try:
            if self._read(self._number) == self._content:
                self._remove(self._number)
        except OSError as error:
            log.warning("%s is not given back: %s", self.folder, error)

    def check(self) -> None:
        """Raise RunLockError unless this process still holds the folder."""
        numbers = self._numbers()
        if self._read(self._number) != self._content or max(numbers, default=0) != self._number:
            other = f" by {_parsed(self._read(max(numbers)))}" if numbers else ""
            me = f"this process (number {self.me.pid} on {self.me.host})"
            raise RunLockError(f"{self.folder} was taken over{other} while {me} stood still; it writes nothing more and ends")

    def _acquire(self) -> None:
        taken: set[int] = set()
        while True:
            before, taken = self._numbers() | taken, set()
            top = max(before, default=0)
            content = self._read(top) if top else b""
            if content is None or (top and self._is_alive(top, content)):
                continue  # released meanwhile, or read anew
            number = top + 1
            if not self._claim(number):
                taken = {number}  # a directory listing on NFS may be older than that
                continue
            if self._numbers() == before | {number} and (not top or self._read(top) == content):
                break
            self._remove(number)  # somebody was faster; look again
        self._number = number
        for gone in before:
            with suppress(OSError):  # the highest number holds, whatever stays below
                self._remove(gone)
        if top:
            log.warning("took over %s from %s, which has ended without giving it back", self.folder, _parsed(content))

    def _is_alive(self, number: int, content: bytes) -> bool:
        """False: its holder is gone. True: it has changed and must be read anew. RunLockError: somebody holds the folder."""
        holder = _parsed(content)
        held = RunLockError(
            f"{self.folder} is held by {holder}, and two would overwrite each other; "
            "stop that one, wait for its end, or give another folder (run_dir)"
        )
        if alive := _still_runs(holder, self.me):
            raise held
        if alive is False:
            return False
        seen, began = self._stamp(number), time.monotonic()
        log.warning("%s is locked by %s: watching for up to %g s whether that still runs", self.folder, holder, self.patience)
        while time.monotonic() - began < self.patience:
            time.sleep(min(1.0, self.patience / 10))
            now = self._stamp(number)
            if now is None or self._read(number) != content:
                return True
            if now != seen:
                raise held
        return False

    def _claim(self, number: int) -> bool:
        """Make the lock file of a number with its whole content; False where it is there already."""
        temporary = self.folder / f".{self.me.token}.lock"
        try:
            temporary.write_bytes(self._content)
            os.link(temporary, self._path(number))
            return True
        except FileExistsError:
            return temporary.stat().st_nlink == 2  # made by this call, whose answer NFS lost and asked for again
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        finally:
            temporary.unlink(missing_ok=True)
        try:
            with self._path(number).open("xb") as file:
                file.write(self._content)
        except FileExistsError:
            return False
        return True

    def _keep(self) -> None:
        while not self._done.wait(self.beat):
            try:
                os.utime(self._path(self._number))
            except FileNotFoundError:
                return  # taken over; ``check`` says so
            except OSError as error:
                log.debug("no heartbeat in %s: %s", self.folder, error)

    def _numbers(self) -> set[int]:
        found = (path.name.removeprefix("training-").removesuffix(".lock") for path in self.folder.glob(PATTERN))
        return {int(text) for text in found if text.isdecimal()}

    def _path(self, number: int) -> Path:
        return self.folder / PATTERN.replace("*", str(number))

    def _read(self, number: int) -> bytes | None:
        try:
            return self._path(number).read_bytes()
        except FileNotFoundError:
            return None

    def _stamp(self, number: int) -> int | None:
        try:
            with self._path(number).open("rb") as file:  # opening it asks the server; a plain stat may be answered by a cache
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Hold a folder that is new or empty while it is filled. Raises FileExistsError, or RunLockError where another fills it."""

    def check() -> None:
        if path.exists() and (not path.is_dir() or any(not entry.match(PATTERN) for entry in path.iterdir())):
            raise FileExistsError(f"{path} exists already; give a new folder")

    check()
    with RunLock(path):
        check()
        yield


def this_process(folder: Path) -> Holder:
    """This process as the holder of a folder."""
    environment = os.environ.get
    job = environment("SLURM_JOB_ID", "")
    restarts = environment("SLURM_RESTART_COUNT", "")
    state = _state(os.getpid())
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        job=f"{job}@{environment('SLURM_CLUSTER_NAME', '')}" if job else "",
        restarts=int(restarts) if restarts.isdecimal() else 0,
        machine=_machine(),
        started=state[1] if state else "",
        folder=folder.stat().st_ino,
        token=secrets.token_hex(8),
    )


def _still_runs(holder: Holder, me: Holder) -> bool | None:
    """Whether a holder still runs, or None where that cannot be told from here."""
    if holder.job and holder.job == me.job and holder.restarts < me.restarts:
        return False  # Slurm queues a job again when its processes are gone
    if holder.machine != me.machine or (not me.machine and holder.host != me.host) or holder.pid <= 0:
        return None
    state = _state(holder.pid)
    if state:
        runs = state[1] == holder.started and state[0] not in "ZX"
        return runs if not runs or holder.folder == me.folder else None
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return None  # a process of that number, of which the system says no more


def _state(pid: int) -> tuple[str, str] | None:
    """State (R, S, Z, …) and time of start in ticks since boot of a process; None where Linux does not show it (proc(5))."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except (OSError, IndexError):
        return None


def _machine() -> str:
    """What two processes that see each other's numbers have in common: the boot and the namespace of process numbers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _parsed(content: bytes | None) -> Holder:
    """A holder from its file; what a damaged file does not say is unknown."""
    try:
        found = json.loads(content or b"{}")
        kinds = {field.name: type(field.default) for field in fields(Holder)}
        return Holder(**{name: value for name, value in found.items() if isinstance(value, kinds.get(name, ()))})
    except (ValueError, AttributeError, TypeError):
        return Holder()
