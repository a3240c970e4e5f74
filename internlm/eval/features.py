"""Features of images: one decode pass, any number of encoders, in the source's order, on one process or many."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internlm.core.init import autocast
from internlm.data.evaluation import View, evaluation_images
from internlm.data.frames import DataError, ImageSource
from internlm.data.view import normalise
from internlm.systems.egoagent.network import EgoNetwork

from .encoders import Encoder
from .errors import EvalError
from .feature_cache import FeatureCache, Stored
from .ranks import from_first, gathered, own_share

KINDS = ("state", "patch", "bottleneck")
PIXEL_SIDE = 32
CALIBRATION_IMAGES = 1024


@dataclass(frozen=True)
class Features:
    """Features of a source's readable images, on the CPU. On processes other than 0 all tensors are empty."""

    values: dict[str, Tensor]  # by encoder's name: float32 [N, D]
    labels: Tensor  # int64 [N], -1 without a label
    classes: tuple[str, ...]
    rows: Tensor  # int64 [N], index in the source
    unreadable: int  # images that were left out


def encoder(
    network: EgoNetwork,
    kinds: str | Mapping[str, str] = "state",
    *,
    identity: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Encoder:
    """A branch in eval mode as a function of uint8 images; ``kinds`` = a kind, or kinds by name, all from one pass.

    ``state`` = hidden at the state query (kNN protocol), ``patch`` = mean of the patches' hidden, ``bottleneck`` = the
    head's unit vector. ``identity`` names the weights for the cache.
    """
    kinds = {"model": kinds} if isinstance(kinds, str) else dict(kinds)
    for kind in kinds.values():
        if kind not in KINDS:
            raise EvalError(f"feature {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    device = torch.device(device)
    network = network.to(device).eval()

    @torch.no_grad()
    def run(images: Tensor) -> dict[str, Tensor]:
        with autocast(device, dtype):
            patches, state = network.tokens(normalise(images.to(device, non_blocking=True)))
            readers = {
                "state": lambda: state,
                "patch": lambda: patches.mean(1),
                "bottleneck": lambda: network.head.bottleneck(state),
            }
            return {name: readers[kind]().float() for name, kind in kinds.items()}

    described = None if identity is None else json.dumps([identity, kinds, str(dtype), device.type])
    return Encoder(run, tuple(kinds), described)


def pixels(images: Tensor) -> Tensor:
    """The pixel floor's features: uint8 [N, 3, S, S] as the network gets them -> float32 [N, 3072].

    Area-averaged to 32×32 and centred per image, so that the cosine compares patterns rather than brightness.
    """
    small = F.interpolate(images.float(), size=(PIXEL_SIDE, PIXEL_SIDE), mode="area").flatten(1)
    return small - small.mean(1, keepdim=True)


def digest(rows: Tensor) -> Tensor:
    """A fingerprint of each row [N, ...]: float32 [N, 3], equal for rows that are equal in every bit and for no others."""
    hashes = b"".join(hashlib.blake2b(row.numpy().tobytes(), digest_size=9).digest() for row in rows.cpu())
    parts = np.frombuffer(hashes, np.uint8).reshape(len(rows), 3, 3).astype(np.float32)
    return torch.from_numpy(parts @ np.array([65536, 256, 1], np.float32))  # 24 bits each, which float32 holds exactly


DIGEST = Encoder(lambda images: {"digest": digest(images)}, ("digest",), "BLAKE2b of the view")
PIXELS = Encoder(lambda images: {"pixels": pixels(images)}, ("pixels",), f"area {PIXEL_SIDE}, centred")


def calibrate(
    network: EgoNetwork,
    source: ImageSource,
    image_size: int,
    *,
    device: torch.device | str = "cpu",
    max_broken_share: float = 0.01,
) -> int:
    """Give an untrained network the BatchNorm statistics of its data, in place; returns how many images were used.

    Running statistics start at mean 0 and variance 1, which no data has: without this an untrained network is judged with
    its stem switched half off. At most 1,024 images, spread evenly; 0 for a network without BatchNorm.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return 0
    network.to(device).train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over the batches
    used, rows = 0, sample_rows(source, CALIBRATION_IMAGES)
    with torch.no_grad():
        for batch in evaluation_images(source, image_size, 128, rows=rows, max_broken_share=max_broken_share):
            network.stem(normalise(batch.images.to(device)))
            used += len(batch.rows)
    network.eval()
    return used


def extract(
    source: ImageSource,
    encoders: list[Encoder],
    image_size: int,
    *,
    batch_size: int = 128,
    limit: int | None = None,
    cache: FeatureCache | None = None,
    view: View | None = None,
    workers: int = 0,
    max_broken_share: float = 0.01,
) -> Features:
    """Features of a source's images (at most ``limit``, spread evenly), each decoded once, by every encoder.

    Under torchrun the batches are shared out and process 0 gets all features. Images that cannot be read are left out and
    counted. What a ``cache`` holds is not computed again; ``view`` replaces the evaluation view and is never cached.
    Raises DataError when none or too few can be read, EvalError when a feature is not finite, naming the image.
    """
    wanted = sample_rows(source, limit)
    cache = cache if view is None else None
    known = cache.find(source, encoders, wanted, image_size, batch_size) if cache else {}
    missing = [item for item in encoders if item.names[0] not in known]
    if missing:
        fresh = _run(source, missing, image_size, wanted, batch_size, view, workers, max_broken_share)
        if cache:
            cache.keep(source, missing, wanted, image_size, batch_size, fresh)
        known |= fresh
    stored = list(known.values())
    if any(not torch.equal(stored[0].rows, other.rows) for other in stored[1:]):
        raise EvalError(f"cached features of {source.name(0)} and others are of different images; delete {cache.folder}")
    rows = stored[0].rows
    labels = torch.tensor([-1 if (label := source.label(row)) is None else label for row in rows.tolist()], dtype=torch.int64)
    values = {name: tensor for part in stored for name, tensor in part.values.items()}
    return Features(values, labels, tuple(source.classes), rows, stored[0].unreadable)


def _run(
    source: ImageSource,
    encoders: list[Encoder],
    image_size: int,
    wanted: np.ndarray,
    batch_size: int,
    view: View | None,
    workers: int,
    max_broken_share: float,
) -> dict[str, Stored]:
    share = own_share(-(-len(wanted) // batch_size))

    def work() -> dict[int, dict[str, Tensor]]:
        parts = {}
        batches = evaluation_images(
            source, image_size, batch_size, rows=wanted, only=share, view=view, workers=workers,
            max_broken_share=max_broken_share,
        )  # fmt: skip
        for batch in batches:
            part = {"rows": batch.rows}
            for item in encoders:
                for name, values in item.run(batch.images).items():
                    part[f"feature {name}"] = _finite(values.float().cpu(), name, source, batch.rows)
            parts[int(np.searchsorted(wanted, int(batch.rows[0]))) // batch_size] = part
        return parts

    parts = list(gathered(work).values())
    read = from_first(lambda: _check_read(sum(len(part["rows"]) for part in parts), source, len(wanted), max_broken_share))
    rows = torch.cat([part["rows"] for part in parts]) if parts else torch.empty(0, dtype=torch.int64)
    found = {}
    for item in encoders:
        values = {}
        for name in item.names:
            pieces = [part.pop(f"feature {name}") for part in parts]  # popped, so that no more than one is held twice
            values[name] = torch.cat(pieces) if pieces else torch.empty(0, 0)
        found[item.names[0]] = Stored(values, rows, len(wanted) - read)
    return found


def sample_rows(source: ImageSource, limit: int | None) -> np.ndarray:
    """At most ``limit`` rows, spread evenly over the source; None = all. int64, rising."""
    count = len(source) if limit is None else min(limit, len(source))
    return np.linspace(0, len(source) - 1, count).round().astype(np.int64)


def network_identity(network: EgoNetwork) -> str:
    """A name that changes with anything that decides a feature: SHA-256 of the config, and of parameters and buffers by name.

    The config counts because equal weights compute something else under another mask, head count, rotary base or epsilon.
    """
    digest = hashlib.sha256(network.config.model_dump_json().encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_cache(folder: str | Path | None) -> FeatureCache | None:
    """A cache of features in a folder, or none."""
    return None if folder is None else FeatureCache(Path(folder))


def _check_read(read: int, source: ImageSource, wanted: int, max_broken_share: float) -> int:
    if not read:
        raise DataError(f"none of the {wanted} images can be read, the first is {source.name(0)}")
    if wanted - read > max_broken_share * wanted:
        raise DataError(
            f"{wanted - read} of {wanted} images cannot be read, more than the allowed share {max_broken_share:g}; they are "
            "named above. Mend them or allow more (--max-broken-share)"
        )
    return read


def _finite(values: Tensor, name: str, source: ImageSource, rows: Tensor) -> Tensor:
    bad = ~torch.isfinite(values).all(1)
    if bad.any():
        image = source.name(int(rows[int(bad.nonzero()[0])]))
        raise EvalError(
            f"feature {name!r} of {image} is not finite ({int(bad.sum())} of {len(values)} in its batch): the weights are "
            "damaged, or --dtype bfloat16 overflows where float32 does not"
        )
    return values
