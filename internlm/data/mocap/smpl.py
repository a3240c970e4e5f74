"""Motion of the SMPL family of body models (AMASS, EE4D-Motion and the like) as COCO joints; numpy only.

A file holds either joint positions in the body model's order (``joints`` [F, J, 3]; no model file is needed) or pose
parameters, from which positions follow by forward kinematics through the body model's own file (.npz, to be had from its
makers under their licence; none is included here). Kinematics and the few skin points of the face follow the SMPL paper
(Loper et al. 2015, equations 2 to 10).

Joint map. Shoulders 16, 17, elbows 18, 19, wrists 20, 21, hips 1, 2, knees 4, 5 and ankles 7, 8, left first as in COCO.
The face is picked vertices, in the order nose, RIGHT eye, LEFT eye, RIGHT ear, LEFT ear: COCO has left first.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from internlm.data.mocap.archive import Archive
from internlm.data.mocap.motion import MocapError, Motion, build_motion, resample
from internlm.data.mocap.posture import NOTHING_STATED, WORLD_FROM_FILE, Stated, check_leg, positions_up
from internlm.data.mocap.skeleton import orthonormal

# COCO joint number -> joint of SMPL, SMPL-H and SMPL-X alike.
BODY = {5: 16, 6: 17, 7: 18, 8: 19, 9: 20, 10: 21, 11: 1, 12: 2, 13: 4, 14: 5, 15: 7, 16: 8}
NECK, HEAD = 12, 15
# Where the face stands in the order of joints that the body models' reference code puts out, by joint count.
FACE_START = {45: 24, 73: 52, 127: 55, 144: 55}
COCO_FACE = (0, 2, 1, 4, 3)  # face order of the models (nose, right eye, left eye, right ear, left ear) -> COCO's
# Vertices of that face, by the number of vertices of the model.
FACE_VERTICES = {6890: (332, 6260, 2800, 4071, 583), 10475: (9120, 9929, 9448, 616, 6)}
MODEL_JOINTS = {24: "SMPL", 52: "SMPL-H", 55: "SMPL-X"}

ROOT, BODY_POSE = ("root_orient", "global_orient"), ("pose_body", "body_pose")
TRANSLATION = ("trans", "transl")
RATE_KEYS = ("mocap_framerate", "mocap_frame_rate", "fps")


@dataclass(frozen=True)
class BodyModel:
    """What forward kinematics needs of a model: J joints, the five face vertices, S shape directions."""

    joints: np.ndarray  # [J, 3] rest joints of the mean shape
    joint_shapes: np.ndarray  # [J, 3, S]
    face: np.ndarray  # [5, 3] rest vertices of the mean shape
    face_shapes: np.ndarray  # [5, 3, S]
    face_poses: np.ndarray  # [5, 3, 9 (J - 1)] pose-dependent offsets
    face_weights: np.ndarray  # [5, J] skinning
    parents: np.ndarray  # int [J], -1 for the root


def is_body_model_motion(archive: Archive) -> bool:
    """Whether an npz holds body-model parameters or joints without names, rather than named positions."""
    if "joint_names" in archive.keys:
        return False
    return archive.first("poses", *ROOT) is not None or "joints" in archive.keys


def read_smpl(archive: Archive, body_model: str | os.PathLike | None = None, stated: Stated = NOTHING_STATED) -> Motion:
    """One motion. ``up`` in the file is "z" (AMASS, the default), "y" or another axis. Raises MocapError."""
    path = archive.path
    if not stated.rate and archive.first(*RATE_KEYS) is None:
        raise MocapError(f"{path}: lacks {' or '.join(RATE_KEYS)}; state the rate with --rate")
    rate = stated.rate or archive.rate(*RATE_KEYS)
    up = archive.up(stated)
    if body_model is not None and archive.first("poses", *ROOT) is not None:
        poses, translation, betas = read_parameters(archive)
        joints, rotations, face = forward_kinematics(load_body_model(Path(body_model)), poses, translation, betas)
        head_axes = rotations[:, HEAD]
    elif "joints" in archive.keys:
        joints, face = _stored_joints(archive, stated)
        head_axes = None
    else:
        raise MocapError(
            f"{path}: holds body-model parameters; positions follow from them only through the model's own file: "
            "give one with --body-model (SMPL-X, SMPL-H or SMPL as .npz, from the makers' sites)"
        )
    points = {coco: joints[:, source] for coco, source in BODY.items()}
    check_leg(points, archive.error)
    world = WORLD_FROM_FILE[up or positions_up(points, "z", archive.error)]
    if head_axes is not None:  # the models' rest pose faces +z with y up and left +x
        head_axes = world @ head_axes[..., [2, 0, 1]]
    joints, face = joints @ world.T, None if face is None else face @ world.T
    joints, face = resample(joints, rate), None if face is None else resample(face, rate)
    if head_axes is not None:
        head_axes = orthonormal(resample(head_axes, rate))
    body = {coco: joints[:, source] for coco, source in BODY.items()}
    if head_axes is None and face is not None:
        head_axes = head_axes_from_face(face)
    motion = build_motion(path.stem, body, joints[:, HEAD], joints[:, NECK], head_axes, None, face)
    return replace(motion, source_rate=rate)


def read_parameters(archive: Archive) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axis-angle poses [F, >= 22, 3] in model order, translation [F, 3] metres, shape [S]."""
    path = archive.path
    if "poses" in archive.keys:
        poses = archive.numbers("poses")
    else:
        parts = [archive.numbers(*ROOT), archive.numbers(*BODY_POSE)]
        if any(part.ndim < 2 or len(part) != len(parts[0]) for part in parts):
            raise MocapError(f"{path}: root orientation {parts[0].shape} and body pose {parts[1].shape} do not fit together")
        poses = np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
    poses = poses.reshape(len(poses), -1) if poses.ndim > 1 and len(poses) else poses
    if poses.ndim != 2 or poses.shape[1] % 3 or poses.shape[1] < 66:
        raise MocapError(f"{path}: poses are {list(poses.shape)}, expected [frames, 3 x joints] axis-angle of 22 joints or more")
    if not len(poses):
        raise MocapError(f"{path}: has no frames")
    if np.linalg.norm(poses.reshape(len(poses), -1, 3), axis=-1).max() > 4 * np.pi:
        raise MocapError(f"{path}: poses turn by more than two full circles; axis-angle is in radians: are these degrees?")
    translation = archive.numbers(*TRANSLATION)
    if translation.shape != (len(poses), 3):
        raise MocapError(f"{path}: translation is {list(translation.shape)}, expected {[len(poses), 3]}")
    betas = archive.numbers("betas") if "betas" in archive.keys else np.zeros(0)
    if betas.ndim > 1:
        if np.ptp(betas, axis=0).max(initial=0) > 1e-6:
            raise MocapError(f"{path}: betas change from frame to frame; one person has one shape")
        betas = betas[0]
    return poses.reshape(len(poses), -1, 3), translation, betas.reshape(-1)


