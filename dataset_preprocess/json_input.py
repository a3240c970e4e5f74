"""JSON files of recordings, read without trust: whatever is wrong becomes a RecordingError that names the file and the place."""

import json
import re
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from dataset_preprocess.errors import RecordingError

MAX_BYTES = 1 << 30  # the largest files of Ego-Exo4D (automatic poses of a long take) have some 100 MB
_HALF = re.compile(r"[.eE][-+]?|\\?u[0-9a-fA-F]{0,4}")  # of a number, of an escaped character
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_BROKE_OFF = "is not valid JSON: it ends in the middle of a value; a download that broke off? fetch it again"
_OTHERS = {
    "<": "is a web page or XML, not JSON; was a page of the server saved instead of the file?",
    "version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch it with git lfs pull",
}


def read_json(path: Path, kind: type = object, *, max_bytes: int = MAX_BYTES) -> Any:
    """The content of a file, of type ``kind`` (dict, list). Refused: NaN and infinity, which are no JSON, and a key given twice.

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
    """The content of a JSON text (UTF-8, with or without byte-order mark); ``name`` is what messages call it."""
    try:
        text = _decoded(text)
        reader = _Reader()
        content = json.loads(text, parse_constant=reader.constant, object_pairs_hook=reader.object)
    except RecursionError:
        raise RecordingError(f"{name}: is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        cut = error.end >= len(error.object) and error.reason == "unexpected end of data"
        place = f"byte {error.object[error.start]:#04x} at {error.start:,} is no {error.encoding} text"
        raise RecordingError(f"{name}: {_BROKE_OFF if cut else f'is not valid JSON: {place}'}") from None
    except json.JSONDecodeError as error:
        raise RecordingError(f"{name}: {_diagnosis(text, error)}") from None
    except ValueError as error:  # an integer of thousands of digits
        raise RecordingError(f"{name}: is not valid JSON ({error})") from None
    if reader.found_fault:
        place, fault = _first_fault(content)
        raise RecordingError(f"{name}: {place}{fault.what}")
    if not isinstance(content, kind):
        raise RecordingError(f"{name}: holds a JSON {type(content).__name__}, expected {kind.__name__}")
    return content


class _Fault:
    """Stands in the content where something is wrong."""

    def __init__(self, what: str):
        self.what = what


class _Reader:
    def __init__(self):
        self.found_fault = False

    def constant(self, word: str) -> _Fault:
        self.found_fault = True
        return _Fault(f"is the number {word}, which is not valid JSON; mend or remove the value")

    def object(self, pairs: list[tuple[str, Any]]) -> "dict[str, Any] | _Fault":
        content = dict(pairs)
        if len(content) == len(pairs):
            return content
        self.found_fault = True
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        return _Fault(f"gives {_named(twice)} twice; which one holds?")


def _first_fault(content: Any) -> tuple[str, _Fault]:
    """Where the first fault of a content is, in words, and the fault."""
    pending: list[tuple[tuple[str | int, ...], Any]] = [((), content)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, _Fault):
            return _place(path), value
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        pending.extend(reversed([((*path, key), entry) for key, entry in entries]))
    raise AssertionError("a fault was found while reading")


def _place(path: tuple[str | int, ...]) -> str:
    """ "frame 120: [0].annotation3D.nose.x " of ("120", 0, "annotation3D", "nose", "x"). A key of digits is a frame number."""
    frame = next((key for key in path if isinstance(key, str) and key.isdigit()), None)
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path if key is not frame).lstrip(".")
    return (f"frame {shown(frame)[1:-1]}: " if frame is not None else "") + (f"{dotted} " if dotted else "")


def _named(key: str) -> str:
    return f"frame {key}" if key.isdigit() else f"the key {shown(key)}"


def _decoded(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    return text.removeprefix("\ufeff")


def _diagnosis(text: str, error: json.JSONDecodeError) -> str:
    start, rest = text[:64].lstrip(), text[error.pos :].rstrip()
    if not start and not text.strip():
        return "is not valid JSON: it is empty; fetch it again"
    if not text.strip(" \t\r\n\0"):
        return f"is not valid JSON: it holds {len(text):,} zero bytes; fetch it again"
    for sign, what in _OTHERS.items():
        if start.startswith(sign):
            return what
    half = _HALF.fullmatch(rest) or any(word.startswith(rest) for word in _WORDS)
    if half or error.msg.startswith("Unterminated string"):
        return _BROKE_OFF
    if error.msg == "Extra data":
        return f"is not valid JSON: it holds more than one value, another begins at line {error.lineno}, column {error.colno}"
    return f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} ({shown(rest[:40])})"
