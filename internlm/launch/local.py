"""A training run on this machine: in this process, or in several under torch's elastic agent, which is what torchrun is."""

import os
import runpy
import sys
import warnings
from collections.abc import Sequence

from internlm.core.launch import ALL_VARIABLES
from internlm.train.signals import EXIT_STOPPED

SIGNALS = "SIGTERM,SIGINT,SIGUSR1"  # passed on to the processes; torchrun alone would die of SIGUSR1


def torchrun_words(words: Sequence[str], *, processes: int, max_restarts: int, grace: int) -> list[str]:
    """Arguments of torchrun that run ``egoagent`` with these words in so many processes of this machine."""
    options = [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",  # a free port, as --standalone means it
        f"--nproc-per-node={processes}",
        f"--max-restarts={max_restarts}",
        f"--signals-to-handle={SIGNALS}",
        f"--shutdown-timeout={grace}",
    ]
    return [*options, "-m", "internlm.cli", *words]


def run_local(words: Sequence[str], *, processes: int, max_restarts: int, grace: int) -> int:
    """Run ``egoagent`` with these words and return its exit code, where torchrun's own would be 1 for everything.

    grace: seconds that stopped processes have for their last save. A crash starts all processes again, ``max_restarts`` times.
    """
    if processes == 1:
        before = {name: os.environ.pop(name) for name in ALL_VARIABLES if name in os.environ}  # of whatever this was started in
        try:
            return run_command(words)
        finally:
            os.environ |= before
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    arguments = parse_args(torchrun_words(words, processes=processes, max_restarts=max_restarts, grace=grace))
    config, command, command_words = config_from_args(arguments)
    try:
        elastic_launch(config, command)(*command_words)
    except SignalException as error:
        print(f"egoagent launch: {error}; the same command continues from the last checkpoint", file=sys.stderr)
        return EXIT_STOPPED
    except ChildFailedError as error:
        # The first to fail says why; the others were ended because of it.
        first = error.get_first_failure()[1]
        return first.exitcode if first.exitcode > 0 else 1
    return 0


def run_command(words: Sequence[str]) -> int:
    """Run ``egoagent`` with these words in this process, as a shell would, and return its exit code."""
    before = sys.argv
    sys.argv = ["egoagent", *words]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'internlm.cli' found in sys.modules", RuntimeWarning)  # `egoagent launch` is it
            runpy.run_module("internlm.cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0
