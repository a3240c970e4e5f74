"""What explains a run later: the code it ran and the config it resolved to, written into its run folder before it starts."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import internlm
from internlm.config.load import RESOLVED_NAME, save_config
from internlm.config.places import LAUNCH as FOLDER
from internlm.config.schema import Config

CODE_NAME = "code.json"
PATCH_NAME = "code.patch"


def write_snapshot(config: Config, run_dir: Path, command: Sequence[str]) -> Path:
    """Write ``launch/config.yaml``, ``launch/code.json`` and, where the checkout is not clean, ``launch/code.patch``.

    Returns the path of the config, which alone reproduces the run. Files appear whole or not at all.
    """
    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    code, patch = code_version()
    record = {"command": list(command), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **code}
    _replace(folder / CODE_NAME, lambda path: path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8"))
    if patch:
        _replace(folder / PATCH_NAME, lambda path: path.write_bytes(patch.encode("utf-8", "surrogateescape")))
    else:
        (folder / PATCH_NAME).unlink(missing_ok=True)
    save_config(config.model_copy(update={"run_dir": str(run_dir)}), folder / RESOLVED_NAME)
    return folder / RESOLVED_NAME


def code_version() -> tuple[dict[str, Any], str]:
    """Version of this package as (record, patch): the commit and what differs from it; an installed wheel has neither."""
    record: dict[str, Any] = {"version": internlm.__version__, "python": platform.python_version(), "host": platform.node()}
    commit, patch = _git("rev-parse", "HEAD"), ""
    if commit:
        patch = _git("diff", "HEAD") or ""
        record |= {"commit": commit.strip(), "clean": not patch}
    return record | {"executable": sys.executable}, patch


def _git(*words: str) -> str | None:
    """Output of git in the checkout that this package lies in; None where there is no git or no checkout."""
    root = Path(internlm.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # A patch holds the changed files' own bytes, whatever their encoding.
    return asked.stdout.decode("utf-8", "surrogateescape") if asked.returncode == 0 else None


def _replace(path: Path, write) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)
