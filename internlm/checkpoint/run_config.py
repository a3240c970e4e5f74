"""The config of a checkpoint's run, as the working directory needs it."""

from copy import deepcopy
from typing import Any

from internlm.config.places import checkpoint_record, settle

from .index import Checkpoint


def settled_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config's nested values, their relative paths settled (``config.places``)."""
    values = deepcopy(checkpoint.meta["config"])
    settle(values, checkpoint_record(checkpoint.path, checkpoint.meta))
    return values
