import numpy as np
import pytest

from internlm.egoworld.catalogue import HANGINGS, PIECES, length
from internlm.egoworld.pieces import bed, bookshelf
from internlm.egoworld.rooms import CELL, MIN_OBJECTS, PLACES, REACH, WALK_RADIUS, _Layout, make_room
from internlm.egoworld.textures import TEXTURE_ID


@pytest.fixture(scope="module")
def rooms():
    return [make_room(np.random.default_rng([3, i, k]), place) for i, place in enumerate(PLACES) for k in range(2)]


@pytest.mark.parametrize("place", PLACES)
def test_a_seed_gives_one_room(place):
    first, again, other = (make_room(np.random.default_rng(seed), place) for seed in (5, 5, 6))
    for name in ("size", "boxes", "box_textures", "box_colours", "shell_textures", "tints"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(first.light.direction, again.light.direction)
    assert [thing.kind for thing in first.objects] == [thing.kind for thing in again.objects]
    assert first.boxes.shape != other.boxes.shape or not np.array_equal(first.boxes, other.boxes)


def test_an_unknown_place_is_named():
    with pytest.raises(ValueError, match="cellar"):
        make_room(np.random.default_rng(0), "cellar")


def test_every_solid_has_volume_and_stays_within_the_walls(rooms):
    for room in rooms:
        assert ((room.boxes[:, 1] - room.boxes[:, 0]) > 0).all()
        assert (room.boxes[:, 0] >= 0).all() and (room.boxes[:, 1] <= room.size + 1e-4).all()
        assert len(room.boxes) >= 25


def test_a_length_is_calculated_from_left_to_right():
    assert length([0.2, "w", "w / 2 - 0.15", "0.36 + w * 0.5"], {"w": 0.6}) == [0.2, 0.6, 0.6 / 2 - 0.15, (0.36 + 0.6) * 0.5]
    with pytest.raises(ValueError, match="width"):
        length("width - 0.1", {"w": 0.6})


def test_pieces_of_furniture_do_not_run_into_each_other():
    rng = np.random.default_rng(12)
    layout = _Layout(rng, np.array([5.0, 4.5, 2.6], np.float32), ("wood",))
    for builder in (bed, bookshelf, *(PIECES[name] for name in ("stove", "treadmill", "chair")), *HANGINGS) * 3:
        layout.along_wall(builder, 8)
    layout.island(PIECES["chair"], 30)
    low, high = np.stack(layout.bounds, 1)
    assert len(low) > 8
    overlap = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).min(-1)
    np.fill_diagonal(overlap, -1)
    assert overlap.max() < 1e-4


def test_a_wall_piece_faces_the_room():
    """The stove's oven door lies on the face away from its wall, whichever wall that is."""
    faces = set()
    for seed in range(12):
        layout = _Layout(np.random.default_rng(seed), np.array([5.0, 4.0, 2.6], np.float32), ("wood",))
        assert layout.along_wall(PIECES["stove"], 30)
        body = layout.parts[0]
        front = body.textures.index(TEXTURE_ID["oven"])
        gap = [body.low[0], 5.0 - body.high[0], body.low[1], 4.0 - body.high[1]]
        assert gap[front ^ 1] < 1e-5 < 1 < gap[front]
        faces.add(front)
    assert faces == {0, 1, 2, 3}


def test_objects_are_seen_and_reached_from_free_floor_one_can_walk_to(rooms):
    for room in rooms:
        assert len(room.objects) >= MIN_OBJECTS
        for thing in room.objects:
            low, high = room.boxes[thing.box]
            np.testing.assert_allclose((low + high) / 2, thing.centre, atol=1e-5)
            assert np.linalg.norm(thing.centre[:2] - thing.stand) < REACH
            assert room.is_free(thing.stand) and room.in_free_space(thing.stand)
            assert room.sight_is_free(np.append(thing.stand, 1.5), thing.centre, thing.box)
            ahead = thing.stand + 0.1 * np.array([np.cos(thing.facing), np.sin(thing.facing)])
            assert np.linalg.norm(thing.centre[:2] - ahead) < np.linalg.norm(thing.centre[:2] - thing.stand)


def test_the_free_floor_is_one_piece_and_large_enough(rooms):
    for room in rooms:
        mask = room.free_mask
        assert mask.sum() * CELL**2 >= 3.0
        filled, frontier = np.zeros_like(mask), [tuple(np.argwhere(mask)[0])]
        while frontier:
            row, column = frontier.pop()
            if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column] and not filled[row, column]:
                filled[row, column] = True
                frontier += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        np.testing.assert_array_equal(filled, mask)


def test_free_points_keep_a_body_clear_of_furniture(rooms):
    rng = np.random.default_rng(0)
    for room in rooms:
        for _ in range(20):
            xy = room.random_free_point(rng)
            assert room.is_free(xy)
            standing = (room.boxes[:, 0, 2] < 1.9) & (room.boxes[:, 1, 2] > 0.05)
            standing[[thing.box for thing in room.objects]] = False
            nearest = np.clip(xy, room.boxes[standing, 0, :2], room.boxes[standing, 1, :2])
            assert np.linalg.norm(nearest - xy, axis=1).min() >= WALK_RADIUS - 1e-5


def test_a_walk_through_furniture_is_refused(rooms):
    for room in rooms:
        centre = room.footprints[0].mean(0)
        free = room.random_free_point(np.random.default_rng(1))
        assert not room.segment_is_free(free, centre)
        assert room.segment_is_free(free, free)


def test_colours_do_not_follow_the_class():
    """Mean palettes of two classes differ no more than those of two halves of one class would."""
    mean = {}
    for place in ("kitchen", "gym"):
        rooms = [make_room(np.random.default_rng([11, k]), place) for k in range(12)]
        mean[place] = np.mean([room.tints.mean(0) for room in rooms], 0)
    assert np.abs(mean["kitchen"] - mean["gym"]).max() < 0.12
