"""The ``egoagent`` command: what becomes of its errors and of its standard streams."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

from internlm import commands
from internlm.core.errors import UserError
from internlm.core.streams import keep_going

_OWN = ("internlm", "dataset_preprocess")
_FILES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_EXPECTED = (UserError, *_FILES, ModuleNotFoundError)

# A file system that is read-only or full, over its quota, and names that it cannot have.
_REFUSED = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, the command's own code, 2 for what the user can mend, 130 for Ctrl-C."""
    keep_going()
    words = list(sys.argv[1:] if argv is None else argv)
    name = f"egoagent {words[0]}" if words and words[0] in commands.COMMANDS else "egoagent"
    try:
        try:
            return commands.run(words)
        finally:
            sys.stdout.flush()  # what a full disk refuses is told here rather than by the interpreter
    except KeyboardInterrupt:
        print("egoagent: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _expected(error):
            raise
        if os.environ.get("EGOAGENT_TRACEBACK"):
            traceback.print_exc()
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _expected(error: Exception) -> bool:
    """What the user can mend: also missing files and missing optional packages, of which our own modules are none."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in _OWN:
        return False
    return isinstance(error, _EXPECTED) or (isinstance(error, OSError) and error.errno in _REFUSED)


if __name__ == "__main__":
    sys.exit(main())
