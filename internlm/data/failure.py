"""The errors of data that cannot serve."""

from internlm.core.errors import UserError


class DataError(UserError):
    """The data cannot serve what is asked of it; the message says what was looked at and what to do."""


class BrokenFile(DataError):
    """One file cannot be read or decoded. ``resume_at`` is the index of the first sample that does not need it."""

    def __init__(self, name: str, reason: object, resume_at: int):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason, self.resume_at = name, str(reason), resume_at

    def __reduce__(self):
        return BrokenFile, (self.name, self.reason, self.resume_at)
