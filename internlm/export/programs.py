"""The image encoder as a program that needs no Python model code: ``torch.export`` and ONNX, at one image size, any batch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from internlm.systems.egoagent.network import EgoNetwork

INPUT, OUTPUTS = "pixel_values", ("state", "patches", "bottleneck")
TORCH_PROGRAM, ONNX_PROGRAM = "encoder.pt2", "encoder.onnx"
_LARGEST_BATCH = 4096
_ONE_FILE = 1 << 30  # bytes; protobuf ends at 2 GiB, so larger weights go into a file beside the graph


class Encoder(nn.Module):
    """Normalised images ``[N, 3, S, S]`` -> state ``[N, h]``, patches ``[N, p, h]``, bottleneck ``[N, b]`` of unit length."""

    def __init__(self, network: EgoNetwork):
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches, state = self.network.tokens(pixel_values)
        return state, patches, self.network.head.bottleneck(state)


@torch.no_grad()
def trace(network: EgoNetwork, image_size: int) -> torch.export.ExportedProgram:
    """The encoder's program for images of one size and any batch of 1 to 4096."""
    encoder, example = Encoder(network).eval().requires_grad_(False), torch.zeros(2, 3, image_size, image_size)
    encoder(example)  # fills the tables of positions and masks, which tracing would otherwise fill with tensors of its own
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    return torch.export.export(encoder, (example,), dynamic_shapes={INPUT: {0: batch}})


def write_torch_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """``torch.export.load(path).module()`` reads it back."""
    torch.export.save(program, path)


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """An ONNX graph with input ``pixel_values`` and outputs ``state``, ``patches``, ``bottleneck``."""
    import onnxscript  # noqa: F401  what torch.onnx needs; here so that its absence is named before the work

    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    with _quiet("torch.onnx"):
        onnx = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False,
            dynamic_shapes={INPUT: {0: "batch"}},
        )  # fmt: skip
    onnx.save(path, external_data=size > _ONE_FILE)


@torch.no_grad()
def check_torch_program(path: Path, network: EgoNetwork, image_size: int) -> dict[str, float]:
    """Largest difference of each output between the file, read back, and the network, at batches of 1 and 3."""
    encoder, program = Encoder(network).eval(), torch.export.load(path).module()
    return _differences(encoder, program, image_size)


@torch.no_grad()
def check_onnx(path: Path, network: EgoNetwork, image_size: int) -> dict[str, float]:
    """The same for the ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(list(OUTPUTS), {INPUT: pixels.numpy()})]

    return _differences(Encoder(network).eval(), run, image_size)


def _differences(encoder: Encoder, other, image_size: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, image_size, image_size, generator=generator)
        for name, ours, theirs in zip(OUTPUTS, encoder(pixels), other(pixels)):
            if ours.shape != theirs.shape:
                return worst | {name: float("inf")}
            difference = (ours - theirs).abs().max().item()
            # A NaN on either side must not pass as small.
            worst[name] = max(worst[name], difference) if difference == difference else float("inf")
    return worst


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Hold back a library's remarks on operators that the model has not, and on its own use of PyTorch."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
