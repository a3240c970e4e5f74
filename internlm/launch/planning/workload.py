"""What one micro-step consists of, whatever the mesh: the units that ``fully_shard`` gathers, and the passes through them.

A network is divided as ``parallel/apply.py`` does it: every block, the DINO head and what remains are units; a unit is gathered
before it is used, and its gradients are reduce-scattered once in a backward pass, however often it was used.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from internlm.config.schema import ParallelConfig
from internlm.parallel.plan import Cut, cuts, partial_names
from internlm.systems.egoagent import cost as flops
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.trunk.backbone import ffn_width

from . import activations as memory

GRADIENT_BYTES = 4  # gradients are summed in float32


@dataclass(frozen=True)
class Unit:
    """What ``fully_shard`` gathers at once: the shapes of its parameters before tp."""

    rows: tuple[tuple[int, int, int], ...]  # (length of dim 0, elements of a row, which of the two tp cuts: 0 none, 1, 2)

    def elements(self, shards: int, tp: int) -> int:
        """Elements that the processes of a shard group hold together: dim 0 is padded to a multiple of the group's size."""
        total = 0
        for length, row, cut in self.rows:
            if cut == 1:
                length //= tp
            elif cut == 2:
                row //= tp
            total += -(-length // shards) * shards * row
        return total


@dataclass(frozen=True)
class Pass:
    """One forward pass of a micro-step: sequences, their tokens (with queries), and rows through the DINO head."""

    sequences: int
    length: int
    rows: int


@dataclass
class Workload:
    """What every mesh shares, read off the meta model once. FLOPs are of one sample; the trunk's are its forward pass alone."""

    config: Config
    images: int  # of a micro-step
    clips: int
    blocks: list[Unit]
    head: Unit
    rest: Unit
    observer_rest: Unit  # also what an image batch gives gradients to, beside blocks and head
    partial: Unit  # what sequence parallelism leaves partial gradients of
    normalised: int  # channels of all batch norms of a network
    train_image: int
    train_clip: int
    trunk_image: int  # what full checkpointing repeats
    trunk_clip: int
    activations: int
    block_bytes: dict[tuple, Any] = field(default_factory=dict)

    @property
    def half(self) -> bool:
        return self.config.train.dtype != "float32"

    @property
    def weight_bytes(self) -> int:
        return 2 if self.half else 4

    @property
    def trained_rest(self) -> Unit:
        """What has gradients and optimizer states beside blocks and head: stage 1 freezes the action parts."""
        return self.observer_rest if self.config.stage == "pretrain" else self.rest

    @staticmethod
    def sequence(mesh: ParallelConfig) -> bool:
        """Whether tokens are divided where layers are not."""
        return mesh.tp > 1 and mesh.sequence_parallel

    def passes(self) -> dict[str, list[Pass]]:
        """The predictor's forward passes of one image and one clip micro-step."""
        tokens, crops = flops.tokens(self.config), self.config.data.crops
        found: dict[str, list[Pass]] = {}
        if self.images:
            found["image"] = [Pass(crops.global_crops * self.images, tokens["image"], crops.global_crops * self.images)]
            if crops.local_crops:
                views = crops.local_crops * self.images
                found["image"].append(Pass(views, tokens["local_crop"], views))
        if self.clips:
            found["clip"] = [Pass(self.clips, tokens["clip"], self.clips * tokens["clip_steps"])]
        return found

    def observer_passes(self) -> dict[str, Pass]:
        """The observer's forward pass of each kind of micro-step."""
        tokens, crops, steps = flops.tokens(self.config), self.config.data.crops, self.config.data.clip.steps
        found = {}
        if self.images:
            views = crops.global_crops * self.images
            found["image"] = Pass(views, tokens["image"], views)
        if self.clips:
            frames = steps if self.config.model.observer_attention == "clip" else 1
            found["clip"] = Pass(self.clips * steps // frames, tokens["image"] * frames, self.clips * steps)
        return found


def read_workload(config: Config) -> Workload:
    """Build the model on the meta device and read off it what the formulas need; seconds at any size."""
    train, crops = config.train, config.data.crops
    images, clips = train.image_batch // train.accumulation, train.clip_batch // train.accumulation
    agent = flops.build_on_meta(config.model)
    cost = flops.flops(config, agent)
    tokens = flops.tokens(config)
    observer = agent.observer
    return Workload(
        config, images, clips,
        blocks=[_unit(block) for block in agent.predictor.backbone.blocks],
        head=_unit(agent.predictor.head),
        rest=_rest(agent.predictor),
        observer_rest=_rest(observer),
        partial=_unit(agent.predictor, partial_names(agent.predictor)),
        normalised=sum(m.num_features for m in observer.modules() if isinstance(m, nn.BatchNorm2d)),
        train_image=cost["train_image"],
        train_clip=cost["train_clip"],
        trunk_image=crops.global_crops * _trunk_flops(config, tokens["image"])
        + crops.local_crops * _trunk_flops(config, tokens["local_crop"]),
        trunk_clip=_trunk_flops(config, tokens["clip"]),
        activations=memory.activations(config, agent, images, clips),
    )  # fmt: skip


def _unit(module: nn.Module, names: Collection[str] | None = None) -> Unit:
    """The parameters of a module, all or some."""
    cut = cuts(module)
    return Unit(tuple(_row(p, cut.get(name)) for name, p in module.named_parameters() if names is None or name in names))


def _rest(network: nn.Module) -> Unit:
    names = [name for name, _ in network.named_parameters() if not name.startswith(("backbone.blocks.", "head."))]
    return _unit(network, names)


def _row(parameter: torch.Tensor, cut: Cut | None) -> tuple[int, int, int]:
    return parameter.shape[0], parameter[0].numel(), 0 if cut is None else cut.dim + 1


def _trunk_flops(config: Config, length: int) -> int:
    """Forward FLOPs of all blocks on one sequence: matrix products, and attention as the full square."""
    model = config.model
    h, inner = model.hidden_size, ffn_width(model.hidden_size, model.mlp_ratio, model.mlp_multiple_of)
    return model.num_layers * (2 * length * (4 * h * h + 3 * h * inner) + 4 * length * length * h)
