"""``egoagent ckpt inspect|verify|convert``: what a checkpoint holds, whether every byte is right, and another layout of it."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from internlm.eval.options import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="inspect|verify|convert")
    inspect = actions.add_parser("inspect", help="step, counters, mesh, code, parts, and the config where it is not the default")
    inspect.add_argument("--tensors", action="store_true", help="also every tensor: name, type, shape, in how many pieces")
    verify = actions.add_parser("verify", help="read every byte of every checkpoint; exit code 2 where one is damaged")
    convert = actions.add_parser("convert", help="write it with whole tensors, whatever mesh wrote it")
    convert.add_argument("--files", type=whole(1), default=1, metavar="N", help="divide each part over N files (default 1)")
    for action in (inspect, verify, convert):
        action.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="run folder, or a step_* folder of it")
    convert.add_argument("out", type=Path, metavar="OUT", help="new folder; OUT/step_* is written")


def run(args: argparse.Namespace) -> int:
    """Returns 0, or 2 where a checkpoint is damaged."""
    return {"inspect": _inspect, "verify": _verify, "convert": _convert}[args.action](args)


def _inspect(args: argparse.Namespace) -> int:
    from internlm.checkpoint.manager import read_checkpoint

    checkpoint = read_checkpoint(_checkpoints(args.source)[-1], None, slice(0))
    print("\n".join(_description(checkpoint, tensors=args.tensors)))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from internlm.checkpoint.manager import CheckpointError, read_checkpoint
    from internlm.checkpoint.sums import CHECKSUMS, read_sums

    damaged = 0
    for path in _checkpoints(args.source):
        try:
            read_checkpoint(path)
            own = read_sums(path).keys() | {CHECKSUMS}
            foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in own)
            beside = f"; not part of it: {', '.join(foreign)}" if foreign else ""
            print(f"{path}: intact, {_megabytes((path / name).stat().st_size for name in own)}{beside}")
        except CheckpointError as error:
            damaged += 1
            print(f"egoagent ckpt: DAMAGED {error}", file=sys.stderr)
    return 2 if damaged else 0


def _convert(args: argparse.Namespace) -> int:
    from internlm.checkpoint.convert import convert_checkpoint
    from internlm.checkpoint.manager import find_checkpoint

    source = find_checkpoint(args.source)
    path = convert_checkpoint(source, args.out, files=args.files)
    print(f"{source.path} -> {path}: every tensor is equal")
    return 0


def _checkpoints(source: Path) -> list[Path]:
    """The checkpoints that a path means, ascending. Raises CheckpointError where there is none."""
    from internlm.checkpoint.manager import CheckpointError, CheckpointManager, checkpoints_of, is_checkpoint

    if is_checkpoint(source):
        return [source]
    manager = CheckpointManager(checkpoints_of(source))
    found = [manager.path(step) for step in manager.list()]
    if not found:
        raise CheckpointError(f"no checkpoint in {source}; expected a run folder, its 'checkpoints' folder or a 'step_*' folder")
    return found


def _description(checkpoint: Any, *, tensors: bool) -> Iterator[str]:
    from internlm.config.load import dotted
    from internlm.config.resolve import DEFAULT, config_class
    from internlm.core.code_version import described
    from internlm.data.contents import listed

    meta = checkpoint.meta
    counters = {name: value for name, value in meta.get("counters", {}).items() if name != "step"}
    mesh = " × ".join(f"{axis} {size}" for axis, size in meta.get("mesh", {}).items()) or "not recorded"
    yield str(checkpoint.path)
    yield f"step      {checkpoint.step}"
    yield f"counters  {', '.join(f'{name} {value}' for name, value in counters.items()) or 'none'}"
    yield f"mesh      {mesh}"
    yield f"code      {described(meta.get('code'))}"
    yield f"format    version {meta['version']}"
    for stream, units in meta.get("data", {}).items():
        yield f"data      {stream}: {listed(f'{name} ({text})' for name, text in units.items())}"
    yield f"{'part':<12}{'tensors':>8}{'values':>15}{'bytes':>12}  types"
    for part, found in checkpoint.index.items():
        values = sum(stored.size // stored.dtype.itemsize for stored in found.values())
        types = ", ".join(sorted({_type(stored) for stored in found.values()}))
        files = len({file for stored in found.values() for file, _, _ in stored.pieces})
        line = f"{part:<12}{len(found):>8}{values:>15,}{_megabytes(stored.size for stored in found.values()):>12}  {types}"
        yield line + (f" in {files} files" if files > 1 else "")
        if tensors:
            for name, stored in sorted(found.items()):
                pieces = f" in {len(stored.pieces)} pieces" if len(stored.pieces) > 1 else ""
                yield f"    {name}  {_type(stored)} {list(stored.shape)}{pieces}"
    config = meta.get("config", {})
    default = dict(dotted(config_class(config.get("system", DEFAULT)).model_construct().model_dump(mode="json")))
    changed = {key: value for key, value in dotted(config) if key not in default or default[key] != value}
    yield "config, where it differs from the defaults:" if config else "no config"
    for key, value in changed.items():
        yield f"    {key} = {value!r}" + (f"  (default {default[key]!r})" if key in default else "  (not a key today)")


def _type(stored: Any) -> str:
    return str(stored.dtype).removeprefix("torch.")


def _megabytes(sizes: Iterator[int]) -> str:
    return f"{sum(sizes) / 1e6:,.1f} MB"
