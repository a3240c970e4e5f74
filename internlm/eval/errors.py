"""The error that an evaluation raises when what it was given cannot be measured."""


class EvalError(ValueError):
    """The features, clips or options do not allow the measurement; the message says why."""
