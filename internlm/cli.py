"""The ``egoagent`` command: the first word picks a part of the package, and only that part is imported.

Each part is a module with ``add_arguments(parser)`` and ``run(args) -> int``. Help costs no import of torch.
"""

import argparse
import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from internlm import __version__
from internlm.core.errors import UserError
from internlm.core.streams import keep_going

# word: (module, one line of help)
COMMANDS = {
    "demo": ("internlm.demo.command", "make a small world, train both stages, evaluate, write report.html"),
    "train": ("internlm.train.command", "train a config: egoagent train CONFIG [section.key=value ...]"),
    "launch": ("internlm.launch.command", "train on several GPUs of this machine, or as a job of a Slurm cluster"),
    "describe": ("internlm.estimate.describe", "parameters, tokens, FLOPs and memory of a config"),
    "estimate": ("internlm.estimate.command", "memory, bytes sent and step time of a config by mesh, before GPUs are asked for"),
    "eval": ("internlm.eval.command", "evaluate a checkpoint or stored features: knn, linear, retrieval or motion"),
    "ckpt": ("internlm.launch.ckpt", "inspect, verify or convert checkpoints"),
    "export": ("internlm.launch.export", "a Hugging Face folder, torch.export program or ONNX graph of a checkpoint"),
    "import": ("internlm.launch.import_upstream", "a checkpoint in the published project's layout becomes one of ours"),
    "bench": ("internlm.eval.motion.bench_command", "train and compare forecasters of recorded body motion"),
    "world": ("internlm.egoworld.command", "generate EgoWorld takes"),
    "data": ("dataset_preprocess.command", "turn recordings into a take store"),
}
RENAMED = {"plan": "estimate"}

_OWN = ("internlm", "dataset_preprocess")
_FILES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_EXPECTED = (UserError, *_FILES, ModuleNotFoundError)

# A file system that is read-only or full, over its quota, and names that it cannot have.
_REFUSED = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, the command's own code, 2 for what the user can mend, 130 for Ctrl-C."""
    keep_going()
    words = list(sys.argv[1:] if argv is None else argv)
    name = f"egoagent {words[0]}" if words and words[0] in COMMANDS else "egoagent"
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()  # what a full disk refuses is told here rather than by the interpreter
    except KeyboardInterrupt:
        print("egoagent: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _expected(error):
            raise
        if os.environ.get("EGOAGENT_TRACEBACK"):
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"egoagent {__version__}")
        return 0
    if words[0] in RENAMED:
        print(f"egoagent {words[0]} is now egoagent {RENAMED[words[0]]}", file=sys.stderr)
        words[0] = RENAMED[words[0]]
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "egoagent --help lists them"
        print(f"egoagent: no command {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    module_name, summary = COMMANDS[words[0]]
    # OpenMP threads that wait by spinning make two threads 20 times slower than one as soon as another process wants a core.
    # The library reads this when torch loads it, which is later than here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(prog=f"egoagent {words[0]}", description=summary)
    module.add_arguments(parser)
    return module.run(_parse(parser, words[1:])) or 0


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Options may stand between positionals (``train CONFIG --run-dir DIR optim.lr=1e-3``), except beside sub-commands."""
    if any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in parser._actions):
        return parser.parse_args(words)
    return parser.parse_intermixed_args(words)


def _expected(error: Exception) -> bool:
    """What the user can mend: also missing files and missing optional packages, of which our own modules are none."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in _OWN:
        return False
    return isinstance(error, _EXPECTED) or (isinstance(error, OSError) and error.errno in _REFUSED)


def _usage() -> str:
    lines = [f"  {word:<10} {summary}" for word, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: egoagent COMMAND ...",
            "",
            "One causal transformer that represents first-person frames, predicts the next state and the next motion.",
            "",
            "commands:",
            *lines,
            "",
            "egoagent COMMAND --help explains a command; egoagent --version prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
