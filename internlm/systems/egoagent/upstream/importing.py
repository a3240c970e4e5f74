"""From upstream's folders to a checkpoint of this project, which every command that takes a checkpoint reads."""

from dataclasses import dataclass
from pathlib import Path

import torch

from internlm.checkpoint.lock import new_folder
from internlm.checkpoint.manager import CheckpointManager
from internlm.config.places import PATHS_FROM, portable

from ..config import EgoAgentConfig as Config
from ..network import EgoNetwork
from ..system import EgoAgentSystem, build
from .reading import ACTIONS, Rename, UpstreamError, UpstreamNetwork, is_upstream, read_upstream

FRESH_SEED = 1024  # of parts that the files do not hold


@dataclass(frozen=True)
class Imported:
    """What became of the files."""

    path: Path  # the step_* folder
    student: UpstreamNetwork
    teacher: UpstreamNetwork | None
    fresh: tuple[str, ...]  # of the predictor: initialised here, never trained

    def __str__(self) -> str:
        student, teacher = self.student, self.teacher
        lines = [
            f"predictor: {len(student.tensors)} tensors of {student.folder}, joined from {student.ranks} tensor-parallel shards",
            f"observer: {teacher.folder if teacher else 'a copy of the predictor (no teacher folder was found)'}",
        ]
        for title, names in (("not used", student.unused), ("initialised here, never trained", self.fresh)):
            lines += [f"{title} ({len(names)}): {', '.join(names)}"] if names else []
        return "\n".join([*lines, f"written to {self.path}"])


def import_upstream(
    folder: str | Path, out: str | Path, *, teacher: str | Path | None = None, config: Config | None = None, rename: Rename = ()
) -> Imported:
    """Write ``out/step_<step>``: the predictor from ``folder``, the observer from ``teacher``.

    Args:
        teacher: folder of the other branch; None looks for it where upstream saves it, and copies the student if it is not there.
        config: the run's config; None makes one from ``model_config.pt`` that is right about the model alone.
        rename: see ``read_upstream``.

    Raises UpstreamError, FileExistsError when ``out`` is not empty, CheckpointError when the disk refuses.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists already; give a new folder")
    shape = None if config is None else config.model
    student = read_upstream(folder, model=shape, rename=rename)
    found = Path(teacher) if teacher else teacher_of(student.folder)
    other = read_upstream(found, model=shape or student.model, rename=rename) if found else None
    if other and other.folder.resolve() == student.folder.resolve():
        raise UpstreamError(f"{folder} is given as both the student and the teacher")
    if config is not None and config.stage == "joint" and not student.actions:
        raise UpstreamError(f"the config is of stage 'joint', but {student.folder} holds no action parts")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FRESH_SEED)
        predictor = EgoNetwork(student.model).state_dict()
    fresh = tuple(name for name in predictor if name not in student.tensors)
    observer = {name: (other or student).tensors[name] for name in predictor if not name.startswith(ACTIONS)}
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
    parts = {"predictor": predictor | student.tensors, "observer": observer, "loss": {}}
    with new_folder(out):
        return Imported(CheckpointManager(out).save(student.step, parts, meta), student, other, fresh)


def open_branch(folder: str | Path, branch: str | None = None, rename: Rename = ()) -> tuple[Path, EgoAgentSystem, str, int]:
    """The weights in a folder, as ``observer`` those of the teacher beside it. Raises UpstreamError.

    Returns the step's folder, a system that has the weights in the branch and shapes alone in the other, the branch, the step.
    """
    loaded = read_upstream(folder, rename=rename)
    if branch == "observer":
        teacher = teacher_of(loaded.folder)
        if teacher is None:
            raise UpstreamError(f"{folder} has no teacher beside it; without --network, the weights in it are exported")
        loaded = read_upstream(teacher, model=loaded.model, rename=rename)
    network = EgoNetwork(loaded.model, actions=branch != "observer" and loaded.actions)
    network.load_state_dict({name: loaded.tensors[name] for name in network.state_dict()})
    with torch.device("meta"):
        system = build(model_only_config(loaded))
    branch = branch or "predictor"
    setattr(system.agent, branch, network.eval())
    return loaded.folder, system, branch, loaded.step


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


def model_only_config(network: UpstreamNetwork) -> Config:
    """A config with the network's shape and stage; data and training are the defaults, not upstream's."""
    parts = network.folder.resolve().parts
    job = parts[-2] if network.folder.name.isdigit() and len(parts) > 1 else network.folder.name
    stage = {"stage": "joint", "train": {"clip_batch": 1, "image_batch": 1, "accumulation": 1}} if network.actions else {}
    return Config.model_validate({"job_name": job, "model": network.model.model_dump(), **stage})
