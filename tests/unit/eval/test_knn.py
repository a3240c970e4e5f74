"""The vote against hand-computed cases and naive loops; the search itself is tested in test_search.py."""

import numpy as np
import pytest
import torch
from search_samples import BACKENDS, brute_force, galleries

from internlm.eval.images import classes
from internlm.eval.tasks.knn import vote as knn


def test_vote_by_hand():
    similarity = torch.tensor([[0.9, 0.8, 0.8]])
    votes = knn.vote(similarity, torch.tensor([[2, 0, 0]]), 3, temperature=0.1)
    expected = torch.tensor([[2 * np.exp(-1.0), 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(votes, expected, atol=1e-6, rtol=0)


def naive_scores(train, train_labels, test, test_labels, count, k):
    similarity, index = brute_force(test, train, min(k, len(train)))
    top1 = top5 = 0
    for row, neighbours, label in zip(similarity, index, test_labels.tolist(), strict=True):
        votes = np.zeros(count)
        for s, i in zip(row, neighbours, strict=True):
            votes[train_labels[i]] += np.exp((s - row[0]) / 0.07)
        ranked = [c for c in np.argsort(-votes.round(9), kind="stable") if votes[c] > 0]
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
    return {"top1": 100 * top1 / len(test), "top5": 100 * top5 / len(test)}


def test_classify_equals_naive_votes_for_every_k():
    generator = torch.Generator().manual_seed(2)
    train, test = torch.randn(90, 6, generator=generator), torch.randn(37, 6, generator=generator)  # fewer than 100 test images
    train_labels, test_labels = torch.arange(90) % 13, torch.arange(37) % 13
    result = knn.decide(train, train_labels, test, 13, backend="torch").scores(test_labels)
    for k in knn.KS:
        assert result[k] == pytest.approx(naive_scores(train, train_labels, test, test_labels, 13, k))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name", ["duplicates", "coarse grid", "scaled copies", "opposed", "collapsed", "near ties", "common offset"]
)
def test_votes_among_ties_and_duplicates_equal_naive_votes(name, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    train = galleries()[name]
    test = torch.cat([train[3:20], torch.randn(30, 48, generator=torch.Generator().manual_seed(1))])
    train_labels, test_labels = torch.arange(len(train)) * 7 % 11, torch.arange(len(test)) % 11
    result = knn.decide(train, train_labels, test, 11, backend=backend).scores(test_labels)
    for k in knn.KS:
        assert result[k] == pytest.approx(naive_scores(train, train_labels, test, test_labels, 11, k)), k


def test_two_classes_and_an_unseen_class():
    train = torch.eye(4)
    result = knn.decide(train, torch.tensor([0, 0, 1, 1]), train, 2, ks=(1,)).scores(torch.tensor([0, 0, 1, -1]))
    assert result == {1: {"top1": 75.0, "top5": 75.0}}


def test_classes_are_matched_by_name():
    assert classes.match_classes(torch.tensor([0, 1, 2, -1]), ("b", "c", "a"), ("a", "b")).tolist() == [1, -1, 0, -1]
