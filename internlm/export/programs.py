"""A branch as a program that needs no Python model code: ``torch.export`` and ONNX, at one image size, any batch."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from internlm.systems.base import Embeds

INPUT = "pixel_values"
Differences = dict[str, dict[str, float]]  # by format, the largest of each output
TORCH_PROGRAM, ONNX_PROGRAM = "encoder.pt2", "encoder.onnx"
_LARGEST_BATCH = 4096
_ONE_FILE = 1 << 30  # bytes; protobuf ends at 2 GiB, so larger weights go into a file beside the graph


class Encoder(nn.Module):
    """Normalised images ``[N, 3, S, S]`` -> features and other outputs of a branch, in the order of their names."""

    def __init__(self, system: Embeds, network: nn.Module, outputs: Sequence[str]):
        super().__init__()
        self.network, self.outputs, self.image_size, self._embed = network, tuple(outputs), system.image_size, system.embed
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        found = self._embed(self.network, pixel_values, self.outputs)
        return tuple(found[name] for name in self.outputs)


def write_programs(folder: Path, encoder: Encoder, formats: Sequence[str]) -> Differences:
    """Write the programs among the formats and read each back: by format the largest difference of each output."""
    found = {}
    program = trace(encoder) if {"torch-export", "onnx"} & set(formats) else None
    if "torch-export" in formats:
        torch.export.save(program, folder / TORCH_PROGRAM)
        found["torch-export"] = differences(encoder, torch.export.load(folder / TORCH_PROGRAM).module())
    if "onnx" in formats:
        import onnxruntime

        _write_onnx(program, encoder.outputs, folder / ONNX_PROGRAM)
        session = onnxruntime.InferenceSession(folder / ONNX_PROGRAM, providers=["CPUExecutionProvider"])
        found["onnx"] = differences(encoder, lambda pixels: map(torch.from_numpy, session.run(None, {INPUT: pixels.numpy()})))
    return found


@torch.no_grad()
def trace(encoder: Encoder) -> torch.export.ExportedProgram:
    """The encoder's program for images of one size and any batch of 1 to 4096."""
    example = torch.zeros(2, 3, encoder.image_size, encoder.image_size)
    encoder(example)  # fills the tables of positions and masks, which tracing would otherwise fill with tensors of its own
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    return torch.export.export(encoder, (example,), dynamic_shapes={INPUT: {0: batch}})


def _write_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str], path: Path) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    # It remarks on operators that the model has not, and on its own use of PyTorch.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            onnx = torch.onnx.export(
                program, dynamo=True, input_names=[INPUT], output_names=list(outputs), verbose=False,
                dynamic_shapes={INPUT: {0: "batch"}},
            )  # fmt: skip
    finally:
        logger.setLevel(level)
    onnx.save(path, external_data=size > _ONE_FILE)


@torch.no_grad()
def differences(encoder: Encoder, other: Callable[[Tensor], Iterable[Tensor]]) -> dict[str, float]:
    """Largest difference of each output between the network and what should give the same, at batches of 1 and 3."""
    generator = torch.Generator().manual_seed(0)
    worst = dict.fromkeys(encoder.outputs, 0.0)
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, encoder.image_size, encoder.image_size, generator=generator)
        for name, ours, theirs in zip(encoder.outputs, encoder(pixels), other(pixels)):
            if ours.shape != theirs.shape:
                return worst | {name: float("inf")}
            difference = (ours - theirs).abs().max().item()
            # A NaN on either side must not pass as small.
            worst[name] = max(worst[name], difference) if difference == difference else float("inf")
    return worst
