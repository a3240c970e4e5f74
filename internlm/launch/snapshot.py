"""What explains a run later: the code it ran and the config it resolved to, written into its run folder before it starts."""

import time
from collections.abc import Sequence
from pathlib import Path

from internlm.config.load import RESOLVED_NAME, save_config
from internlm.config.places import LAUNCH as FOLDER
from internlm.config.schema import Config
from internlm.core.code_version import code_version, write_code


def write_snapshot(config: Config, run_dir: Path, command: Sequence[str]) -> Path:
    """Write ``launch/config.yaml``, ``launch/code.json`` and, where the checkout is not clean, ``launch/code.patch``.

    Returns the path of the config, which alone reproduces the run. Files appear whole or not at all.
    """
    folder = run_dir / FOLDER
    code, patch = code_version()
    record = {"command": list(command), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **code}
    write_code(folder, record, patch)
    save_config(config.model_copy(update={"run_dir": str(run_dir)}), folder / RESOLVED_NAME)
    return folder / RESOLVED_NAME
