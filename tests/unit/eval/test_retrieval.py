"""Retrieval ranks against a loop, the removal of the current frame, de-duplication and the floors."""

import numpy as np
import pytest
import torch

from internlm.eval.feature_files import FrameFeatures
from internlm.eval.tasks.retrieval import ranking as retrieval
from internlm.eval.tasks.retrieval import report as retrieval_protocol
from internlm.eval.tasks.retrieval.options import RetrievalOptions


def pool(clips=6, steps=4, dim=5, seed=0):
    """Clips of two takes that overlap: frame numbers 3·(c//2) onward, features a fixed function of (take, frame)."""
    generator = torch.Generator().manual_seed(seed)
    takes = torch.arange(clips) % 2
    frames = 3 * (torch.arange(clips) // 2)[:, None] + torch.arange(steps + 1)
    table = torch.randn(2, int(frames.max()) + 1, dim, generator=generator)
    prediction = torch.randn(clips, steps, dim, generator=generator)
    return takes, frames, table, prediction


def loop_ranks(prediction, takes, frames, table, scope):
    """Rank by an explicit loop over the distinct frames of the pool, in float64."""
    items = sorted({(int(t), int(f)) for t, row in zip(takes, frames, strict=True) for f in row})
    unit = torch.nn.functional.normalize(table.double(), dim=-1)
    found = np.zeros(prediction.shape[:2], dtype=int)
    for c in range(len(takes)):
        for s in range(prediction.shape[1]):
            take, now, after = int(takes[c]), int(frames[c, s]), int(frames[c, s + 1])
            score = {i: float(unit[i] @ prediction[c, s].double()) for i in items}
            rivals = [i for i in items if i not in ((take, now), (take, after))]
            if scope == "take":
                rivals = [i for i in rivals if i[0] == take]
            if scope == "clip":
                rivals = [i for i in rivals if i[0] == take and i[1] in frames[c].tolist()]
            found[c, s] = 1 + sum(score[i] >= score[take, after] for i in rivals)
    return found


@pytest.mark.parametrize("scope", retrieval.SCOPES)
def test_ranks_equal_a_loop(scope, monkeypatch):
    monkeypatch.setattr(retrieval, "TILE_ELEMENTS", 40)
    takes, frames, table, prediction = pool()
    gallery = retrieval.build_gallery(table[takes[:, None], frames], takes, frames)
    result = retrieval.retrieve(prediction, gallery, scope=scope)
    expected = loop_ranks(prediction, takes, frames, table, scope)
    assert np.array_equal(result["ranks"].numpy(), expected)
    assert result["top1"] == pytest.approx(100 * (expected == 1).mean())
    assert result["top5"] == pytest.approx(100 * (expected <= 5).mean())
    assert result["map"] == pytest.approx(100 * (1 / expected).mean())
    floor = loop_ranks(table[takes[:, None], frames[:, :-1]], takes, frames, table, scope)
    assert result["floors"]["current_frame"]["map"] == pytest.approx(100 * (1 / floor).mean())


def test_frames_shared_by_clips_are_one_item():
    takes, frames, table, _ = pool()
    gallery = retrieval.build_gallery(table[takes[:, None], frames], takes, frames)
    assert len(gallery.features) == 2 * int(frames.max() + 1)
    assert torch.equal(gallery.features[gallery.items], table[takes[:, None], frames])
    assert torch.equal(gallery.frame_numbers[gallery.items], frames)
    assert torch.equal(gallery.takes[gallery.items], takes[:, None].expand_as(frames))


def test_perfect_prediction_and_collapse():
    takes, frames, table, _ = pool()
    features = table[takes[:, None], frames]
    gallery = retrieval.build_gallery(features, takes, frames)
    perfect = retrieval.retrieve(features[:, 1:], gallery)
    assert perfect["top1"] == perfect["map"] == 100.0
    collapsed = retrieval.build_gallery(torch.ones_like(features), takes, frames)
    assert retrieval.retrieve(torch.ones_like(features[:, 1:]), collapsed)["top5"] == 0.0


def test_the_current_frame_is_removed():
    """A predictor that answers with the current frame is beaten only by the item that is removed."""
    features = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]])
    gallery = retrieval.build_gallery(features, torch.zeros(1, dtype=torch.int64), torch.tensor([[0, 5, 10]]))
    result = retrieval.retrieve(features[:, :-1], gallery)
    assert result["ranks"].tolist() == [[1, 2]]
    assert result["competing_items"] == 2


def test_chance_is_the_mean_over_random_orders():
    expected = {"top1": 25.0, "top5": 100.0, "map": 100 * (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4}
    assert retrieval.chance(torch.tensor([4])) == pytest.approx(expected)


def test_contradictory_query_is_refused():
    one = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="both as its right answer"):
        retrieval.ranks(torch.randn(1, 2), torch.randn(3, 2), one, one)


