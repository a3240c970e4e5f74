"""Exact nearest neighbours by cosine similarity, in tiles with a running top-k.

Definition: the similarity is the cosine in float64; similarities that agree to 12 digits are one value, and equal values
rank by the lower gallery index. A vector of zeros has similarity 0 with everything.

How it stays exact at the speed of float32: each step hands on only the queries that it cannot decide.
 1. float32 products, with the mean of the gallery taken away from its rows. That changes every similarity of a query by
    the same amount, so the order stays, while the numbers and with them the rounding become smaller.
 2. The best k and a margin are scored again in float64. When even the last of them, plus the bound on rounding, lies below
    the k-th neighbour, nothing was missed.
 3. Otherwise the same with float64 products, whose bound is a thousandth of a millionth of a millionth.
 4. Otherwise many rows tie: all rows within the bound of the k-th are compared, in the gallery's order.
"""

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import EvalError

TILE_BYTES = 32 * 2**20
EQUAL_DIGITS = 12  # float64 similarities that agree to this many digits are one value
GROUP = 16  # columns whose maximum decides whether any of them can enter the running top-k
FEW_GROUPS = 32
SAFE_NORMS = (1e-30, 1e30)  # float32 arithmetic on rows outside says nothing
TRIAL_WORK = 2**36  # multiply-adds from which trying both backends on a tile pays


