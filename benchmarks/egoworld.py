"""Frames per second of EgoWorld's renderer on one core, own arms included, beside the box-by-box reference renderer.

OMP_NUM_THREADS=1 python benchmarks/egoworld.py [--place PLACE] [--camera pinhole|fisheye624]
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "samples")]

from egoworld_reference import look, naive_depth  # noqa: E402

from internlm.egoworld.camera import default_camera  # noqa: E402
from internlm.egoworld.render import Renderer  # noqa: E402
from internlm.egoworld.rooms import PLACES, make_room  # noqa: E402


def _arms(pose: np.ndarray) -> np.ndarray:
    rows = []
    for side in (-1, 1):
        chain = [(side * 0.2, 0.25, -0.05), (side * 0.28, 0.45, 0.15), (side * 0.12, 0.3, 0.4), (side * 0.1, 0.27, 0.48)]
        points = [pose[:3, :3] @ point + pose[:3, 3] for point in chain]
        rows += [[*points[i], *points[i + 1], 0.045, i // 2] for i in range(3)]
    return np.array(rows)


def _best(run, repeats: int) -> float:
    """Shortest of several runs in seconds: the machine may be shared."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=PLACES)
    parser.add_argument("--camera", choices=("pinhole", "fisheye624"), default="pinhole")
    parser.add_argument("--views", type=int, default=30)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    places = [args.place] if args.place else PLACES
    rooms = [make_room(np.random.default_rng(i), place) for i, place in enumerate(places)]
    print(f"rooms {len(rooms)}, solids {np.mean([len(room.boxes) for room in rooms]):.0f} on average, {args.camera}")
    for size in (64, 96, 224):
        camera, rng = default_camera(args.camera, size), np.random.default_rng(0)
        fast = slow = 0.0
        for room in rooms:
            renderer = Renderer(room, camera)
            poses = [look(room.random_free_point(rng), 1.6, rng.uniform(0, 6.28)) for _ in range(args.views)]
            bodies = [_arms(pose) for pose in poses]
            frames = list(zip(poses, bodies, strict=True))
            fast += _best(lambda r=renderer, f=frames: [r.render(*frame) for frame in f], 5) / args.views
            slow += _best(lambda r=room, p=poses, c=camera: naive_depth(r, c, p[0]), 2)
        rate, reference = len(rooms) / fast, len(rooms) / slow
        print(f"{size:4d} px  {rate:7.1f} frames/s, {rate / reference:.0f} times the reference's {reference:.1f} (depth only)")


if __name__ == "__main__":
    main()
