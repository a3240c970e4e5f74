"""Clips of held-out takes through a system, teacher-forced: what retrieval and motion are measured from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from internlm.core.collectives import rank, world_size
from internlm.data.batch import ClipBatch, to_device
from internlm.data.clips import ClipDataset
from internlm.data.evaluation import evaluation_clips
from internlm.systems.base import Foresees

from .errors import EvalError
from .options import ClipOptions
from .ranks import gathered, own_share
from .task import Subject

Device = torch.device | str
_SIDES = ("prediction", "observed")
_KEPT = ("poses", "visible", "past_poses", "past_visible", "takes", "frame_numbers")


@dataclass(frozen=True)
class ClipOutputs:
    """C clips of T steps after one teacher-forced pass; all on the CPU, float32 and metres."""

    prediction: dict[str, Tensor]  # by feature [C, T, D]: of S'_{t+1}
    observed: dict[str, Tensor]  # by feature [C, T+1, D]: as each frame is seen
    action: Tensor  # [C, T, P, J, 3]: A'_t
    poses: Tensor  # [C, T, P, J, 3]
    visible: Tensor  # bool [C, T, P, J]
    past_poses: Tensor  # [C, T, P, J, 3]
    past_visible: Tensor  # bool [C, T, P, J]
    takes: Tensor  # int64 [C], row in the dataset's take table
    frame_numbers: Tensor  # int64 [C, T+1]


def evaluated_clips(subject: Subject, how: ClipOptions, features: Sequence[str]) -> tuple[ClipOutputs, ClipDataset, list[str]]:
    """The clips that options name through a system, their dataset, and the paths they come from."""
    system = subject.system
    data = subject.data(how.data, system.config.data.clips)
    dataset = system.clips(data, how.split)
    return run_clips(system, clip_batches(dataset, how), features=features, device=subject.device), dataset, data


def clip_batches(dataset: ClipDataset, options: ClipOptions) -> Iterable[ClipBatch]:
    """This process's share of the evaluated clips."""
    return evaluation_clips(dataset, options.batch, hop=options.hop, limit=options.limit, only=own_share)


@torch.no_grad()
def run_clips(
    system: Foresees, batches: Iterable[ClipBatch], *, features: Sequence[str] | None = None, device: Device = "cpu"
) -> ClipOutputs:
    """Predicted and observed states of clips, true actions fed up to each step (teacher forcing); None: the usual feature's.

    On several processes ``batches`` are this one's share (``clip_batches``, not mixed) and process 0 gets all clips in order,
    the others none.
    """
    features = system.states[:1] if features is None else features
    for feature in features:
        if feature not in system.states:
            raise EvalError(f"feature {feature!r} is unknown; choose one of {', '.join(system.states)}")

    def see(batch: ClipBatch) -> dict[str, Tensor]:
        seen = system.foresee(to_device(batch, device), features)
        states = {f"{side} {name}": getattr(seen, side)[name] for side in _SIDES for name in features}
        values = {name: value.float().cpu() for name, value in {**states, "action": seen.motion}.items()}
        return values | {name: getattr(batch, name) for name in _KEPT}

    joined = each_batch(batches, see)
    if joined is None:
        if rank():
            return ClipOutputs({}, {}, *(torch.empty(0) for _ in fields(ClipOutputs)[2:]))
        raise EvalError("no clip could be read: there is nothing to evaluate")
    states = {side: {name: joined.pop(f"{side} {name}") for name in features} for side in _SIDES}
    return ClipOutputs(**states, **joined)


def each_batch(batches: Iterable[ClipBatch], run: Callable[[ClipBatch], dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """What ``run`` makes of all processes' batches, in order and joined along the clips, on process 0; None is left out.

    None where nothing was made, and on the other processes.
    """

    def share() -> dict[int, dict[str, Tensor]]:
        numbered = ((place if world_size() == 1 else int(batch.sample_ids[0]), run(batch)) for place, batch in enumerate(batches))
        return {number: found for number, found in numbered if found is not None}

    parts = list(gathered(share).values())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else None
