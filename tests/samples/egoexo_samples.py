"""A download of Ego-Exo4D's body poses, written by hand."""

import json

import numpy as np


def body(frames, joint=lambda frame: (0.0, 0.0, 1.0), views=4):
    entry = lambda frame: dict(zip("xyz", joint(frame)), num_views_for_3d=views)  # noqa: E731
    return {str(frame): [{"annotation3D": {name: entry(frame) for name in ("nose", "left-wrist")}}] for frame in frames}


def extrinsics(frames, position=(0.0, 0.0, 1.0)):
    """Camera at ``position`` that looks along world x, lying on its side as the sensor does: its -x is up."""
    landscape_from_world = np.array([[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0]])
    landscape_from_world[1] = np.cross(landscape_from_world[2], landscape_from_world[0])
    shift = -landscape_from_world @ np.array(position)
    return {str(frame): np.column_stack([landscape_from_world, shift]).tolist() for frame in frames}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def download(root, uid="u1", name="t1", split="train", *, automatic=None, manual=None, cameras=None, listed=True, aria="aria01"):
    """One take of a download; None = no such file."""
    entry = {"take_name": name, "take_uid": uid, "capture": {"cameras": [{"cam_id": aria, "is_ego": True}]}}
    table = json.loads((root / "takes.json").read_text()) if (root / "takes.json").exists() else []
    write(root / "takes.json", [*table, entry] if listed else table)
    base = root / "annotations" / "ego_pose" / split
    for content, path in ((automatic, "body/automatic"), (manual, "body/annotation")):
        if content is not None:
            write(base / path / f"{uid}.json", content)
    if cameras is not None:
        camera = {"camera_intrinsics": [[150, 0, 255.5], [0, 150, 255.5], [0, 0, 1]], "camera_extrinsics": cameras}
        write(base / "camera_pose" / f"{uid}.json", {"metadata": {"take_name": name}, aria: camera, "cam01": {}})
