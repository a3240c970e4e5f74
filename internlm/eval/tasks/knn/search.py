"""Exact nearest neighbours by cosine similarity, in tiles with a running top-k.

Definition: the similarity is the cosine in float64; similarities that agree to 12 digits are one value, and equal values
rank by the lower gallery index. A vector of zeros has similarity 0 with everything.

Float32 products find the best k and a margin, which are scored again in float64. When even the last of them, plus the bound on
rounding, lies below the k-th neighbour, nothing was missed; the queries for which it does not see all rows in float64.
"""

import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor

from ...errors import EvalError

TILE_BYTES = 32 * 2**20
EQUAL_DIGITS = 12  # float64 similarities that agree to this many digits are one value


def search(query: Tensor, gallery: Tensor, k: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The k gallery rows of highest cosine similarity to each query row, exactly (see the module).

    query [N, D], gallery [M, D] (any float dtype, need not be normalised) -> similarity float64 [N, k] descending and
    index int64 [N, k]; k is clipped to M. Computed on the query's device; the gallery may lie on another one. ``backend`` is
    "torch" (also "auto") or, on the CPU, "faiss"; the neighbours do not depend on it. Memory beyond inputs and result stays
    below 200 MB for any N and M, at D up to 4096 and k up to 1000. Raises EvalError for empty or non-finite features.
    """
    for features, name in ((query, "query"), (gallery, "gallery")):
        if features.dim() != 2 or not features.numel():
            shape = tuple(features.shape)
            raise EvalError(f"the {name} features have shape {shape}; need at least one row of at least one number")
    dim = query.shape[1]
    if dim != gallery.shape[1]:
        raise EvalError(f"query features have {dim} numbers, gallery features {gallery.shape[1]}; extract both alike")
    if k < 1:
        raise EvalError(f"k is {k}; at least one neighbour is needed")
    if backend not in ("auto", "faiss", "torch"):
        raise EvalError(f"search backend {backend!r} is unknown; choose auto, faiss or torch")
    if backend == "faiss" and not importlib.util.find_spec("faiss"):
        raise EvalError("search backend 'faiss' is not installed (pip install faiss-cpu); 'torch' gives the same neighbours")
    k = min(k, len(gallery))
    reach = min(5 * k // 4 + 16, len(gallery))
    query_norm, norm = _norms(query, "query"), _norms(gallery, "gallery").to(query.device)
    # A sum of D products of unit vectors: half a unit in the last place for each, and a few for the vectors' own rounding.
    # Matrix products of less than full precision have a larger unit.
    bound = (2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8) * (dim + 8)
    similarity = torch.empty(len(query), k, dtype=torch.float64, device=query.device)
    index = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    block = max(1, TILE_BYTES // (16 * max(reach, _rows(dim), dim)))
    for part in (slice(start, start + block) for start in range(0, len(query), block)):
        unit = query[part] / query_norm[part, None]
        least, candidates = _candidates(unit.float(), gallery, norm, reach, backend == "faiss")
        found, where = _rescored(unit, gallery, norm, candidates, k)
        missed = (least + bound >= found[:, -1]) & (reach < len(gallery))
        if missed.any():
            found[missed], where[missed] = _all_rows(unit[missed], gallery, norm, k)
        similarity[part], index[part] = found, where
    return similarity, index


def _rows(dim: int) -> int:
    return max(1, TILE_BYTES // (16 * dim))


def _tiles(gallery: Tensor, norm: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """First row and unit rows [n, D] of each tile. One buffer serves all, or the allocator's memory falls to pieces."""
    rows = _rows(gallery.shape[1])
    buffer = torch.empty(min(rows, len(gallery)), gallery.shape[1], dtype=dtype, device=norm.device)
    for start in range(0, len(gallery), rows):
        part = gallery[start : start + rows].to(norm.device)
        yield start, torch.div(part, norm[start : start + rows, None], out=buffer[: len(part)])


def _candidates(unit: Tensor, gallery: Tensor, norm: Tensor, reach: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    """Each query's ``reach`` best float32 products: the least of them [n] and their rows, ascending [n, reach]."""
    best, index = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64, device=unit.device)
    products = unit.new_empty(len(unit), min(_rows(unit.shape[1]), len(gallery)))
    for start, tile in _tiles(gallery, norm, unit.dtype):
        if use_faiss:
            import faiss

            flat = faiss.IndexFlatIP(tile.shape[1])
            flat.add(tile.numpy())
            values, columns = map(torch.from_numpy, flat.search(unit.numpy(), min(reach, len(tile))))
        else:
            product = torch.mm(unit, tile.T, out=products[:, : len(tile)])
            values, columns = product.topk(min(reach, len(tile)), dim=1, sorted=False)
        best, index = torch.cat([best, values], 1), torch.cat([index, columns + start], 1)
        best, kept = best.topk(min(reach, best.shape[1]), dim=1, sorted=False)
        index = index.gather(1, kept)
    return best.amin(1), index.sort(1).values


def _rescored(unit: Tensor, gallery: Tensor, norm: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of candidate rows [n, c] in float64, elementwise, since a matrix product rounds equal rows differently."""
    similarity = torch.empty(candidates.shape, dtype=torch.float64, device=unit.device)
    rows = max(1, _rows(unit.shape[1]) // candidates.shape[1])
    for start in range(0, len(unit), rows):
        part = candidates[start : start + rows]
        chosen = gallery[part.to(gallery.device)].to(unit.device, torch.float64)
        similarity[start : start + rows] = chosen.mul_(unit[start : start + rows, None]).sum(-1) / norm[part]
    return _top(similarity, candidates, k)


def _all_rows(unit: Tensor, gallery: Tensor, norm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of all rows in float64."""
    best, index = unit.new_empty(len(unit), 0), torch.empty(len(unit), 0, dtype=torch.int64, device=unit.device)
    for start, tile in _tiles(gallery, norm, unit.dtype):
        columns = torch.arange(start, start + len(tile), device=unit.device).expand(len(unit), -1)
        best, index = _top(torch.cat([best, unit @ tile.T], 1), torch.cat([index, columns], 1), k)
    return best, index


def _top(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k by similarity; equals in the order they are in, which is that of the gallery."""
    order = similarity.mul(10**EQUAL_DIGITS).round().argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, order), index.gather(1, order)


def _norms(features: Tensor, name: str) -> Tensor:
    """Length of each row in float64, 1 for zeros; EvalError naming a row that is not finite."""
    norm = torch.empty(len(features), dtype=torch.float64, device=features.device)
    rows = _rows(features.shape[1])  # the cast to float64 is not fused: tile by tile
    for part, out in zip(features.split(rows), norm.split(rows), strict=True):
        torch.linalg.vector_norm(part, dim=1, dtype=torch.float64, out=out)
    bad = ~torch.isfinite(norm)
    if bad.any():
        raise EvalError(f"row {int(bad.nonzero()[0])} of the {name} features is not finite; leave such rows out")
    return norm.where(norm > 0, 1.0)
