"""From a checkpoint to an agent: the start of stage 2."""

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from internlm.checkpoint.manager import find_checkpoint
from internlm.core.boxes import Share
from internlm.core.collectives import ALONE, Group

from .network import EgoAgent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitReport:
    """What came from the other checkpoint and what did not, as ``<part>.<parameter>`` names."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the model, not in the checkpoint: freshly initialised
    unexpected: tuple[str, ...]  # in the checkpoint, not used

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        for name, keys in (("fresh", self.missing), ("unused", self.unexpected)):
            text += f"; {len(keys)} {name}" + (f" ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})" if keys else "")
        return text


def init_from(agent: EgoAgent, loss: nn.Module, path: str | Path, group: Group = ALONE) -> InitReport:
    """Start stage 2 from a stage-1 checkpoint: predictor, observer and the losses' centres, by name.

    Stage 1's summary token is the state query under the same name. Action parts that stage 1 never trained stay fresh. Only
    what is taken over is read; ``group`` as for ``find_checkpoint``. Raises CheckpointError when a tensor has another shape than
    the model's.
    """
    checkpoint = find_checkpoint(path, ("predictor", "observer", "loss"), group)
    trained_actions = checkpoint.meta.get("config", {}).get("stage") == "joint"
    observer_names = agent.observer.state_dict().keys()
    loaded, missing, unexpected = [], [], []
    for part, module in (("predictor", agent.predictor), ("observer", agent.observer), ("loss", loss)):
        stored, own = checkpoint.index[part], module.state_dict()
        wanted = stored.keys() & (observer_names if part == "predictor" and not trained_actions else own.keys())
        names = [name for name in own if name in wanted]
        checkpoint.fill(part, {name: Share.whole(own[name]) for name in names}, exact=False)  # the module's own memory
        loaded += [f"{part}.{name}" for name in names]
        missing += [f"{part}.{name}" for name in own if name not in wanted]
        unexpected += [f"{part}.{name}" for name in stored if name not in own or name not in wanted]
    report = InitReport(tuple(loaded), tuple(missing), tuple(unexpected))
    log.info("initialised from %s: %s", checkpoint.path, report)
    return report
