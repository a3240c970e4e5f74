"""What the rest of the package knows of anything that can be trained: its parts, what it reads, its loss terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from internlm.config.schema import Config
from internlm.core.collectives import ALONE, Group
from internlm.core.mesh import Mesh
from internlm.data.batch import ClipBatch
from internlm.data.clips import ClipDataset
from internlm.data.order import Stream

Schedule = Callable[[int], float]  # a pure function of the optimizer step, from 0


@dataclass(frozen=True)
class Part:
    """A module that has a name of its own in checkpoints."""

    module: nn.Module
    trained: bool = False  # by the optimizer
    follows: str | None = None  # the trained part whose moving average it is; the schedule ``momentum`` says how fast


@dataclass
class Terms:
    """One piece of a step's loss: ``total`` carries the gradient; ``logged`` holds detached scalars, this process's share."""

    total: Tensor
    logged: dict[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)  # what the health reading needs, where it was asked for


Values = Mapping[str, float]  # of the schedules in a step
Pieces = list[Callable[[], Terms]]  # of a step's loss


class Reading(Protocol):
    """Whether a system still learns: the figures of one step."""

    verdict: str | None  # the name of what is wrong

    def named(self) -> dict[str, float]:
        """The figures as metrics."""

    def explain(self, verdict: str) -> str:
        """One sentence for the person who watches the run: what is wrong, and what to try."""


class System(Protocol):
    """Everything that a folder of ``systems/`` brings: the trainer, checkpoints and the mesh need nothing else of it.

    A system is built under the run's seed, alike on every process, and then changed in place by whoever moves or divides it.
    """

    config: Config
    depth: int  # equal trunk blocks that ``shallow`` can change; 0 where there are none

    def parts(self) -> dict[str, Part]:
        """All modules with state, by checkpoint name; a module is in one part."""

    def streams(self) -> dict[str, Stream]:
        """What a step reads, in the order in which its terms come."""

    def schedules(self) -> dict[str, Schedule]:
        """Every value that changes with the step, logged as it is named; ``lr`` and ``weight_decay`` at least."""

    def terms(self, batches: Mapping[str, Any], values: Values, *, dtype: torch.dtype, keep: bool = False) -> Pieces:
        """The pieces of a step's loss, to be called one by one, each backward pass before the next piece.

        ``batches`` by stream, in main memory; ``values`` are the schedules'. As many pieces for each batch as
        ``train.accumulation`` says; their mean is the batch's loss. ``keep`` fills ``Terms.kept``: a collective. In evaluation
        mode, in which held-out losses are measured, nothing of the parts may change.
        """

    def after_step(self, values: Mapping[str, float]) -> None:
        """What else moves once the optimizer has stepped; moving averages of parts do so by themselves."""

    def health(self, kept: list[dict[str, Tensor]]) -> Reading | None:
        """Judge what the pieces of a step kept; None where there is nothing to judge by."""

    def prepare(self, device: torch.device, dtype: torch.dtype, mesh: Mesh) -> None:
        """Last choices before the mesh divides the parts: kernels, what is frozen, over which processes losses are counted."""

    def init_from(self, path: Path, group: Group = ALONE) -> None:
        """Take over the weights of another run's checkpoint: a collective of ``group``. Raises CheckpointError."""

    def cost(self) -> "Cost":
        """What a sample of each stream costs; builds nothing that takes memory."""

    def example(self, stream: str, count: int, device: torch.device) -> Any:
        """A batch of ``count`` samples of a stream with real shapes and any values, for estimates and export.

        Runs on fake tensors as well: what ``terms`` reads on the host is made from lists or numpy, which keeps its values there.
        """

    def shallow(self, blocks: int) -> Config:
        """The config of the same work with so many trunk blocks and kernels that every machine has."""


# Capabilities: a class that has their members has them. The first line says what such a system does, in the words of the
# message that refuses one that does not.


