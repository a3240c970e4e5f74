"""What is wrong with a recording, named. One class, so that a run over many takes can tell bad input from a bug."""

from internlm.core.errors import UserError


class RecordingError(UserError):
    """A recording, calibration or annotation cannot be used. The message names the file, what is wrong and the way out."""
