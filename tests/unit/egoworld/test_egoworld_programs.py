"""Behaviour: deterministic, smooth, within human limits, out of the furniture, and decided by what is seen."""

import numpy as np
import pytest

from internlm.egoworld.body import draw_proportions
from internlm.egoworld.programs import Wearer, choose, interaction
from internlm.egoworld.rooms import PLACES, make_room
from internlm.egoworld.sight import FieldOfView, Paths, Sighting, first_hit, inside_solid
from internlm.egoworld.timeline import ACTIONS, FRAME_RATE, Timeline, cruise, minimum_jerk

VIEW = FieldOfView(1.09, 1.09)
FRAMES = 600


def compose(seed: int):
    rng = np.random.default_rng(seed)
    room = make_room(rng, PLACES[seed % len(PLACES)])
    wearer = Wearer(room, draw_proportions(rng), VIEW, FRAMES, rng)
    wearer.compose()
    return wearer, wearer.track(0, FRAMES)


@pytest.fixture(scope="module")
def takes():
    return [compose(seed) for seed in range(8)]


def test_same_seed_same_take(takes):
    again = compose(3)
    np.testing.assert_array_equal(again[1].joints, takes[3][1].joints)
    assert again[0].decisions == takes[3][0].decisions
    assert not np.array_equal(takes[3][1].joints, takes[4][1].joints)


def test_camera_never_enters_a_solid_and_the_body_stays_on_free_floor(takes):
    for wearer, track in takes:
        assert not inside_solid(wearer.room, track.world_from_camera[:, :3, 3], 0.03).any()
        roots = wearer.line.values[:FRAMES, :2]
        assert wearer.room.is_free(roots, 0.12).all(), "corners are cut by less than the walking clearance"


def test_speeds_are_human(takes):
    for _, track in takes:
        speed = np.linalg.norm(np.diff(track.joints, axis=0), axis=-1) * FRAME_RATE
        assert speed[:, 11:13].max() < 2.2, "hips walk"
        assert speed.max() < 8.0, "no joint jumps"
        rotation = track.world_from_camera[:, :3, :3]
        relative = np.einsum("fji,fjk->fik", rotation[:-1], rotation[1:])
        angle = np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)) * FRAME_RATE
        assert np.degrees(angle).max() < 700


def test_little_time_is_spent_still(takes):
    for _, track in takes:
        moving = (np.linalg.norm(np.diff(track.joints, axis=0), axis=-1) * FRAME_RATE > 0.1).any(1)
        windows = np.convolve(moving, np.ones(15), mode="valid") > 0
        assert windows.mean() > 0.97


def test_the_view_changes_enough_to_be_worth_predicting(takes):
    turned, moved = [], []
    for _, track in takes:
        rotation, eye = track.world_from_camera[:, :3, :3], track.world_from_camera[:, :3, 3]
        relative = np.einsum("fji,fjk->fik", rotation[:-15], rotation[15:])
        turned.append(np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))).mean())
        moved.append(np.linalg.norm(eye[15:] - eye[:-15], axis=1).mean())
    assert 12 < np.mean(turned) < 35
    assert np.mean(moved) > 0.12


def test_every_decision_is_for_an_object_in_view(takes):
    total = 0
    for wearer, _ in takes:
        total += len(wearer.decisions)
        frame, row = wearer.decisions[0]
        assert row in [sight.row for sight in _seen_at_start(wearer, frame)]
    assert total >= 3 * len(takes)


def _seen_at_start(wearer, frame):
    """What was visible at the first decision, before anything was carried anywhere."""
    fresh_boxes, fresh_centres = wearer.boxes, wearer.centres
    wearer.boxes = wearer.room.boxes.astype(np.float64)
    wearer.centres = np.array([thing.centre for thing in wearer.room.objects], np.float64)
    wearer.carried, held = None, wearer.carried
    try:
        return wearer.seen(frame)
    finally:
        wearer.boxes, wearer.centres, wearer.carried = fresh_boxes, fresh_centres, held


