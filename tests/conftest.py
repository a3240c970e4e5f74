"""Fixtures that more than one test file needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The modules that tests share, for child processes; pyproject.toml puts them on pytest's own path."""
    return ROOT / "tests" / "samples"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real sample recordings; a test that needs them is skipped where they are absent."""
    folder = Path(os.environ.get("EGOAGENT_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no sample data at {folder}; set EGOAGENT_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def run_command():
    """Run a command in a child process on one thread: ``run_command([...], cwd=...)`` -> CompletedProcess with text output."""

    def run(command: list, *, cwd: Path = ROOT, timeout: float = 120, **env: str) -> subprocess.CompletedProcess:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": path}
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, **single, **env},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
