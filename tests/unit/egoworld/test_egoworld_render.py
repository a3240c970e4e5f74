import numpy as np
import pytest
from egoworld_reference import capsule_gap, look, naive_depth, world_rays

from internlm.data.camera import project
from internlm.data.store import Camera
from internlm.egoworld.camera import default_camera
from internlm.egoworld.render import Renderer
from internlm.egoworld.rooms import PLACES, make_room
from internlm.egoworld.textures import LEVELS, PATTERNS, SIZE, TEXELS, atlas, bake


def _views(room, count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield look(room.random_free_point(rng), rng.uniform(1.2, 1.8), rng.uniform(0, 6.28), rng.normal(-0.3, 0.25))


@pytest.mark.parametrize("kind", ["pinhole", "fisheye624"])
@pytest.mark.parametrize("place", PLACES)
def test_depth_equals_the_box_by_box_reference(place, kind):
    room = make_room(np.random.default_rng(8), place)
    camera = default_camera(kind, 52)  # not a multiple of the tile
    renderer = Renderer(room, camera)
    for pose in _views(room, 3):
        _, depth = renderer.render(pose)
        expected, _ = naive_depth(room, camera, pose)
        # rays that graze an edge may fall on either side of it in float32
        wrong = np.abs(depth - expected) > 1e-3 * np.maximum(expected, 1)
        assert wrong.mean() < 2e-3


def test_the_tile_size_changes_nothing():
    room = make_room(np.random.default_rng(2), "office")
    camera = Camera("pinhole", 70, 46, (30.0, 31.0, 34.0, 22.0))
    pose = next(_views(room, 1))
    frames = [Renderer(room, camera, tile=tile).render(pose) for tile in (8, 12, 70)]
    for rgb, depth in frames[1:]:
        assert rgb.shape == (46, 70, 3) and depth.shape == (46, 70)
        assert (rgb != frames[0][0]).any(-1).mean() < 2e-3
        assert (np.abs(depth - frames[0][1]) > 1e-4).mean() < 2e-3


def test_capsules_are_painted_where_the_ray_first_meets_them():
    room = make_room(np.random.default_rng(4), "gym")
    camera = default_camera("pinhole", 64)
    pose = next(_views(room, 1))
    arms = [([-0.2, 0.3, 0.1], [-0.1, 0.15, 0.5], 0.05), ([0.25, 0.3, 0.2], [0.05, 0.1, 0.45], 0.04)]
    local = [*arms, ([0, 0.1, 0.4], [0, 0.1, 0.4], 0.06)]
    rows = [[*(pose[:3, :3] @ a + pose[:3, 3]), *(pose[:3, :3] @ b + pose[:3, 3]), r, 0] for a, b, r in local]
    capsules = np.array(rows)
    capsules[2, 3:6] += 1e-6  # a ball
    renderer = Renderer(room, camera)
    _, empty = renderer.render(pose)
    rgb, depth = renderer.render(pose, capsules)
    changed = depth < empty - 1e-4
    assert 0.05 < changed.mean() < 0.7
    directions, _ = world_rays(camera, pose)
    gap = np.min([capsule_gap(pose[:3, 3] + directions * depth[..., None], capsule) for capsule in capsules], 0)
    assert np.abs(gap[changed]).max() < 2e-3  # on the surface
    # and nothing nearer was overlooked: marching along every ray meets no capsule before that depth
    reach = np.linspace(0.02, 1, 60)[:, None, None]
    before = pose[:3, 3] + directions[None] * (reach * (depth - 0.004))[..., None]
    assert np.min([capsule_gap(before, capsule).min() for capsule in capsules]) > -1e-3
    assert not np.array_equal(rgb, renderer.render(pose)[0])


def test_a_moved_object_is_drawn_at_its_new_place_only():
    room = make_room(np.random.default_rng(9), "kitchen")
    camera = default_camera("pinhole", 96)
    thing = room.objects[0]
    pose = look(thing.stand, 1.55, thing.facing, -0.5)
    renderer = Renderer(room, camera)
    still = renderer.render(pose)
    held = pose[:3, 3] + pose[:3, 2] * 0.45
    depth = renderer.render(pose, moved={0: held})[1]
    uv, seen = project(camera, np.array([0, 0, 0.45]))
    column, row = np.round(uv).astype(int)
    assert seen and depth[row, column] < 0.45 and depth[row, column] < still[1][row, column]
    again = renderer.render(pose)
    np.testing.assert_array_equal(again[0], still[0])
    np.testing.assert_array_equal(renderer.render(pose, moved={0: thing.centre})[1], still[1])


def test_frames_are_deterministic():
    room = make_room(np.random.default_rng(1), "library")
    camera = default_camera("pinhole", 48)
    pose = next(_views(room, 1))
    plain = Renderer(room, camera).render(pose)[0]
    np.testing.assert_array_equal(plain, Renderer(room, camera).render(pose)[0])


def test_the_lens_edge_of_a_fisheye_is_dark():
    room = make_room(np.random.default_rng(1), "bedroom")
    rgb, depth = Renderer(room, default_camera("fisheye624", 64)).render(next(_views(room, 1)))
    assert (rgb[0, 0] == 0).all() and depth[0, 0] == 0
    assert (depth[32, 4:60] > 0).all() and rgb[16:48, 16:48].std() > 10


def test_a_camera_that_looks_backwards_is_refused():
    room = make_room(np.random.default_rng(1), "bedroom")
    camera = Camera("pinhole", 16, 16, (0.05, 0.05, 7.5, 7.5))
    with pytest.raises(ValueError, match="178 degrees"):
        Renderer(room, camera)


def test_patterns_have_contrast_and_their_mip_levels_keep_the_mean():
    light, slot = atlas()
    assert light.shape == (len(PATTERNS), SIZE, SIZE) and slot.max() <= 3 and 0 < light.min() and light.max() <= 1
    colours = np.random.default_rng(0).uniform(0.1, 1, (4, 3)).astype(np.float32)
    for texture in range(len(PATTERNS)):
        texels = bake(texture, colours)
        assert texels.shape == (3, TEXELS)
        smallest = texels[:, -((SIZE >> (LEVELS - 1)) ** 2) :]
        np.testing.assert_allclose(smallest.mean(1), texels[:, : SIZE * SIZE].mean(1), atol=1e-4)
