"""The forms that a branch can be handed on in. Light: the command line reads it for its help."""

import importlib.util
from collections.abc import Sequence

from .errors import ExportError

# By format the packages that it needs.
FORMATS = {"hf": ("transformers",), "torch-export": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def require_packages(formats: Sequence[str]) -> None:
    """Raises ExportError for an unknown format, ModuleNotFoundError naming a package that is not installed."""
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
        for package in FORMATS[name]:
            if importlib.util.find_spec(package) is None:
                said = f"format {name} needs the package {package}: pip install 'egoagent[export]'"
                raise ModuleNotFoundError(said, name=package)
