"""Being told to stop: finish the step, save, leave with a documented code.

Exit codes of ``egoagent train``: 0 = the run is complete; 75 (EX_TEMPFAIL) = stopped by SIGTERM, SIGINT or SIGUSR1 with a
checkpoint saved, the same command continues; 3 = too many bad steps; 4 = stood still, or another process was lost: the same
command continues from the last checkpoint; 2 = something else that the message tells how to mend (config, data, checkpoint);
1 = a defect, with its traceback.
"""

import signal
import threading
from types import FrameType

EXIT_STOPPED = 75
EXIT_BAD_STEPS = 3
EXIT_STUCK = 4

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Context in which a stopping signal sets ``received`` to its name instead of ending the process.

    A second SIGINT interrupts at once: someone at a keyboard does not want to wait. Outside the main thread, where
    Python does not allow handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in STOPPING}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