def search(query: Tensor, gallery: Tensor, k: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The k gallery rows of highest cosine similarity to each query row, exactly (see the module).

    query [N, D], gallery [M, D] (any float dtype, need not be normalised) -> similarity float64 [N, k] descending and
    index int64 [N, k]; k is clipped to M. Computed on the query's device; the gallery may lie on another one. ``backend`` is
    "torch", "faiss" or "auto" (on the CPU and where FAISS is installed, whichever is faster on a first tile); the neighbours
    do not depend on it. Memory beyond inputs and result stays below 200 MB for any N and M, at D up to 4096. Raises EvalError
    for empty or non-finite features.
    """
    _check_shape(query, "query")
    _check_shape(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise EvalError(f"query features have {query.shape[1]} numbers, gallery features {gallery.shape[1]}; extract both alike")
    if k < 1:
        raise EvalError(f"k is {k}; at least one neighbour is needed")
    _check_backend(backend)
    k = min(k, len(gallery))
    space = _prepare(gallery, query.device)
    query_norm = _norms(query, "query")
    if backend == "auto":
        backend = _faster(query, space, k)
    similarities = torch.empty(len(query), k, dtype=torch.float64, device=query.device)
    indices = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    block = max(1, min(TILE_BYTES // (4 * gallery.shape[1]), TILE_BYTES // (8 * k)))
    for start in range(0, len(query), block):
        part = slice(start, start + block)
        found = _search_block(query[part], query_norm[part], space, k, backend == "faiss")
        similarities[part], indices[part] = found
    return similarities, indices


@dataclass(frozen=True)
class _Space:
    """A gallery with what every query needs of it."""

    rows: Tensor  # [M, D], where the caller keeps it
    norm: Tensor  # float64 [M], 1 for a vector of zeros; on the computing device
    mean: Tensor  # float32 [D] of the unit rows
    radius: float  # largest distance of a unit row from the mean
    safe: bool  # whether float32 can hold the rows

    def tiles(self, rows: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """First row and unit rows [n, D] of each tile; those in float32 are less the mean. One buffer serves all."""
        device = self.norm.device
        buffer = torch.empty(min(rows, len(self.rows)), self.rows.shape[1], dtype=dtype, device=device)
        for start in range(0, len(self.rows), rows):
            part = self.rows[start : start + rows]
            tile = buffer[: len(part)].copy_(part)
            tile.div_(self.norm[start : start + rows, None].to(dtype))
            yield start, tile.sub_(self.mean) if dtype == torch.float32 else tile


def _prepare(gallery: Tensor, device: torch.device) -> _Space:
    norm = _norms(gallery, "gallery").to(device)
    space = _Space(gallery, norm, torch.zeros(gallery.shape[1], device=device), 1.0, _safe(norm))
    if not space.safe:
        return space
    rows = max(1, TILE_BYTES // (4 * gallery.shape[1]))
    total = torch.zeros(gallery.shape[1], dtype=torch.float64, device=device)
    for _, tile in space.tiles(rows, torch.float32):
        total += tile.sum(0)
    space = _Space(gallery, norm, (total / len(gallery)).float(), 1.0, True)
    radius = max(float(tile.square().sum(1).max()) for _, tile in space.tiles(rows, torch.float32)) ** 0.5
    return _Space(gallery, norm, space.mean, 1.001 * radius, True)


def _search_block(query: Tensor, norm: Tensor, space: _Space, k: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    """Similarity [n, k] and index [n, k] of a block of queries."""
    dim = query.shape[1]
    similarity = torch.empty(len(query), k, dtype=torch.float64, device=query.device)
    index = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
    rows = torch.arange(len(query), device=query.device)
    # Bounds for a sum of D products: D times half a unit in the last place times the lengths of the two vectors, and a few
    # units for the rounding of the vectors themselves. Matrix products of less than full precision have a larger unit.
    unit = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    single = (torch.float32, 5 * k // 4 + 16, unit * ((dim + 4) * space.radius + 4))
    double = (torch.float64, 4 * k + 64, _tie_bound(dim))
    for dtype, reach, bound in (single, double) if space.safe and _safe(norm) else (double,):
        reach = min(reach, len(space.rows))
        batch = len(rows) if dtype == torch.float32 else max(1, TILE_BYTES // (12 * reach))
        undecided = []
        for chosen in rows.split(batch):
            part, length = query[chosen], norm[chosen]
            scaled = part.to(dtype) / length[:, None].to(dtype)
            last, candidates = _best(scaled, space, reach, use_faiss and dtype == torch.float32)
            found, where = _rescore(part, length, space, candidates, k)
            similarity[chosen], index[chosen] = found, where
            if reach < len(space.rows):
                shift = scaled.double() @ space.mean.double() if dtype == torch.float32 else 0.0
                undecided.append(chosen[last.double() + shift + bound >= found[:, -1]])
        rows = torch.cat(undecided) if undecided else rows[:0]
        if not len(rows):
            return similarity, index
    for chosen in rows.split(256):
        found = _resolve_ties(query[chosen], norm[chosen], space, similarity[chosen])
        similarity[chosen], index[chosen] = found
    return similarity, index


def _best(unit: Tensor, space: _Space, reach: int, use_faiss: bool) -> tuple[Tensor, Tensor]:
    """Each query's ``reach`` best products with all tiles: the least of them [n] and their columns int64 [n, reach]."""
    tile_rows, query_rows = _tile_shape(unit, reach)
    best = unit.new_full((len(unit), reach), -torch.inf)
    index = torch.zeros(len(unit), reach, dtype=torch.int32 if len(space.rows) < 2**31 else torch.int64, device=unit.device)
    products = unit.new_empty(0) if use_faiss else unit.new_empty(min(query_rows, len(unit)) * min(tile_rows, len(space.rows)))
    for start, tile in space.tiles(tile_rows, unit.dtype):
        faiss_index = _faiss_index(tile) if use_faiss else None
        for low in range(0, len(unit), query_rows):
            part = slice(low, low + query_rows)
            if use_faiss:
                values, columns = faiss_index.search(unit[part].numpy(), min(reach, len(tile)))
                _merge(best[part], index[part], torch.from_numpy(values), torch.from_numpy(columns) + start)
                continue
            queries = unit[part]
            product = products[: len(queries) * len(tile)].view(len(queries), len(tile))
            torch.mm(queries, tile.T, out=product)
            _update(best[part], index[part], product, start)
    return best.amin(1), index.long()


def _tile_shape(unit: Tensor, reach: int) -> tuple[int, int]:
    """Gallery rows of a tile (a multiple of GROUP, at least ``reach``) and queries that meet it at once."""
    size = unit.element_size()
    rows = max(reach, TILE_BYTES // (size * unit.shape[1]))
    rows = -(-rows // GROUP) * GROUP
    return rows, max(1, min(1024, TILE_BYTES // (size * rows)))


def _update(best: Tensor, index: Tensor, product: Tensor, start: int) -> None:
    """Let a tile's products [n, columns] enter the running top-k, in place; ``best`` is not sorted.

    The tile's columns are looked at in groups by their maximum: once some tiles are seen, few groups of a row can hold
    anything better than its k-th best, and only their columns are sorted.
    """
    rows, columns = product.shape
    if columns % GROUP:
        return _update_fully(best, index, product, torch.arange(rows, device=product.device), start)
    peak = product.view(rows, GROUP, columns // GROUP).amax(1)
    count = (peak > best.amin(1)[:, None]).sum(1)
    many = (count > FEW_GROUPS).nonzero()[:, 0]
    _update_fully(best, index, product, many, start)
    few = ((count > 0) & (count <= FEW_GROUPS)).nonzero()[:, 0]
    if len(few):
        group = peak[few].topk(int(count[few].max()), dim=1, sorted=False).indices
        member = torch.arange(GROUP, device=product.device)[:, None] * (columns // GROUP)
        column = (group[:, None] + member).flatten(1)
        values = product.view(-1)[few[:, None] * columns + column]
        kept, where = best[few], index[few]
        _merge(kept, where, values, column + start)
        best[few], index[few] = kept, where


def _update_fully(best: Tensor, index: Tensor, product: Tensor, rows: Tensor, start: int) -> None:
    """The same for some rows by a top-k over all columns."""
    for part in rows.split(128):
        values, column = product[part].topk(min(best.shape[1], product.shape[1]), dim=1, sorted=False)
        kept, where = best[part], index[part]
        _merge(kept, where, values, column + start)
        best[part], index[part] = kept, where


def _merge(best: Tensor, index: Tensor, values: Tensor, columns: Tensor) -> None:
    """Keep the best of what is there and what is new, in place."""
    values, kept = torch.cat([best, values], 1).topk(best.shape[1], dim=1, sorted=False)
    best.copy_(values)
    index.copy_(torch.cat([index, columns.to(index.dtype)], 1).gather(1, kept))


def _rescore(query: Tensor, norm: Tensor, space: _Space, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Float64 cosine of each query's candidates, sorted: similarity [n, k], index [n, k]."""
    candidates = candidates.sort(dim=1).values
    rows = max(1, TILE_BYTES // (16 * candidates.shape[1] * query.shape[1]))
    # Written in place: small results left between the big temporaries would keep the allocator from reusing their memory.
    similarity = torch.empty(candidates.shape, dtype=torch.float64, device=query.device)
    for start in range(0, len(query), rows):
        part = slice(start, start + rows)
        similarity[part] = _cosine(query[part], norm[part], space, candidates[part])
    return _sorted_top(similarity, candidates, k)


def _resolve_ties(query: Tensor, norm: Tensor, space: _Space, known: Tensor) -> tuple[Tensor, Tensor]:
    """Exact neighbours of queries with more ties than the candidates hold; ``known`` [n, k]: the best found so far.

    The gallery is read in order and a query is done as soon as k rows have the highest similarity there can be, since later
    equals rank behind them: with features that are all alike after the first tile.
    """
    k, bound = known.shape[1], _tie_bound(query.shape[1])
    least, highest = known[:, -1] - bound, _key(known[:, 0] + bound)
    unit = query.double() / norm[:, None]
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(len(query))]
    missing = [k] * len(query)
    rows = max(1, TILE_BYTES // (8 * query.shape[1]))
    for start, tile in space.tiles(rows, torch.float64):
        open_rows = [row for row, count in enumerate(missing) if count > 0]
        if not open_rows:
            break
        product = unit[open_rows] @ tile.T
        for row, near in zip(open_rows, product >= least[open_rows, None], strict=True):
            for columns in near.nonzero()[:, 0].split(max(k, 256)):
                similarity = _cosine(query[row, None], norm[row, None], space, columns[None] + start)[0]
                found[row].append((similarity, columns + start))
                missing[row] -= int((_key(similarity) == highest[row]).sum())
                if missing[row] <= 0:
                    break
    tops = [_sorted_top(*(torch.cat(part)[None] for part in zip(*parts, strict=True)), k) for parts in found]
    return torch.cat([top[0] for top in tops]), torch.cat([top[1] for top in tops])


def _cosine(query: Tensor, norm: Tensor, space: _Space, rows: Tensor) -> Tensor:
    """Float64 cosine of queries [n, D] with gallery rows int64 [n, c] -> [n, c].

    An elementwise product, since a matrix product rounds equal rows differently.
    """
    chosen = space.rows[rows.to(space.rows.device)].to(query.device, torch.float64)
    return chosen.mul_(query[:, None].double()).sum(-1).div_(space.norm[rows] * norm[:, None])


def _sorted_top(similarity: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top k by similarity, ties by index; ``index`` ascends along each row."""
    order = _key(similarity).argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, order), index.gather(1, order)


def _key(similarity: Tensor) -> Tensor:
    return similarity.mul(10**EQUAL_DIGITS).round()


def _tie_bound(dim: int) -> float:
    """Float64 similarities further apart than this differ in the first digits whichever way they were summed."""
    return max(1e-11, 4 * dim * 2.0**-53) + 10.0**-EQUAL_DIGITS


def _norms(features: Tensor, name: str) -> Tensor:
    """Length of each row in float64, 1 for zeros; EvalError naming a row that is not finite."""
    rows = max(1, TILE_BYTES // (8 * features.shape[1]))  # the cast to float64 is not fused: tile by tile
    norm = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in features.split(rows)])
    bad = ~torch.isfinite(norm)
    if bad.any():
        raise EvalError(f"row {int(bad.nonzero()[0])} of the {name} features is not finite; leave such rows out")
    return norm.where(norm > 0, torch.ones_like(norm))


def _safe(norm: Tensor) -> bool:
    return SAFE_NORMS[0] < float(norm.min()) and float(norm.max()) < SAFE_NORMS[1]


def _check_shape(features: Tensor, name: str) -> None:
    if features.dim() != 2 or not len(features) or not features.shape[1]:
        raise EvalError(f"the {name} features have shape {tuple(features.shape)}; need at least one row of at least one number")


def _check_backend(backend: str) -> None:
    if backend not in ("auto", "faiss", "torch"):
        raise EvalError(f"search backend {backend!r} is unknown; choose auto, faiss or torch")
    if backend == "faiss" and not _faiss_installed():
        raise EvalError("search backend 'faiss' is not installed (pip install faiss-cpu); 'torch' gives the same neighbours")


def _faiss_installed() -> bool:
    return importlib.util.find_spec("faiss") is not None


def _faiss_index(tile: Tensor):
    import faiss

    index = faiss.IndexFlatIP(tile.shape[1])
    index.add(tile.numpy())
    return index


def _faster(query: Tensor, space: _Space, k: int) -> str:
    """The backend that is faster on one tile. FAISS may be either, by its matrix library and the number of threads."""
    work = len(query) * len(space.rows) * query.shape[1]
    if query.device.type != "cpu" or not space.safe or work < TRIAL_WORK or not _faiss_installed():
        return "torch"
    reach = min(len(space.rows), 5 * k // 4 + 16)
    sample = query[:256].float() / query[:256].float().norm(dim=1, keepdim=True).clamp(min=SAFE_NORMS[0])
    _, tile = next(space.tiles(_tile_shape(sample, reach)[0], torch.float32))

    def by_torch() -> None:
        _update(sample.new_zeros(len(sample), reach), torch.zeros(len(sample), reach, dtype=torch.int32), sample @ tile.T, 0)

    index = _faiss_index(tile)
    seconds = {"torch": _seconds(by_torch), "faiss": _seconds(lambda: index.search(sample.numpy(), min(reach, len(tile))))}
    return min(seconds, key=seconds.get)


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
