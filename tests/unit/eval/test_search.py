"""The search against a float64 brute force: neighbours and order exactly, on random and on hostile inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_samples import BACKENDS, brute_force, galleries

from internlm.eval.tasks.knn import search


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", list(galleries()))
@pytest.mark.parametrize("k", [1, 20, 200])
def test_search_equals_float64_brute_force(name, k, backend, monkeypatch):
    if backend == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(search, "TILE_BYTES", 50_000)  # many tiles of queries and of gallery rows
    gallery = galleries()[name]
    query = torch.cat([gallery[3:20].double(), torch.randn(30, 48, generator=torch.Generator().manual_seed(1)).double()])
    query = query.to(gallery.dtype)
    similarity, index = search.search(query, gallery, k, backend=backend)
    wanted_similarity, wanted_index = brute_force(query, gallery, k)
    assert np.array_equal(index.numpy(), wanted_index)
    assert np.allclose(similarity.numpy(), wanted_similarity, atol=1e-11, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 40),
    rows=st.integers(1, 400),
    dim=st.integers(1, 24),
    k=st.integers(1, 60),
    levels=st.integers(1, 4),
    tile=st.integers(200, 20_000),
    seed=st.integers(0, 999),
)
def test_any_shape_with_any_ties(queries, rows, dim, k, levels, tile, seed):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.randint(-levels, levels + 1, (n, dim), generator=generator).float() for n in (queries, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "TILE_BYTES", tile)
        _, index = search.search(query, gallery, k, backend="torch")
    assert np.array_equal(index.numpy(), brute_force(query, gallery, k)[1])


def test_a_large_gallery_in_its_own_tiles():
    """The real tile size, and a last tile of fewer rows."""
    generator = torch.Generator().manual_seed(5)
    gallery = torch.randn(40_011, 256, generator=generator)
    query = torch.cat([gallery[-5:], torch.randn(25, 256, generator=generator)])
    assert np.array_equal(search.search(query, gallery, 10)[1].numpy(), brute_force(query, gallery, 10)[1])


def test_k_is_clipped_to_the_gallery():
    similarity, index = search.search(torch.randn(3, 4), torch.randn(5, 4), 200)
    assert similarity.shape == index.shape == (3, 5)
    assert index.sort(1).values.tolist() == [list(range(5))] * 3


def test_a_less_precise_matrix_product_widens_the_bound(monkeypatch):
    """A gallery that coarse products cannot order is still ordered, because the precision in force is asked for."""
    gallery = galleries()["random"]
    exact = torch.mm
    monkeypatch.setattr(search.torch, "mm", lambda a, b, *, out: out.copy_((exact(a, b) * 8).round() / 8))
    assert not np.array_equal(search.search(gallery[:9], gallery, 20)[1], brute_force(gallery[:9], gallery, 20)[1])
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert np.array_equal(search.search(gallery[:9], gallery, 20)[1], brute_force(gallery[:9], gallery, 20)[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_features_are_named(value):
    features = torch.randn(5, 3)
    features[3, 1] = value
    with pytest.raises(ValueError, match="row 3 of the gallery"):
        search.search(torch.randn(2, 3), features, 1)
    with pytest.raises(ValueError, match="row 3 of the query"):
        search.search(features, torch.randn(2, 3), 1)


def test_impossible_searches_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        search.search(torch.randn(0, 3), torch.randn(2, 3), 1)
    with pytest.raises(ValueError, match="4 numbers, gallery features 3"):
        search.search(torch.randn(1, 4), torch.randn(2, 3), 1)
    with pytest.raises(ValueError, match="k is 0"):
        search.search(torch.randn(1, 3), torch.randn(2, 3), 0)
    with pytest.raises(ValueError, match="choose auto, faiss or torch"):
        search.search(torch.randn(1, 3), torch.randn(2, 3), 1, backend="annoy")
