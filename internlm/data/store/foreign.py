"""What operating systems, file servers and tools leave in any folder, and what therefore is neither ours nor a fault."""

import re

_NAMES = frozenset(
    name.lower()
    for name in (
        *("lost+found", "System Volume Information", "$RECYCLE.BIN", "RECYCLER", "Thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("Icon\r", "__MACOSX", "Network Trash Folder", "Temporary Items"),  # macOS
        *("@eaDir", "@Recycle", "@Recently-Snapshot", "@tmp", "#recycle", "#snapshot", "~snapshot"),  # network storage
        *("__pycache__", "CVS"),
    )
)
_PATTERN = re.compile(r"\..*|.*~|~\$.*|.*@Syno(EAStream|Resource)", re.DOTALL)


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a tool; hidden names count as such."""
    return name.lower() in _NAMES or _PATTERN.fullmatch(name) is not None
