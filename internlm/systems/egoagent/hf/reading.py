"""An exported Hugging Face folder as a system again."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file

from internlm.checkpoint.manager import CheckpointError
from internlm.config.load import load_config

from ...resolve import RECORD, RUN_CONFIG, SHAPE, WEIGHTS
from ..config import EgoAgentConfig, ModelConfig
from ..system import EgoAgentSystem, build

log = logging.getLogger(__name__)


def read_folder(folder: Path, record: Mapping[str, Any]) -> tuple[EgoAgentSystem, int]:
    """The system of single images whose both branches are the folder's one network, and its step.

    Raises CheckpointError naming the file that is damaged.
    """
    try:
        shape = json.loads((folder / SHAPE).read_bytes())
        model = {name: shape[name] for name in ModelConfig.model_fields if name in shape}
        data = load_config(folder / RUN_CONFIG, quiet=True).data
        # Stage 1, whatever the run was: there is no pair of branches that could predict and be predicted.
        config = EgoAgentConfig.model_validate({"job_name": str(record["job"]), "model": model, "data": data.model_dump()})
        branch, step = str(record["network"]), int(record["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {RECORD}, {SHAPE} or {RUN_CONFIG} is missing or damaged: {error}") from error
    system = build(config)
    observer, predictor = system.agent.observer, system.agent.predictor
    try:
        tensors = {name.removeprefix("network."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
        own = {name: tensors[name] for name in observer.state_dict() if name in tensors}
        observer.load_state_dict(own)  # names what it lacks
        predictor.load_state_dict(own, strict=False)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} is missing, cut short or damaged: {error}") from error
    log.info("%s holds the %s alone; it stands for both branches", folder, branch)
    return system, step
