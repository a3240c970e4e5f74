"""The error that an evaluation raises when what it was given cannot be measured."""

from internlm.core.errors import UserError


class EvalError(UserError, ValueError):
    """The features, clips or options do not allow the measurement; the message says why."""
