"""Features of images: one decode pass, any number of encoders, in the source's order, on one process or many."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from internlm.core.init import autocast
from internlm.data.evaluation import View, evaluation_images
from internlm.data.frames import DataError, ImageSource
from internlm.data.view import normalise
from internlm.systems.base import Embeds

from .encoders import Encoder
from .errors import EvalError
from .feature_cache import FeatureCache, Stored
from .options import Extraction
from .ranks import from_first, gathered, own_share

PLAIN = Extraction()
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


def branch(system: Embeds, name: str) -> nn.Module:
    """A trained branch. EvalError for one that the system has not."""
    if name not in system.branches:
        raise EvalError(f"branch {name!r} is unknown; choose one of {', '.join(system.branches)}")
    return system.branch(name)


def encoder(system: Embeds, network: nn.Module, kinds: str | Mapping[str, str], how: Extraction) -> Encoder:
    """A branch of a system, in eval mode, as a function of uint8 images; ``kinds`` = a feature, or features by name.

    All come from one pass. A cache knows them by the weights and the config of the branch.
    """
    kinds = {"model": kinds} if isinstance(kinds, str) else dict(kinds)
    for kind in kinds.values():
        if kind not in system.features:
            raise EvalError(f"feature {kind!r} is unknown; choose one of {', '.join(system.features)}")
    network = network.to(how.place).eval()
    wanted = tuple(dict.fromkeys(kinds.values()))

    @torch.no_grad()
    def run(images: Tensor) -> dict[str, Tensor]:
        with autocast(how.place, how.precision):
            found = system.embed(network, normalise(images.to(how.place, non_blocking=True)), wanted)
        return {name: found[kind].float() for name, kind in kinds.items()}

    decides = [network_identity(network), kinds, str(how.precision), how.place.type] if how.cache else None
    return Encoder(run, tuple(kinds), decides and json.dumps(decides))


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


class _AllMet(Exception):
    """Every norm has seen the batch: the rest of the network need not run."""


def calibrate(system: Embeds, network: nn.Module, source: ImageSource, how: Extraction) -> int:
    """Give an untrained branch the BatchNorm statistics of its data, in place; returns how many images were used.

    Running statistics start at mean 0 and variance 1, which no data has: without this an untrained network is judged with
    its stem switched half off. At most 1,024 images, spread evenly; 0 for a network without BatchNorm.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return 0
    network.to(how.place).train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over the batches
    met: set[nn.Module] = set()

    def note(norm: nn.Module, *_: Any) -> None:
        met.add(norm)
        if len(met) == len(norms):
            raise _AllMet

    hooks = [norm.register_forward_hook(note) for norm in norms]
    used, rows = 0, sample_rows(source, CALIBRATION_IMAGES)
    with torch.no_grad():
        for batch in evaluation_images(source, system.image_size, 128, rows=rows, max_broken_share=how.max_broken_share):
            met.clear()
            with suppress(_AllMet):
                system.embed(network, normalise(batch.images.to(how.place)), system.features[:1])
            used += len(batch.rows)
    for hook in hooks:
        hook.remove()
    network.eval()
    return used


def extract(
    source: ImageSource, encoders: list[Encoder], image_size: int, how: Extraction = PLAIN, *, view: View | None = None
) -> Features:
    """Features of a source's images (at most ``how.limit``, spread evenly), each decoded once, by every encoder.

    Under torchrun the batches are shared out and process 0 gets all features. Images that cannot be read are left out and
    counted. What ``how.cache`` holds is not computed again; ``view`` replaces the evaluation view and is never cached.
    Raises DataError when none or too few can be read, EvalError when a feature is not finite, naming the image.
    """
    wanted = sample_rows(source, how.limit)
    cache = FeatureCache(how.cache, source, wanted, image_size, how.batch) if how.cache and view is None else None
    known = cache.find(encoders) if cache else {}
    missing = [item for item in encoders if item.names[0] not in known]
    if missing:
        fresh = _run(source, missing, image_size, wanted, how, view)
        if cache:
            cache.keep(missing, fresh)
        known |= fresh
    stored = list(known.values())
    if any(not torch.equal(stored[0].rows, other.rows) for other in stored[1:]):
        raise EvalError(f"cached features of {source.name(0)} and others are of different images; delete {how.cache}")
    rows = stored[0].rows
    labels = torch.tensor([-1 if (label := source.label(row)) is None else label for row in rows.tolist()], dtype=torch.int64)
    values = {name: tensor for part in stored for name, tensor in part.values.items()}
    return Features(values, labels, tuple(source.classes), rows, stored[0].unreadable)


def _run(
    source: ImageSource, encoders: list[Encoder], image_size: int, wanted: np.ndarray, how: Extraction, view: View | None
) -> dict[str, Stored]:
    options = {"rows": wanted, "view": view, "workers": how.workers, "max_broken_share": how.max_broken_share}

    def work() -> dict[int, dict[str, Tensor]]:
        parts = {}
        share = own_share(-(-len(wanted) // how.batch))
        for batch in evaluation_images(source, image_size, how.batch, only=share, **options):
            part = {"rows": batch.rows}
            for item in encoders:
                for name, values in item.run(batch.images).items():
                    part[f"feature {name}"] = _finite(values.float().cpu(), name, source, batch.rows)
            parts[int(np.searchsorted(wanted, int(batch.rows[0]))) // how.batch] = part
        return parts

    parts = list(gathered(work).values())
    read = from_first(lambda: _check_read(sum(len(part["rows"]) for part in parts), source, len(wanted), how.max_broken_share))
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


def network_identity(network: nn.Module) -> str:
    """A name that changes with anything that decides a feature: SHA-256 of the config, and of parameters and buffers by name.

    The config counts because equal weights compute something else under another mask, head count, rotary base or epsilon.
    """
    digest = hashlib.sha256(network.config.model_dump_json().encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_read(read: int, source: ImageSource, wanted: int, max_broken_share: float) -> int:
    if not read:
        raise DataError(f"none of the {wanted} images can be read, the first is {source.name(0)}")
    if wanted - read > max_broken_share * wanted:
        many = f"{wanted - read} of {wanted} images cannot be read, more than the allowed share {max_broken_share:g}"
        raise DataError(f"{many}; they are named above. Mend them or allow more (--max-broken-share)")
    return read


def _finite(values: Tensor, name: str, source: ImageSource, rows: Tensor) -> Tensor:
    bad = ~torch.isfinite(values).all(1)
    if bad.any():
        image = source.name(int(rows[int(bad.nonzero()[0])]))
        what = f"feature {name!r} of {image} is not finite ({int(bad.sum())} of {len(values)} in its batch)"
        raise EvalError(f"{what}: the weights are damaged, or --dtype bfloat16 overflows where float32 does not")
    return values