def test_the_next_motion_follows_from_what_is_seen():
    """Hiding the chosen object changes what the wearer does; hiding one out of view does not."""
    rng = np.random.default_rng(0)
    room = make_room(rng, "office")
    body = draw_proportions(rng)
    plain = Wearer(room, body, VIEW, 60, np.random.default_rng(5))
    while not plain.seen(0):
        rng = np.random.default_rng(int(rng.integers(1 << 30)))
        plain = Wearer(room, body, VIEW, 60, rng)
    state = plain.line.values[0].copy()

    def first_choice(hidden: int | None) -> int | None:
        wearer = Wearer(room, body, VIEW, 60, np.random.default_rng(5))
        wearer.line.values[:] = state
        wearer.pace = plain.pace
        if hidden is not None:
            wearer.visited = [hidden]
        wearer.decide(0)
        return wearer.decisions[0][1] if wearer.decisions else None

    seen = {sight.row for sight in plain.seen(0)}
    chosen = first_choice(None)
    assert chosen in seen
    assert first_choice(chosen) != chosen
    unseen = next(row for row in range(len(room.objects)) if row not in seen)
    assert first_choice(unseen) == chosen


def test_choice_is_the_object_nearest_the_centre():
    centres = np.array([[0, 0, 1.0], [0, 0, 1.0], [0, 0, 1.0]])
    seen = [Sighting(0, 30.0), Sighting(1, 5.0), Sighting(2, 12.0)]
    assert choose(seen, centres, []).row == 1
    assert choose(seen, centres, [1]).row == 2
    assert choose([], centres, []) is None
    assert {interaction(kind) for kind in ("mug", "clock", "bottle")} == {"reach", "wave", "carry"}


def test_carried_objects_move_continuously_and_rest_on_a_surface(takes):
    carried = 0
    for wearer, track in takes:
        moved = wearer.moved_objects(track)
        for row in range(len(wearer.room.objects)):
            path = np.array([frame.get(row, wearer.room.objects[row].centre) for frame in moved])
            assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() * FRAME_RATE < 6.0
            carried += np.ptp(path, axis=0).max() > 0.5
    assert carried >= 3


def test_labels_cover_the_repertoire(takes):
    used = set(np.concatenate([wearer.line.action[:FRAMES] for wearer, _ in takes]).tolist())
    assert {ACTIONS.index(name) for name in ("walk", "turn", "look", "reach", "carry", "wave")} <= used


def test_gaze_point_is_near_the_view_centre_when_the_head_rests(takes):
    angles = []
    for wearer, track in takes:
        world = track.world_from_camera
        local = np.einsum("fji,fj->fi", world[:, :3, :3], wearer.line.gaze[:FRAMES] - world[:, :3, 3])
        angles.append(np.degrees(np.arccos(local[:, 2] / np.linalg.norm(local, axis=1))))
    assert np.median(angles) < 12


def test_profiles_start_and_end_at_rest():
    s = np.linspace(0, 1, 401)
    for profile in (minimum_jerk(s), cruise(s, 0.2), cruise(s, 0.5)):
        assert profile[0] == 0 and profile[-1] == pytest.approx(1) and (np.diff(profile) >= -1e-12).all()
        assert np.diff(profile)[[0, -1]].max() < 1e-3
    line = Timeline(100)
    line.move("x", 10, 40, 2.0)
    line.move("x", 30, 60, -0.5)
    assert line.at("x", 10) == 0 and line.settled("x") == pytest.approx(1.5)
    line.move("y", -10, 10, 3.0)  # begun before the take
    assert line.at("y", 0) == pytest.approx(1.5) and line.settled("y") == pytest.approx(3.0)


def test_paths_keep_clear_of_furniture():
    rng = np.random.default_rng(2)
    room = make_room(rng, "living_room")
    paths = Paths(room, rng)
    for _ in range(12):
        start, goal = room.random_free_point(rng).astype(float), room.random_free_point(rng).astype(float)
        path = paths.find(start, goal)
        assert path is not None, "free floor is connected"
        np.testing.assert_allclose(path[-1], goal)
        for a, b in zip([start, *path], path):
            assert room.segment_is_free(a, b, 0.24)


def test_a_walk_is_found_where_no_sampled_point_helps():
    rng = np.random.default_rng(4)
    room = make_room(rng, "bathroom")
    paths = Paths(room, rng)
    paths.points, paths.length = np.zeros((0, 2)), np.zeros((0, 0))
    for _ in range(6):
        start, goal = room.random_free_point(rng).astype(float), room.random_free_point(rng).astype(float)
        path = paths.find(start, goal)
        np.testing.assert_allclose(path[-1], goal)
        for a, b in zip([start, *path], path):
            assert room.segment_is_free(a, b, 0.23)


def test_first_hit_of_boxes():
    boxes = np.array([[[1, -1, -1], [2, 1, 1]], [[1, 2, 2], [2, 3, 3]], [[-2, -1, -1], [-1, 1, 1]]], float)
    np.testing.assert_allclose(first_hit(boxes, np.zeros(3), np.array([4.0, 0, 0])), [0.25, np.inf, np.inf])
