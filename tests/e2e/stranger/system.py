"""The stranger: its own modality (a wave), stream, batch and loss around the shared trunk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from internlm.checkpoint.manager import CheckpointError
from internlm.core.collectives import ALONE, Group
from internlm.core.init import autocast
from internlm.core.mesh import Mesh
from internlm.data.batch import split, to_device
from internlm.data.order import Stream
from internlm.solver.schedule import optimizer_schedules
from internlm.systems.base import Cost, Part, Schedule, Terms
from internlm.trunk.backbone import Backbone
from internlm.trunk.layout import Part as Tokens
from internlm.trunk.layout import interleave

from .config import RunConfig


@dataclass(frozen=True)
class WaveBatch:
    wave: Tensor  # float32 [B, L]
    sample_ids: Tensor  # int64 [B]


class Waves:
    """Each split has phases of its own."""

    files = 0

    def __init__(self, length: int, split: str):
        self.length, self.split, self.first = length, split, {"train": 0.0, "val": 0.5}[split]

    def __len__(self) -> int:
        return 64

    def contents(self) -> dict[str, str]:
        return {f"{self.split} waves": f"{len(self)} phases"}

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        phase = self.first + index + rng.random() / 2
        return {"wave": np.sin(phase + 0.5 * np.arange(self.length)).astype(np.float32)}


class Continuation(nn.Module):
    """``[B, L] -> [B, L]``: the next value after each."""

    def __init__(self, hidden: int, layers: int):
        super().__init__()
        self.embed, self.read = nn.Linear(1, hidden), nn.Linear(hidden, 1)
        self.trunk = Backbone(hidden=hidden, layers=layers, heads=2, inner=2 * hidden, eps=1e-6, rope_base=100.0, init_std=0.1)

    def forward(self, wave: Tensor) -> Tensor:
        layout = interleave([(Tokens("wave", wave.shape[1]),)], "causal")
        return self.read(self.trunk(self.embed(wave[..., None]), layout))[..., 0].float()


class Stranger:
    def __init__(self, config):
        self.config = config
        self.depth = config.wave.layers
        self.network = Continuation(config.wave.hidden, config.wave.layers)

    def parts(self) -> dict[str, Part]:
        return {"continuation": Part(self.network, trained=True)}

    def streams(self) -> dict[str, Stream]:
        wave, split = self.config.wave, self.config.data.split
        return {"wave": Stream(partial(Waves, wave.length, split), WaveBatch, wave.batch, number=0)}

    def schedules(self) -> dict[str, Schedule]:
        return optimizer_schedules(self.config.optim, self.config.train.steps)

    def prepare(self, device: torch.device, dtype: torch.dtype, mesh: Mesh) -> None:
        pass

    def init_from(self, path: Path, group: Group = ALONE) -> None:
        raise CheckpointError(f"{path}: a wave has nothing to begin from")

    def terms(
        self, batches: Mapping[str, Any], values: Mapping[str, float], *, dtype: torch.dtype, keep: bool = False
    ) -> list[Callable[[], Terms]]:
        batch = to_device(batches["wave"], next(self.network.parameters()).device)
        return [partial(self._loss, piece.wave, dtype) for piece in split(batch, self.config.train.accumulation)]

    def _loss(self, wave: Tensor, dtype: torch.dtype) -> Terms:
        with autocast(wave.device, dtype):
            error = (self.network(wave[:, :-1]) - wave[:, 1:]).square().mean()
        return Terms(error, {"squared_error": error.detach()})

    def after_step(self, values: Mapping[str, float]) -> None:
        pass

    def health(self, kept: list[dict[str, Tensor]]) -> None:
        return None

    draws = False

    @torch.no_grad()
    def predict(self, given: Mapping[str, Tensor], *, samples: int = 1) -> dict[str, Tensor]:
        return {"wave": self.network(given["wave"].to(next(self.network.parameters())))}

    def cost(self) -> Cost:
        return Cost({"wave": 0}, {"wave": self.config.wave.length}, lambda: {"wave": 0})

    def example(self, stream: str, count: int, device: torch.device) -> WaveBatch:
        return WaveBatch(torch.zeros(count, self.config.wave.length, device=device), torch.arange(count))

    def shallow(self, blocks: int) -> RunConfig:
        return self.config.model_copy(update={"wave": self.config.wave.model_copy(update={"layers": blocks})})


build = Stranger