@runtime_checkable
class Embeds(Protocol):
    """embeds images

    A branch is a network whose ``config`` and weights decide its features.
    """

    image_size: int  # pixels of an image's side
    branches: tuple[str, ...]  # the usual one first
    features: tuple[str, ...]  # likewise

    def branch(self, name: str) -> nn.Module:
        """A branch as it was trained."""

    def fresh_branch(self) -> nn.Module:
        """A branch with random weights: the floor of all that was trained."""

    def embed(self, network: nn.Module, images: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
        """Normalised images float ``[N, 3, S, S]`` through a branch -> ``[N, D]`` by feature."""


@dataclass(frozen=True)
class Hub:
    """What makes a folder of a branch a Hugging Face model, which holds the branch as ``network``, beside its weights."""

    config: Mapping[str, Any]  # config.json
    entries: tuple[str, ...]  # modules of this package that go along, with all that they import
    replaced: Mapping[str, tuple[str, str, str]]  # by module that stays behind its one name, and the file and name in its place
    processor: str  # file.class of the image processor
    check: Path  # a program: FOLDER PROBE prints the largest difference of every output as JSON
    probe: Callable[[], dict[str, Tensor]]  # its inputs and the outputs that the branch gives
    outputs: Mapping[str, str]  # its outputs' names in a program, where they are others


@dataclass(frozen=True)
class Words:
    """What a model card says of a branch in its system's words: Markdown, and rows of tables."""

    tags: tuple[str, ...]
    about: str
    use: str  # of the Hugging Face folder
    further: str  # what that can do beside features, or nothing
    network: Sequence[tuple[str, str]]
    stage: str  # of training
    published_images: int  # that the published run was trained on, for comparison


@runtime_checkable
class Exports(Embeds, Protocol):
    """hands its branches on to other programs

    Its module ``hf.reading`` has ``read_folder(folder, record)``, which makes a system of an exported Hugging Face folder.
    """

    outputs: tuple[str, ...]  # of a branch's program, float32 ``[N, ...]``: ``embed`` gives these too

    def exported(self, branch: str) -> nn.Module:
        """A branch without parts that were never trained."""

    def hub(self, network: nn.Module, branch: str) -> Hub:
        """The Hugging Face side of a branch."""

    def words(self, network: nn.Module, branch: str) -> Words:
        """The model card's."""


@dataclass(frozen=True)
class Foreseen:
    """What B clips of T steps say when the true motion is given up to each step (teacher forcing)."""

    prediction: dict[str, Tensor]  # by feature [B, T, D]: of the state predicted for the next frame
    observed: dict[str, Tensor]  # by feature [B, T+1, D]: of each frame, as it is seen
    motion: Tensor  # [B, T, P, J, 3], metres: the chunk predicted at each frame


@runtime_checkable
class Foresees(Protocol):
    """predicts the next frame's state and the next motion from the frames and motion before

    All methods in evaluation mode, without gradients, on a batch that lies where the system does.
    """

    states: tuple[str, ...]  # features in which predicted and observed states are compared, the usual one first

    def clips(self, paths: Sequence[str], split: str) -> ClipDataset:
        """The clips of stores as this system reads them, without augmentation."""

    def foresee(self, batch: ClipBatch, features: Sequence[str]) -> Foreseen:
        """Predicted and observed states, and the predicted motion."""

    def roll_out(self, batch: ClipBatch, first: int, *, frames: int, moves: Tensor | None) -> Tensor:
        """Chunks first..T-1 ``[B, T-first, P, J, 3]``, each from the true ones before ``first`` and the predicted ones since.

        ``frames``: how many of the clip's images are known. ``moves`` ``[B, T-1, 4, 4]``: from the camera of each image to the
        next one's; None where a chunk needs no change of coordinates to be the past of the next.
        """


@runtime_checkable
class Predicts(Protocol):
    """tells columns of a recording from columns that are given"""

    draws: bool  # whether a prediction is one of many possible ones

    def predict(self, given: Mapping[str, Tensor], *, samples: int = 1) -> dict[str, Tensor]:
        """The predicted columns, in evaluation mode and without gradients; where it ``draws``, the mean of so many samples."""


class Solves(Predicts, Protocol):
    """A system without parts: what there is to find is found in closed form and not trained."""

    def solve(self) -> dict[str, Any]:
        """Find it in the config's data; returns what was chosen, as JSON."""


@dataclass(frozen=True)
class Cost:
    """By stream: images and tokens of a sample, and the FLOPs of training on it (counted when they are asked for).

    ``figures``: more that is worth saying of a config, as sections ``parameters``, ``tokens`` and ``flops`` of named numbers.
    """

    frames: Mapping[str, int]
    tokens: Mapping[str, int]
    flops: Callable[[], Mapping[str, int]]
    figures: Callable[[], Mapping[str, Mapping[str, int]]] = dict
