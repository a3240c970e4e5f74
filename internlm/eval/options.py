"""Options of evaluations, declared once: fields of a dataclass, which the command line and Python callers share.

Nothing heavy is imported here: help must not load torch.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import EvalError

if TYPE_CHECKING:
    import torch

Options = TypeVar("Options")
MOST = 2**31 - 1  # of anything that is counted
MODEL = "model"  # the options of which one says what is evaluated


def option(default: Any, help: str | None = None, *names: str, one_of: str | None = None, **argument: Any) -> Any:
    """A field of an options dataclass that the command line shows too.

    ``names``: what it is called on the command line, where that is more than the field's name. ``one_of``: a group of options of
    which exactly one is given. The rest is as for ``argparse``'s ``add_argument``.
    """
    about = {"help": help, "names": names, "one_of": one_of, **argument}
    return field(**{"default_factory": default} if callable(default) else {"default": default}, metadata=about)


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """The fields of an options dataclass as arguments of a command."""
    groups: dict[str, Any] = {}
    for found in fields(options):
        about = dict(found.metadata)
        names, group, help = about.pop("names"), about.pop("one_of"), about.pop("help")
        into: Any = parser
        if group:
            into = groups[group] = groups.get(group) or parser.add_mutually_exclusive_group(required=True)
        default = found.default if found.default_factory is MISSING else found.default_factory()
        if isinstance(default, bool):
            about["action"] = "store_true"
        elif default not in (None, (), "") and help and "(default" not in help:
            help += f" (default {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        names = names or (f"--{found.name.replace('_', '-')}",)
        into.add_argument(*names, dest=found.name, default=default, help=help, **about)


def read_options(options: type[Options], args: argparse.Namespace) -> Options:
    """The dataclass from parsed arguments; lists become tuples."""
    values = {name: getattr(args, name) for name in (found.name for found in fields(options))}
    return options(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def whole(least: int, most: int = MOST) -> Callable[[str], int]:
    """Type of an option that is a whole number in least..most."""
    return _reader(int, "a whole number", least, most, MOST)


def real(least: float, most: float = math.inf, *, inner: bool = False) -> Callable[[str], float]:
    """Type of an option that is a finite number in least..most, or strictly between them."""
    return _reader(float, "a number", least, most, math.inf, inner)


def _reader(kind: Any, what: str, least: float, most: float, unbounded: float, inner: bool = False) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if value == math.inf or not (least < value < most if inner else least <= value <= most):
            low = f"above {least:g}" if inner else f"of {least:g} or more"
            high = "" if most == unbounded else f" and {'below' if inner else 'at most'} {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {low}{high}")
        return value

    return read


class Checked:
    """Options whose numbers are checked by the types that their fields declare, whoever gives them. Raises EvalError."""

    def __post_init__(self) -> None:
        for found in fields(self):  # type: ignore[arg-type]
            value, read = getattr(self, found.name), found.metadata.get("type", str)
            name = found.name.replace("_", " ")
            if value == () and found.default != ():
                raise EvalError(f"{name}: there is nothing; give at least one")
            try:
                for each in value if isinstance(value, tuple) else (value,):
                    if isinstance(each, int | float):
                        read(str(each))
            except argparse.ArgumentTypeError as error:
                raise EvalError(f"{name}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Checked):
    """What every evaluation asks: the model, the data, how much of it, where, and where the result goes."""

    run: str | None = option(None, "run folder; its newest checkpoint is taken", one_of=MODEL)
    checkpoint: str | None = option(None, "a checkpoint folder (step_...)", one_of=MODEL)
    data: tuple[str, ...] = option((), "evaluated data (default: the run's)", nargs="+")
    split: str = option("val", "split of the evaluated takes (take stores only; default val)")
    limit: int | None = option(None, "at most so many samples, spread evenly", type=whole(1))
    batch: int = option(16, "samples at a time", type=whole(1))
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    out: Path | None = option(None, "write the result, its protocol and floors as JSON", type=Path)

    @property
    def source(self) -> str:
        """What is evaluated, as it was given."""
        return str(self.run or self.checkpoint)


@dataclass(frozen=True, kw_only=True)
class ClipOptions(EvalOptions):
    """And of an evaluation on clips."""

    hop: int | None = option(None, "frame numbers between clips' first frames (default: no shared image)", type=whole(1))


@dataclass(frozen=True, kw_only=True)
class Extraction(Checked):
    """How features are taken from images."""

    batch: int = option(128, "images at a time", type=whole(1))
    limit: int | None = option(None, "at most so many images, spread evenly", type=whole(1))
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    dtype: str = option("float32", "precision", choices=("auto", "float32", "bfloat16"))
    cache: Path | None = option(None, "folder that keeps extracted features, found again by weights and images", type=Path)
    workers: int = option(0, "threads that read images ahead", "--workers", "--num_workers", type=whole(0))
    max_broken_share: float = option(0.01, "share of unreadable images that may be left out", type=real(0, 1))

    @cached_property
    def place(self) -> "torch.device":
        """Where features are computed."""
        from internlm.core.init import choose_device
        from internlm.core.mesh import local_device

        return local_device(choose_device(self.device))

    @cached_property
    def precision(self) -> "torch.dtype":
        """In what they are computed."""
        from internlm.core.init import choose_dtype

        return choose_dtype(self.dtype, self.place)
