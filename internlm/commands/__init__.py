"""The words of the command line, a file each; nothing else parses arguments.

A word is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the chosen one is imported. Help costs no import
of torch.
"""

import argparse
import difflib
import importlib
import os
import sys

from internlm import __version__

# word: (module, one line of help)
COMMANDS = {
    "demo": ("internlm.commands.demo", "make a small world, train both stages, evaluate, write report.html"),
    "train": ("internlm.commands.train", "train a config: egoagent train CONFIG [section.key=value ...]"),
    "launch": ("internlm.commands.launch", "train on several GPUs of this machine, or as a job of a Slurm cluster"),
    "describe": ("internlm.commands.describe", "parameters, tokens, FLOPs and memory of a config"),
    "estimate": ("internlm.commands.estimate", "memory, bytes sent and step time of a config by mesh, before GPUs are asked for"),
    "eval": ("internlm.commands.eval", "evaluate a checkpoint or stored features: knn, linear, retrieval or motion"),
    "ckpt": ("internlm.commands.ckpt", "inspect, verify or convert checkpoints"),
    "export": ("internlm.commands.export", "a Hugging Face folder, torch.export program or ONNX graph of a checkpoint"),
    "import": ("internlm.commands.import_upstream", "a checkpoint in the published project's layout becomes one of ours"),
    "bench": ("internlm.commands.bench", "train and compare forecasters of recorded body motion"),
    "world": ("internlm.commands.world", "generate EgoWorld takes"),
    "data": ("internlm.commands.data", "turn recordings into a take store"),
}
RENAMED = {"plan": "estimate"}


def run(words: list[str]) -> int:
    """Run the command that ``words`` name; returns its exit code, 2 where there is none."""
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
    return module.run(parse(parser, words[1:])) or 0


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Options may stand between positionals (``train CONFIG --run-dir DIR optim.lr=1e-3``), except beside sub-commands."""
    if any(action.nargs in (argparse.PARSER, argparse.REMAINDER) for action in parser._actions):
        return parser.parse_args(words)
    return parser.parse_intermixed_args(words)


def _usage() -> str:
    lines = "\n".join(f"  {word:<10} {summary}" for word, (_, summary) in COMMANDS.items())
    what = "One causal transformer that represents first-person frames, predicts the next state and the next motion."
    more = "egoagent COMMAND --help explains a command; egoagent --version prints the version."
    return f"usage: egoagent COMMAND ...\n\n{what}\n\ncommands:\n{lines}\n\n{more}"
