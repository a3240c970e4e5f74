"""Which code runs: the package's version, and the commit of the checkout that it is in."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import internlm
from internlm.core.files import write_text

CODE_NAME = "code.json"
PATCH_NAME = "code.patch"

# Where a caller's own repository is (a hook's, say): of no concern to this package's.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")


def code_version() -> tuple[dict[str, Any], str]:
    """Version of this package as (record, patch): the commit and what differs from it; an installed wheel has neither.

    ``clean``: nothing differs from the commit, and the package has no file that git does not know; such files are named.
    """
    record: dict[str, Any] = {"version": internlm.__version__, "python": platform.python_version(), "host": platform.node()}
    commit, patch = _git("rev-parse", "HEAD"), ""
    if commit:
        patch = _git("diff", "--no-color", "--no-ext-diff", "HEAD") or ""
        package = Path(internlm.__file__).parent.name
        unknown = (_git("ls-files", "-z", "--others", "--exclude-standard", "--", package) or "").split("\0")[:-1]
        record |= {"commit": commit.strip(), "clean": not (patch or unknown)} | ({"untracked": unknown} if unknown else {})
    return record | {"executable": sys.executable}, patch


def write_code(folder: Path, record: Mapping[str, Any], patch: str) -> None:
    """Write ``code.json`` and, where there is a patch, ``code.patch``. Each file appears whole or not at all."""
    write_text(folder / CODE_NAME, json.dumps(record, indent=2) + "\n")
    if patch:
        write_text(folder / PATCH_NAME, patch, errors="surrogateescape")
    else:
        (folder / PATCH_NAME).unlink(missing_ok=True)


def described(record: Mapping[str, Any] | None) -> str:
    """A record in a few words."""
    if not record:
        return "not recorded"
    if "commit" not in record:
        return f"version {record['version']}, no repository"
    return f"version {record['version']}, commit {record['commit']}{'' if record['clean'] else ', with changes'}"


def _git(*words: str) -> str | None:
    """Output of git in the checkout that this package lies in; None where there is no git or no checkout."""
    root = Path(internlm.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    try:
        asked = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False, timeout=60, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # A patch holds the changed files' own bytes, whatever their encoding.
    return asked.stdout.decode("utf-8", "surrogateescape") if asked.returncode == 0 else None
