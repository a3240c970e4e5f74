"""Whether the columns of a take can be read, lie inside the take and hold values that such a column can have."""

import tarfile
from pathlib import Path

import numpy as np

from internlm.data.store import Column, PoseTrack, StoredRows, StoreError, Take, TakeInfo
from internlm.data.store.columns import kind_of, valid_share

DEPTH_MM = (100, 30_000)  # the median of a take: from a hand before the eyes to the end of a hall
WORLD = 1000.0  # metres from the origin
_SLACK = 0.1  # seconds that a column may go on after images and poses


def column_findings(
    take: Take, name: str, images: np.ndarray, poses: PoseTrack | None, decode_every: int
) -> tuple[list[str], list[str]]:
    """(faults, odd) of one column in words; ``images``: frame numbers that have an image. Never raises for what is in files."""
    faults, odd = [], []
    try:
        column = take.column(name)
        ends = [numbers for numbers in (images, *((poses.frames, poses.camera_frames) if poses else ())) if len(numbers)]
        if ends and len(column.frames) and column.frames[-1] > (last := _end(ends, take.info.frame_rate)):
            faults.append(f"{name}: goes on to frame {column.frames[-1]}, the take ends at frame {last}")
        if isinstance(column, StoredRows):
            if len(images) and (alone := np.setdiff1d(column.frames, images)).size:
                odd.append(f"{name}: frame {alone[0]} has no image{more(len(alone))}")
            _check_rows(take, name, column, decode_every, faults, odd)
        elif isinstance(column, Column):
            odd.extend(f"{name}: {words}" for words in _odd_values(take.info, name, column))
    except (StoreError, OSError) as error:
        faults.append(str(error))
    return faults, odd


def describe_column(take: Take, name: str) -> str:
    """One line: rows, frame numbers, share of valid values, arrays with their units. StoreError when it cannot be read."""
    column, kind = take.column(name), kind_of(name)
    frames = f", frames {column.frames[0]} to {column.frames[-1]}" if len(column.frames) else ""
    arrays = [key for key in kind.arrays if not isinstance(column, Column) or key in column.arrays]
    told = [f"{key} [{kind.arrays[key].unit}]" for key in arrays]
    share = valid_share(kind, column) if isinstance(column, Column) else None
    about = column.about.get("kind") if isinstance(column, Column | StoredRows) else None
    facts = ([] if share is None else [f"{share:.0%} valid"]) + ([about] if isinstance(about, str) else [])
    return "; ".join([f"{len(column.frames)} rows{frames}", *facts, *told])


def tar_faults(folder: Path, stem: str) -> list[str]:
    """Whether the index points at the members of those names; every reader that is not ours goes by the names."""
    if not (folder / f"{stem}.idx.npy").is_file():
        return []
    faults, index = [], Path(f"{stem}.idx.npy").name
    with open(folder / f"{stem}.tar", "rb") as tar:
        for number, offset, length in np.load(folder / f"{stem}.idx.npy").tolist():
            tar.seek(max(0, offset - tarfile.BLOCKSIZE))
            try:
                member = tarfile.TarInfo.frombuf(tar.read(tarfile.BLOCKSIZE), "ascii", "replace")
            except tarfile.TarError as error:
                faults.append(f"frame {number}: no tar member where {index} points: {error}")
                continue
            if member.size != length or Path(member.name).stem != f"frame_{number:07d}":
                faults.append(f"frame {number}: {index} points at {member.name!r} of {member.size} bytes")
    return faults


def chosen(numbers: np.ndarray, every: int) -> list[int]:
    """Every so many of the numbers and the last one; none for 0."""
    return np.union1d(numbers[::every], numbers[-1:]).tolist() if every > 0 else []


def _end(ends: list[np.ndarray], rate: float) -> int:
    """The last frame number that a column may have: images may exist for every k-th number only."""
    steps = [int(np.diff(numbers).min()) - 1 for numbers in ends if len(numbers) > 1]
    return max(int(numbers[-1]) for numbers in ends) + max(0, round(_SLACK * rate), *steps)


def _check_rows(take: Take, name: str, column: StoredRows, decode_every: int, faults: list[str], odd: list[str]) -> None:
    camera, size, depths = take.info.camera, None, []
    faults.extend(f"{name}: {fault}" for fault in tar_faults(take.path, name))
    for number in chosen(column.frames, decode_every):
        try:
            image = column.read(number)
        except StoreError as error:
            faults.append(str(error))
            continue
        size = size or image.shape
        if image.shape != size:
            faults.append(f"{name}: frame {number} is {list(image.shape)}, the first is {list(size)}")
        if name == "depth":
            depths.append(np.median(image[image > 0]) if (image > 0).any() else 0)
    if camera and size and name in ("depth", "ids") and size != (camera.height, camera.width):
        odd.append(f"{name}: is {size[1]}x{size[0]}, the camera says {camera.width}x{camera.height}")
    known = [depth for depth in depths if depth]
    if depths and not known:
        odd.append("depth: no pixel has a depth")
    elif known and not DEPTH_MM[0] <= (usual := float(np.median(known))) <= DEPTH_MM[1]:
        odd.append(f"depth: is {usual:.0f} mm (median); is the unit the millimetre?")


def _odd_values(info: TakeInfo, name: str, column: Column) -> list[str]:
    arrays, odd = column.arrays, []
    if valid_share(kind_of(name), column) == 0:
        odd.append("no value is valid")
    if name == "gaze" and info.camera is not None:
        inside = (arrays["uv"] >= -0.5) & (arrays["uv"] < np.array([info.camera.width, info.camera.height]) - 0.5)
        if (stray := arrays["valid"] & ~inside.all(-1)).any():
            odd.append(f"valid, but outside the image at frame {column.frames[stray][0]}{more(int(stray.sum()))}")
    for key, array in (("target", arrays.get("target")), ("centre", arrays.get("centre"))):
        if array is not None and np.abs(array).max() > WORLD:
            odd.append(f"{key} is {np.abs(array).max():.3g} m from the origin; is the unit the metre?")
    if name == "actions":
        known = arrays["action"][arrays["action_valid"]]
        for word, beyond in (("low", np.less), ("high", np.greater)):
            limits = column.about.get(word)
            if limits is not None and beyond(known, np.asarray(limits, np.float32)).any():
                odd.append(f"an action is beyond its {word} {limits}")
    return odd


def more(count: int) -> str:
    """How a finding that is told once says that there are others."""
    return f" (and {count - 1} times more)" if count > 1 else ""
