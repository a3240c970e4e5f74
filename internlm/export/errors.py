"""The error of exports and imports."""

from internlm.core.errors import UserError


class ExportError(UserError):
    """Something cannot be exported or read from upstream's layout, or what was written does not give the network's outputs."""
