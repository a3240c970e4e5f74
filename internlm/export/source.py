"""What is exported, from a run, a checkpoint or a folder in another project's layout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from internlm.checkpoint.manager import find_checkpoint
from internlm.config.resolve import parse_config
from internlm.config.schema import Config
from internlm.systems.base import Exports
from internlm.systems.resolve import foreign_layout, load_system

from .errors import ExportError


@dataclass(frozen=True)
class Source:
    """A branch and where it comes from."""

    path: Path
    system: Exports  # the data's paths in its config are for the working directory
    network: nn.Module  # in eval mode, float32, on the CPU
    branch: str
    recorded: Config  # the config with the data's paths in the run's own words
    step: int
    trained_here: bool  # else imported from another project's layout, with a config that is right about the model alone


def load_source(path: str | Path, branch: str | None = None, rename: Sequence[tuple[str, str]] = ()) -> Source:
    """A branch, by default the usual one of a run and the very weights of a foreign folder.

    Raises ExportError for what is not there or cannot be exported, CheckpointError, and the foreign layout's own error.
    """
    path = Path(path)
    if not path.exists():
        raise ExportError(f"{path} does not exist; give a run folder, a checkpoint (step_...) or a folder in upstream's layout")
    if layout := foreign_layout(path):
        path, system, branch, step = layout.open_branch(path, branch, rename)
        recorded, trained_here = system.config, False
    else:
        meta = find_checkpoint(path, ()).meta
        system, step = load_system(path)
        recorded, trained_here = parse_config(meta["config"]), "imported" not in meta
    if not isinstance(system, Exports):
        needed = Exports.__doc__.splitlines()[0]
        raise ExportError(f"{path} is of system {system.config.system!r}; this needs a run of one that {needed}")
    branch = branch or system.branches[0]
    if branch not in system.branches:
        raise ExportError(f"{path} has no network {branch!r}; choose from {', '.join(system.branches)}")
    return Source(path, system, system.exported(branch), branch, recorded, step, trained_here)