def test_nearest_leaves_out_the_current_frame():
    gallery = torch.eye(3) + 0.1
    assert retrieval.nearest(gallery[:1], gallery, torch.tensor([0]), 5).shape == (1, 2)
    assert retrieval.nearest(torch.tensor([[1.0, 0.5, 0.0]]), gallery, torch.tensor([0]), 1).tolist() == [[1]]


def test_centring_takes_an_offset_between_the_two_branches_away():
    torch.manual_seed(0)
    frames = torch.randn(3, 5, 16)
    gallery = retrieval.build_gallery(frames, torch.arange(3), torch.arange(5).expand(3, 5))
    shifted = frames[:, 1:] * 0.1 + torch.randn(16)  # the right answers, weak beside a common offset
    assert retrieval.retrieve(shifted, gallery)["top1"] < 50
    assert retrieval.retrieve(*retrieval.centred(shifted, gallery))["top1"] == 100


def test_a_longer_horizon_removes_the_frames_between():
    """Rank of frame t+2 by a loop: neither t nor t+1 competes, and the last step of a clip has no answer."""
    takes, frames, table, prediction = pool()
    gallery = retrieval.build_gallery(table[takes[:, None], frames], takes, frames)
    result = retrieval.retrieve(prediction, gallery, horizon=2)
    unit = torch.nn.functional.normalize(table.double(), dim=-1)
    items = sorted({(int(t), int(f)) for t, row in zip(takes, frames, strict=True) for f in row})
    assert result["ranks"].shape == (6, 3) and result["competing_items"] == len(items) - 2
    for c in range(6):
        for s in range(3):
            take, now = int(takes[c]), int(frames[c, s])
            score = {i: float(unit[i] @ prediction[c, s].double()) for i in items}
            rivals = [i for i in items if i not in ((take, now), (take, now + 1), (take, now + 2))]
            assert int(result["ranks"][c, s]) == 1 + sum(score[i] >= score[take, now + 2] for i in rivals)
    with pytest.raises(ValueError, match="horizon 5 is outside 1..4"):
        retrieval.retrieve(prediction, gallery, horizon=5)


def test_constant_drift_finds_what_moves_evenly():
    angle = 0.4 * torch.arange(6.0)
    features = torch.stack([angle.cos(), angle.sin()], dim=1)[None]
    gallery = retrieval.build_gallery(features, torch.zeros(1, dtype=torch.int64), torch.arange(6)[None])
    floors = retrieval.retrieve(features[:, :-1], gallery)["floors"]
    assert floors["constant_drift"]["top1"] == 100 and floors["current_frame"]["top1"] < 50
    drift = retrieval.drifted(features)
    torch.testing.assert_close(drift[0, 0], features[0, 0])
    torch.testing.assert_close(drift[0, 2], 2 * features[0, 2] - features[0, 1])
    torch.testing.assert_close(retrieval.drifted(features, 3)[0, 2], 4 * features[0, 2] - 3 * features[0, 1])


def test_scores_by_action():
    ranks = torch.tensor([1, 2, 1, 4])
    rows = retrieval_protocol.by_name(np.array(["walk", "walk", "turn", "walk"]), ranks, torch.tensor([2, 1, 2, 2]))
    assert [(row["action"], row["queries"], round(row["top1"])) for row in rows] == [("walk", 3, 33), ("turn", 1, 100)]
    assert round(rows[0]["floors"]["current_frame"]) == 33 and rows[0]["map"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 4) / 3)


def test_stored_features_are_retrieved_in_clips_of_their_take():
    takes, numbers = torch.tensor([0] * 4 + [1] * 3), torch.tensor([0, 5, 10, 20, 0, 5, 10])
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 6, generator=generator)
    following = torch.cat([features[1:], features[:1]])
    stored = FrameFeatures(features, takes, numbers, following)
    report = retrieval_protocol.stored_report(stored, RetrievalOptions(frame_stride=5))
    assert report["queries"] == 4 and report["gallery_items"] == 6  # frame 20 of take 0 has neither a next nor a previous one
    assert report["top1"] == 100 and report["protocol"]["query"] == "stored prediction"
    plain = retrieval_protocol.stored_report(
        FrameFeatures(features, takes, numbers, None), RetrievalOptions(frame_stride=5, steps=2)
    )
    assert plain["queries"] == 4 and plain["top1"] == plain["floors"]["current_frame"]
    with pytest.raises(ValueError, match="check --frame-stride"):
        retrieval_protocol.stored_report(stored, RetrievalOptions(frame_stride=7))
    with pytest.raises(ValueError, match="1 stored frames occur twice"):
        twice = FrameFeatures(features, takes, numbers.where(numbers != 20, torch.tensor(10)), None)
        retrieval_protocol.stored_report(twice, RetrievalOptions(frame_stride=5))
