"""The linear probe against autograd and a separable problem; selection, held-out groups and few-shot draws."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from internlm.eval.features import Features
from internlm.eval.tasks.linear import probe as linear
from internlm.eval.tasks.linear.options import LinearOptions
from internlm.eval.tasks.linear.report import score


def blobs(per_class=40, classes=4, dim=12, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat(per_class)
    return centres[labels] + noise * torch.randn(len(labels), dim, generator=generator), labels


def test_a_step_equals_autograd_and_sgd():
    x, labels = blobs(per_class=5)
    rates = (0.03, 0.3)
    probes = linear.Probes(x.shape[1], 4, rates, steps=10, weight_decay=0.01, device="cpu")
    layers = [torch.nn.Linear(x.shape[1], 4) for _ in rates]
    optimizers = []
    for layer, rate in zip(layers, rates, strict=True):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": 0.01}, {"params": [layer.bias]}]
        optimizers.append(torch.optim.SGD(groups, lr=rate, momentum=0.9))
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10) for optimizer in optimizers]
    for step in range(10):
        part = slice(2 * step, 2 * step + 2)
        probes.update(x[part], labels[part])
        for layer, optimizer, schedule in zip(layers, optimizers, schedules, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    for row, layer in enumerate(layers):
        torch.testing.assert_close(probes.weight[row].T, layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.bias[row, 0], layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_top_is_in_batches_and_ties_go_to_the_lower_class(monkeypatch):
    monkeypatch.setattr(linear, "TILE_ELEMENTS", 30)
    x, _ = blobs()
    probes = linear.Probes(x.shape[1], 4, (0.1,), 1, 0.0, "cpu")
    assert probes.top(x, linear.Scale.of(x)).tolist() == [[[0, 1, 2, 3]] * len(x)]


def test_held_out_takes_are_whole_and_every_class_keeps_one():
    labels = torch.tensor([0] * 20 + [1] * 6 + [2] * 3)
    groups = [f"take{i // 4}" for i in range(20)] + [f"b{i}" for i in range(6)] + ["alone"] * 3
    held = linear.hold_out(labels, groups, 0.3, seed=0)
    for name in set(groups):
        assert len({bool(held[i]) for i, group in enumerate(groups) if group == name}) == 1
    assert 4 <= int(held[:20].sum()) <= 8 and 1 <= int(held[20:26].sum()) <= 3 and not held[26:].any()
    assert torch.equal(held, linear.hold_out(labels, groups, 0.3, seed=0))
    assert not torch.equal(held, linear.hold_out(labels, groups, 0.3, seed=3))
    with pytest.raises(ValueError, match="nothing can be held out"):
        linear.hold_out(torch.tensor([0, 1]), ["a", "b"], 0.5, seed=0)


def test_shots_are_drawn_within_classes():
    labels = torch.tensor([2, 0, 0, 0, 2, 1, 0])
    rows = linear.draw_shots(labels, 2, seed=1)
    assert sorted(labels[rows].tolist()) == [0, 0, 1, 2, 2]
    assert {tuple(linear.draw_shots(labels, 2, seed).tolist()) for seed in range(9)} != {tuple(rows.tolist())}


def test_nearest_mean_by_hand():
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 5.0]])
    found = linear.nearest_mean(train, torch.tensor([0, 0, 2]), torch.tensor([[3.0, 0.1], [0.1, 0.2]]), 3)
    assert found.tolist() == [0, 2]


def features(noise=1.0, shuffle_test=False):
    train, train_labels = blobs(noise=noise)
    test, test_labels = blobs(per_class=15, noise=noise, seed=1)
    if shuffle_test:
        test_labels = test_labels[torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(0))]
    classes = tuple("abcd")
    useless = torch.randn(len(train), 6, generator=torch.Generator().manual_seed(2))
    parts = {"train": (train, train_labels, useless), "test": (test, test_labels, useless[: len(test)])}
    return {
        name: Features({"model.good": x, "model.noise": bad, "pixels": bad}, labels, classes, torch.arange(len(x)), 0)
        for name, (x, labels, bad) in parts.items()
    }


RECIPE = LinearOptions(rates=(1e-7, 0.05), epochs=20, probe_batch=32)


def test_the_probe_learns_and_chooses_the_useful_feature_and_rate():
    found = features()
    report = score(found, [str(i) for i in range(160)], replace(RECIPE, shots=(1, 5, 99), draws=3))
    assert report["top1"] > 90 and report["selected"]["feature"] == "model.good" and report["selected"]["rate"] == 0.05
    assert report["floors"]["pixels"] < 50 and len(report["grid"]) == 4 and len(report["per_class"]) == 4
    one, five, all_of_them = report["few_shot"]
    assert one["top1"] <= five["top1"] <= 100 and len(one["top1_by_draw"]) == 3 and one["top1_std"] >= 0
    assert all_of_them["classes_with_fewer_images"] == 4 and all_of_them["nearest_mean_top1"] > 90


def test_test_labels_play_no_part_in_training_or_choice():
    one, other = (score(features(shuffle_test=flag), [str(i) for i in range(160)], RECIPE) for flag in (False, True))
    assert one["selected"] == other["selected"] and one["grid"] == other["grid"]
    assert one["top1"] > other["top1"]


def test_a_constant_feature_and_an_unseen_class_do_no_harm():
    found = features()
    for part in found.values():
        part.values["model.good"][:, 0] = 7
    found["test"].labels[:15] = -1
    report = score(found, [str(i) for i in range(160)], RECIPE)
    assert report["protocol"]["test_images_of_unseen_classes"] == 15 and 50 < report["top1"] <= 75


def test_impossible_recipes_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        LinearOptions(rates=(0.1, 0.0))
    with pytest.raises(ValueError, match="held out"):
        LinearOptions(held_out=1.0)
