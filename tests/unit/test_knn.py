"""The vote against hand-computed cases and naive loops; the search itself is tested in test_search.py."""

import numpy as np
import pytest
import torch

from internlm.eval import classes, knn


def brute_force(query, gallery, k):
    """Float64 neighbours, ties to the lower index; similarities equal to 12 digits are ties."""
    q = query.double().numpy() / np.linalg.norm(query.double().numpy(), axis=1, keepdims=True)
    g = gallery.double().numpy() / np.linalg.norm(gallery.double().numpy(), axis=1, keepdims=True)
    similarity = np.round(q @ g.T, 12)
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, 1), index


def test_vote_by_hand():
    similarity = torch.tensor([[0.9, 0.8, 0.8]])
    votes = knn.vote(similarity, torch.tensor([[2, 0, 0]]), 3, temperature=0.1)
    expected = torch.tensor([[2 * np.exp(-1.0), 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(votes, expected, atol=1e-6, rtol=0)


def test_classify_equals_naive_votes_for_every_k():
    generator = torch.Generator().manual_seed(2)
    train, test = torch.randn(90, 6, generator=generator), torch.randn(37, 6, generator=generator)  # fewer than 100 test images
    train_labels, test_labels = torch.arange(90) % 13, torch.arange(37) % 13
    result = knn.classify(train, train_labels, test, test_labels, 13, backend="torch")
    for k in knn.KS:
        similarity, index = brute_force(test, train, min(k, 90))
        top1 = top5 = 0
        for row, neighbours, label in zip(similarity, index, test_labels.tolist(), strict=True):
            votes = np.zeros(13)
            for s, i in zip(row, neighbours, strict=True):
                votes[train_labels[i]] += np.exp(s / 0.07)
            ranked = [c for c in np.argsort(-votes, kind="stable") if votes[c] > 0]
            top1 += ranked[0] == label
            top5 += label in ranked[:5]
        assert result[k] == pytest.approx({"top1": 100 * top1 / 37, "top5": 100 * top5 / 37})


def test_two_classes_and_an_unseen_class():
    train = torch.eye(4)
    result = knn.classify(train, torch.tensor([0, 0, 1, 1]), train, torch.tensor([0, 0, 1, -1]), 2, ks=(1,))
    assert result == {1: {"top1": 75.0, "top5": 75.0}}


def test_classes_are_matched_by_name():
    assert classes.match_classes(torch.tensor([0, 1, 2, -1]), ("b", "c", "a"), ("a", "b")).tolist() == [1, -1, 0, -1]