def load_body_model(path: Path) -> BodyModel:
    """The parts of a model file that are used. Only .npz is read: .pkl files run code when they are opened."""
    if path.suffix.lower() != ".npz":
        raise MocapError(
            f"{path}: only .npz body models are read, since opening a pickle runs whatever code is in it; "
            "SMPL-X and SMPL-H come as .npz, a SMPL .pkl can be saved again with numpy.savez in an environment of your trust"
        )
    if not path.is_file():
        raise MocapError(f"{path}: no such body model")
    archive = Archive(path)
    vertices, shapes = archive.numbers("v_template"), archive.numbers("shapedirs")
    regressor, weights = archive.numbers("J_regressor"), archive.numbers("weights")
    tree, offsets = archive.numbers("kintree_table"), archive.numbers("posedirs")
    count, joints = len(vertices), len(regressor)
    if count not in FACE_VERTICES or joints not in MODEL_JOINTS:
        raise MocapError(
            f"{path}: {count} vertices and {joints} joints are no {', '.join(MODEL_JOINTS.values())} body "
            f"({' or '.join(map(str, FACE_VERTICES))} vertices, {', '.join(map(str, MODEL_JOINTS))} joints)"
        )
    expected = {
        "v_template": (vertices, (count, 3)),
        "shapedirs": (shapes, (count, 3, shapes.shape[-1] if shapes.ndim else 0)),
        "J_regressor": (regressor, (joints, count)),
        "weights": (weights, (count, joints)),
        "kintree_table": (tree, (2, joints)),
        "posedirs": (offsets, (count, 3, 9 * (joints - 1))),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise MocapError(f"{path}: {name} is {list(array.shape)}, expected {list(shape)}")
    parents = np.concatenate([[-1], tree[0, 1:].astype(int)])
    if (parents[1:] < 0).any() or (parents[1:] >= np.arange(1, joints)).any():
        raise MocapError(f"{path}: kintree_table does not list parents before children")
    face = list(FACE_VERTICES[count])
    return BodyModel(
        joints=regressor @ vertices,
        joint_shapes=np.einsum("jv,vcs->jcs", regressor, shapes),
        face=vertices[face],
        face_shapes=shapes[face],
        face_poses=offsets[face],
        face_weights=weights[face],
        parents=parents,
    )


def forward_kinematics(
    model: BodyModel, poses: np.ndarray, translation: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints [F, J, 3], their rotations [F, J, 3, 3] and the face [F, 5, 3] in COCO's order, in the file's world.

    poses [F, K, 3] axis-angle; joints of the model beyond K stay at rest, further poses than the model has are an error
    only when they are body joints. Shape coefficients beyond the model's are refused.
    """
    count = len(model.joints)
    if len(betas) > model.joint_shapes.shape[-1]:
        raise MocapError(f"{len(betas)} betas, but the body model has {model.joint_shapes.shape[-1]} shape directions")
    given = poses[:, :count]
    turns = np.broadcast_to(np.eye(3), (len(poses), count, 3, 3)).copy()
    turns[:, : given.shape[1]] = rotation_matrices(given)
    rest = model.joints + model.joint_shapes[..., : len(betas)] @ betas
    rotations, joints = np.empty_like(turns), np.empty((len(poses), count, 3))
    for joint, parent in enumerate(model.parents.tolist()):
        if parent < 0:
            rotations[:, joint], joints[:, joint] = turns[:, joint], rest[joint]
        else:
            rotations[:, joint] = rotations[:, parent] @ turns[:, joint]
            joints[:, joint] = joints[:, parent] + rotations[:, parent] @ (rest[joint] - rest[parent])
    feature = (turns[:, 1:] - np.eye(3)).reshape(len(poses), -1)
    skin = model.face + model.face_shapes[..., : len(betas)] @ betas + np.einsum("vcp,fp->fvc", model.face_poses, feature)
    # Skinning: each vertex moves with the weighted sum of the joints' rigid motions from the rest pose.
    shift = joints - np.einsum("fjab,jb->fja", rotations, rest)
    blended = np.einsum("vj,fjab->fvab", model.face_weights, rotations)
    face = np.einsum("fvab,fvb->fva", blended, skin) + np.einsum("vj,fja->fva", model.face_weights, shift)
    return joints + translation[:, None], rotations, face[:, COCO_FACE] + translation[:, None]


def rotation_matrices(axis_angle: np.ndarray) -> np.ndarray:
    """[..., 3] rotation vectors in radians to [..., 3, 3] (Rodrigues' formula)."""
    angle = np.linalg.norm(axis_angle, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(axis_angle / np.maximum(angle[..., 0], 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def head_axes_from_face(face: np.ndarray) -> np.ndarray:
    """Head axes [F, 3, 3] (forward, left, up) from COCO's five face points: ears give left, eyes the forward direction."""
    left = face[:, 3] - face[:, 4]
    forward = face[:, 1:3].mean(1) - face[:, 3:5].mean(1)
    up = np.cross(forward, left)
    forward = np.cross(left, up)
    axes = np.stack([forward, left, up], -1)
    return axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-9)


def _stored_joints(archive: Archive, stated: Stated) -> tuple[np.ndarray, np.ndarray | None]:
    unit = stated.unit or (float(archive.numbers("unit_m").reshape(-1)[0]) if "unit_m" in archive.keys else 1.0)
    joints = archive.numbers("joints") * unit
    if joints.ndim != 3 or joints.shape[1] < 22 or joints.shape[2] != 3 or not len(joints):
        raise MocapError(f"{archive.path}: joints are {list(joints.shape)}, expected [frames, 22 or more, 3] in SMPL's order")
    start = FACE_START.get(joints.shape[1])
    face = None if start is None else joints[:, start : start + 5][:, COCO_FACE]
    return joints, face
