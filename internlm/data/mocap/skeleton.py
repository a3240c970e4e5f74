"""Rotations and text scanning shared by the skeleton formats."""

import codecs
import math
import re
from pathlib import Path

import numpy as np

from internlm.data.mocap.motion import MocapError


def euler(axes: str, degrees: np.ndarray) -> np.ndarray:
    """Rotations [F, 3, 3]: the product, left to right, of turns about ``axes`` ("zyx") by ``degrees`` [F, len(axes)]."""
    result = np.broadcast_to(np.eye(3), (len(degrees), 3, 3))
    for column, axis in enumerate(axes):
        angle = np.radians(degrees[:, column])
        about = "xyz".index(axis)
        one, other = (about + 1) % 3, (about + 2) % 3
        turn = np.zeros((len(degrees), 3, 3))
        turn[:, about, about] = 1
        turn[:, one, one] = turn[:, other, other] = np.cos(angle)
        turn[:, other, one] = np.sin(angle)
        turn[:, one, other] = -turn[:, other, one]
        result = result @ turn
    return result


def orthonormal(matrices: np.ndarray) -> np.ndarray:
    """The nearest rotations to [F, 3, 3]."""
    u, _, v = np.linalg.svd(matrices)
    u[:, :, -1] *= np.linalg.det(u @ v)[:, None]
    return u @ v


class Lines:
    """The non-empty lines of a text file as words, with their numbers, so that every complaint can name its line.

    split: a pattern at whose matches a line is taken apart into several; what the pattern's group catches is one of them.
    """

    def __init__(self, path: Path, comment: str | None = None, split: str | None = None):
        self.path = path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MocapError(f"{path}: cannot be read: {error}") from None
        # Editors on Windows begin text with a mark of its encoding.
        encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        text = data.decode(encoding, errors="replace")
        self.rows = [
            (number, words)
            for number, line in enumerate(re.split("\r\n|\r|\n", text), 1)
            for piece in (re.split(split, line) if split else (line,))
            if piece and (words := piece.split()) and not (comment and words[0].startswith(comment))
        ]
        self.place = 0

    @property
    def number(self) -> int:
        """Line number of the row read last (or the last line of the file)."""
        return self.rows[min(max(self.place - 1, 0), len(self.rows) - 1)][0] if self.rows else 1

    def error(self, message: str) -> MocapError:
        return MocapError(f"{self.path}, line {self.number}: {message}")

    def more(self) -> bool:
        return self.place < len(self.rows)

    def next(self, expected: str = "more lines") -> list[str]:
        if not self.more():
            self.place = len(self.rows)
            raise self.error(f"the file ends where {expected} should follow")
        self.place += 1
        return self.rows[self.place - 1][1]

    def push(self, words: list[str]) -> None:
        """What was left of a row becomes the next row."""
        if words:
            self.rows.insert(self.place, (self.number, words))

    @staticmethod
    def count(words: list[str]) -> int | None:
        """The whole number that a row of one word is; None when it is anything else."""
        if len(words) != 1 or not (words[0].isascii() and words[0].isdigit() and len(words[0]) < 10):
            return None
        return int(words[0])

    def numbers(self, words: list[str], count: int | None = None) -> list[float]:
        """Finite numbers of a row; MocapError when a word is no number or the count is wrong."""
        try:
            try:
                values = [float(word) for word in words]
            except ValueError:  # written where the comma is the decimal point
                values = [float(word if "." in word else word.replace(",", ".")) for word in words]
        except ValueError:
            raise self.error(f"expected numbers, found {' '.join(words)[:60]!r}") from None
        if not all(math.isfinite(value) for value in values):
            raise self.error("a number is not finite")
        if count is not None and len(values) != count:
            raise self.error(f"expected {count} numbers, found {len(values)}")
        return values
