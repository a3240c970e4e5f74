"""JSON files of recordings, read without trust: whatever is wrong becomes a RecordingError that names the file."""

import json
from pathlib import Path
from typing import Any, NoReturn

from dataset_preprocess.errors import RecordingError

MAX_BYTES = 1 << 30  # the largest files of Ego-Exo4D (automatic poses of a long take) have some 100 MB


def read_json(path: Path, kind: type = object, *, max_bytes: int = MAX_BYTES) -> Any:
    """The content of a file, of type ``kind`` (dict, list); NaN and infinity are refused, they are no JSON.

    Raises RecordingError when the file is missing, larger than ``max_bytes``, not JSON, nested too deeply or another type.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise RecordingError(f"{path}: has {size:,} bytes, more than the {max_bytes:,} that such a file can have")
        text = path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_json(text, kind, str(path))


def parse_json(text: str | bytes, kind: type, name: str) -> Any:
    """The content of a JSON text; ``name`` is what messages call it."""
    try:
        content = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise RecordingError(f"{name}: is nested too deeply to be read") from None
    except ValueError as error:  # bad syntax, bad UTF-8, an integer of thousands of digits
        raise RecordingError(f"{name}: is not valid JSON ({error}); a download that broke off? fetch it again") from None
    if not isinstance(content, kind):
        raise RecordingError(f"{name}: holds a JSON {type(content).__name__}, expected {kind.__name__}")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}")
