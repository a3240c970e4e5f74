"""The one error a wrong configuration raises, and the search for the key that was meant."""

import difflib
from collections.abc import Iterable

from internlm.core.errors import ConfigError

__all__ = ["ConfigError", "nearest_key"]


def nearest_key(wrong: str, valid: Iterable[str]) -> str | None:
    """The valid dotted key that ``wrong`` most likely stands for, or None.

    A key under another section (``lr`` for ``optim.lr``) wins over a merely similar spelling.
    """
    valid = list(valid)
    leaf = wrong.rpartition(".")[2]
    same_leaf = [key for key in valid if key.rpartition(".")[2] == leaf]
    if same_leaf:
        return max(same_leaf, key=lambda key: difflib.SequenceMatcher(None, wrong, key).ratio())
    section = wrong.rpartition(".")[0]
    siblings = {key.rpartition(".")[2]: key for key in valid if key.rpartition(".")[0] == section}
    close = difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.6)
    if close:
        return siblings[close[0]]
    close = difflib.get_close_matches(wrong, valid, n=1, cutoff=0.5)
    return close[0] if close else None
