"""From upstream's folders to a checkpoint of this project, which every command that takes a checkpoint reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from internlm.checkpoint.lock import new_folder
from internlm.checkpoint.manager import CheckpointManager
from internlm.config.places import PATHS_FROM, portable
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.network import EgoNetwork

from .errors import ExportError
from .upstream import UpstreamNetwork, is_upstream, read_upstream

FRESH_SEED = 1024  # of parts that the files do not hold


@dataclass(frozen=True)
class Imported:
    """What became of the files."""

    path: Path  # the step_* folder
    student: UpstreamNetwork
    teacher: UpstreamNetwork | None
    fresh: tuple[str, ...]  # of the predictor: initialised here, never trained


def import_upstream(
    folder: str | Path,
    out: str | Path,
    *,
    teacher: str | Path | None = None,
    config: Config | None = None,
    rename: Sequence[tuple[str, str]] = (),
) -> Imported:
    """Write ``out/step_<step>``: the predictor from ``folder``, the observer from ``teacher``.

    Args:
        teacher: folder of the other branch; None looks for it where upstream saves it, and copies the student if it is not there.
        config: the run's config; None makes one from ``model_config.pt`` that is right about the model alone.
        rename: see ``read_upstream``.

    Raises ExportError, FileExistsError when ``out`` is not empty, CheckpointError when the disk refuses.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; give a new folder")
    shape = None if config is None else config.model
    student = read_upstream(folder, model=shape, rename=rename)
    found = Path(teacher) if teacher else teacher_of(student.folder)
    other = read_upstream(found, model=shape or student.model, rename=rename) if found else None
    if other and other.folder.resolve() == student.folder.resolve():
        raise ExportError(f"{folder} is given as both the student and the teacher")
    if config is not None and config.stage == "joint" and not student.actions:
        raise ExportError(f"the config is of stage 'joint', but {student.folder} holds no action parts")
    predictor, fresh = complete(student)
    observer_names = _own_tensors(student.model, actions=False).keys()
    observer = (other or student).tensors
    values, paths_from = portable((config or model_only_config(student)).model_dump(mode="json"), out)
    meta = {
        "config": values,
        PATHS_FROM: paths_from,
        "imported": {
            "student": str(student.folder),
            "teacher": str(other.folder) if other else None,
            "tensor_parallel_ranks": student.ranks,
            "unused": list(student.unused),
            "fresh": list(fresh),
        },
    }
    parts = {"predictor": predictor, "observer": {name: observer[name] for name in observer_names}, "loss": {}}
    with new_folder(out):
        return Imported(CheckpointManager(out).save(student.step, parts, meta), student, other, fresh)


def teacher_of(student: Path) -> Path | None:
    """Where upstream saves the teacher of a student's ``<root>/<JOB>/<step>``: ``<JOB>_teacher``, or ``llm_teacher_ckpts``."""
    student = student.resolve()
    if not student.name.isdigit():
        return None
    job = student.parent
    places = [job.with_name(f"{job.name}_teacher")]
    if job.parent.name == "llm_ckpts":
        places.append(job.parent.with_name("llm_teacher_ckpts") / job.name)
    return next((place / student.name for place in places if is_upstream(place / student.name)), None)


def complete(network: UpstreamNetwork) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """All tensors of a predictor and the names of those that upstream does not hold: stage 1 has no action parts."""
    own = _own_tensors(network.model, actions=True)
    fresh = tuple(name for name in own if name not in network.tensors)
    return {name: network.tensors.get(name, own[name]) for name in own}, fresh


def model_only_config(network: UpstreamNetwork) -> Config:
    """A config with the network's shape and stage; data and training are the defaults, not upstream's."""
    parts = network.folder.resolve().parts
    job = parts[-2] if network.folder.name.isdigit() and len(parts) > 1 else network.folder.name
    stage = {"stage": "joint", "train": {"clip_batch": 1, "image_batch": 1, "accumulation": 1}} if network.actions else {}
    return Config.model_validate({"job_name": job, "model": network.model.model_dump(), **stage})


def _own_tensors(model, *, actions: bool) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FRESH_SEED)
        return EgoNetwork(model, actions=actions).state_dict()
