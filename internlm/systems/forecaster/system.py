"""Forecasters as others see them: one network and its moving average, or what is solved in closed form."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from internlm.checkpoint.manager import find_checkpoint
from internlm.config.errors import ConfigError
from internlm.core.boxes import Share
from internlm.core.collectives import ALONE, Group
from internlm.core.init import autocast
from internlm.core.mesh import Mesh
from internlm.data.batch import split, to_device
from internlm.data.motion import constant_velocity, hold_out, zero_velocity
from internlm.data.order import Stream
from internlm.objective.motion import Counts
from internlm.solver.schedule import optimizer_schedules

from ..base import Cost, Part, Pieces, Schedule, System, Terms, Values
from . import diffusion, pose_agent, simlpe
from .config import ForecasterRunConfig
from .ridge import Ridge
from .streams import WINDOWS, WindowBatch, recordings, streams

POSES = "body_pose"  # the column that is given and predicted
# Each has ``build(config)``, ``loss(network, batch, counts, speed_weight)`` and ``forecast(network, past, poses, samples)``.
TRAINED: dict[str, ModuleType] = {"simlpe": simlpe, "diffusion_policy": diffusion, "egoagent": pose_agent}


def build(config: ForecasterRunConfig) -> System:
    """The method of a config: a ``System``, or what raises ConfigError when it is trained."""
    return (TrainedForecaster if config.forecaster.method in TRAINED else SolvedForecaster)(config)


class TrainedForecaster:
    """A ``System`` that ``Predicts`` future poses from past ones, with the moving average of its weights."""

    def __init__(self, config: ForecasterRunConfig) -> None:
        self.config, self._method = config, TRAINED[config.forecaster.method]
        self.network = self._method.build(config)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.draws, self._data = self._method is diffusion, ALONE

    def parts(self) -> dict[str, Part]:
        return {"network": Part(self.network, trained=True), "average": Part(self.average, follows="network")}

    def streams(self) -> dict[str, Stream]:
        return streams(self.config)

    def schedules(self) -> dict[str, Schedule]:
        average = self.config.forecaster.average
        # Early weights are forgotten soon.
        momentum = {"momentum": lambda step: min(average, (step + 1) / (step + 10))}
        return optimizer_schedules(self.config.optim, self.config.train.steps) | momentum

    def prepare(self, device: torch.device, dtype: torch.dtype, mesh: Mesh) -> None:
        self._data = mesh.data

    def init_from(self, path: Path, group: Group = ALONE) -> None:
        checkpoint = find_checkpoint(path, self.parts(), group)
        for name, part in self.parts().items():
            checkpoint.fill(name, {key: Share.whole(tensor) for key, tensor in part.module.state_dict().items()})

    def terms(self, batches: Mapping[str, Any], values: Values, *, dtype: torch.dtype, keep: bool = False) -> Pieces:
        device, pieces = next(self.network.parameters()).device, self.config.train.accumulation
        batch = to_device(batches[WINDOWS], device)
        counts = Counts.of(batch.visible, pieces=pieces, data=self._data)
        return [partial(self._terms, piece, counts, dtype) for piece in split(batch, pieces)]

    def _terms(self, piece: WindowBatch, counts: Counts, dtype: torch.dtype) -> Terms:
        with autocast(piece.past.device, dtype):
            return Terms(self._method.loss(self.network, piece, counts, self.config.forecaster.speed_weight), {})

    def after_step(self, values: Values) -> None:
        pass

    def health(self, kept: list[dict[str, Tensor]]) -> None:
        return None

    def cost(self) -> Cost:
        own = self.config.forecaster

        def training() -> dict[str, int]:
            meta = torch.device("meta")
            with meta, FlopCounterMode(display=False) as counter:
                batch = self.example(WINDOWS, 1, meta)
                self._method.loss(self._method.build(self.config), batch, Counts.of(batch.visible), own.speed_weight).backward()
            return {WINDOWS: counter.get_total_flops()}

        span = own.past + own.future
        return Cost({WINDOWS: 0}, {WINDOWS: span}, training)

    @property
    def depth(self) -> int:
        return self.config.model.num_layers if self._method is pose_agent else 0

    def example(self, stream: str, count: int, device: torch.device) -> WindowBatch:
        own, joints = self.config.forecaster, self.config.model.num_joints
        past, future = (torch.zeros(count, poses, joints, 3, device=device) for poses in (own.past, own.future))
        visible, one = torch.ones(count, own.future, joints, dtype=torch.bool, device=device), torch.zeros(count, device=device)
        return WindowBatch(past, future, visible, future, one, one)

    def shallow(self, blocks: int) -> ForecasterRunConfig:
        return self.config.model_copy(update={"model": self.config.model.model_copy(update={"num_layers": blocks})})

    @torch.no_grad()
    def predict(self, given: Mapping[str, Tensor], *, samples: int = 1) -> dict[str, Tensor]:
        past, training = given[POSES], self.average.training
        self.average.eval()
        past = past.to(next(self.average.parameters()))
        future = self._method.forecast(self.average, past, self.config.forecaster.future, samples)
        self.average.train(training)
        return {POSES: future}


class SolvedForecaster:
    """The velocity floors and ridge regression: nothing is trained, ``solve`` finds what there is to find."""

    draws = False

    def __init__(self, config: ForecasterRunConfig) -> None:
        self.config, self.poses = config, config.forecaster.future
        floors = {"zero_velocity": zero_velocity, "constant_velocity": constant_velocity}
        self._floor, self._ridge = floors.get(config.forecaster.method), Ridge(self.poses)

    def parts(self) -> dict[str, Part]:
        method = self.config.forecaster.method
        raise ConfigError(f"forecaster.method {method!r} needs no training; 'egoagent bench motion --methods {method}' solves it")

    def solve(self) -> dict[str, Any]:
        if self._floor:
            return {}
        train = recordings(self.config).open().of(self.config.data.split)
        return self._ridge.fit(*hold_out(train), self.config.forecaster.past)

    def predict(self, given: Mapping[str, Tensor], *, samples: int = 1) -> dict[str, Tensor]:
        past = given[POSES].numpy()
        future = self._floor(past, self.poses) if self._floor else self._ridge.predict(past)
        return {POSES: torch.from_numpy(future)}
