"""Displays outside the run folder's own log: TensorBoard, Weights & Biases. What they lack or break ends no run."""

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from internlm.core.files import write_text

TENSORBOARD = "tensorboard"
WANDB_ID = "wandb_id"

log = logging.getLogger(__name__)


class Boards:
    """All boards of a run; one that fails is named once and left out from then on.

    A board has ``write(step, numbers)``, which shows the numbers of a step, and ``close()``, which sends what is under way.
    """

    def __init__(self, boards: list[Any]) -> None:
        self._boards = boards

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._each(lambda board: board.write(step, numbers))

    def close(self) -> None:
        self._each(lambda board: board.close())
        self._boards = []

    def _each(self, call) -> None:
        for board in list(self._boards):
            try:
                call(board)
            except Exception as error:  # of a library that only shows figures: metrics.jsonl has them
                log.warning("%s failed and is left out from now on: %s", type(board).__name__, error)
                self._boards.remove(board)


class TensorBoard:
    """Scalars in ``tensorboard/``; those after ``resume_step`` are replaced."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=resume_step + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run a run folder, continued when the run is; its own settings hold (WANDB_MODE=offline, WANDB_ENTITY, …)."""

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        path = folder / WANDB_ID
        if not path.exists():
            write_text(path, secrets.token_hex(4))
        self._run = wandb.init(
            project=project, name=name, id=path.read_text(), resume="allow", dir=str(folder), config=dict(config)
        )
        self._run.define_metric("*", step_metric="step")  # W&B's own step cannot go back to a checkpoint

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        self._run.finish()


def tensorboard(folder: Path, resume_step: int) -> list[TensorBoard]:
    """TensorBoard, or nothing and a warning where it is not installed."""
    try:
        return [TensorBoard(folder, resume_step)]
    except ImportError:
        log.warning("TensorBoard is not installed (pip install tensorboard); the figures are in metrics.jsonl all the same")
    except OSError as error:
        log.warning("TensorBoard's files cannot be written: %s", error)
    return []


def weights_and_biases(folder: Path, project: str, name: str, config: Mapping[str, Any]) -> list[WeightsAndBiases]:
    """Weights & Biases, or nothing and a warning where it is not installed or does not start."""
    try:
        return [WeightsAndBiases(folder, project, name, config)]
    except ImportError:
        log.warning("monitor.wandb needs Weights & Biases (pip install egoagent[wandb]); the run goes on without it")
    except Exception as error:  # no account, no network, a full disk: none of them is the run's
        log.warning("Weights & Biases does not start and is left out (WANDB_MODE=offline needs no account): %s", error)
    return []
