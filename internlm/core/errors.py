"""What the user can mend. Parts of the package define a class of their own where somebody tells its errors from others."""


class UserError(Exception):
    """Something asked for cannot be done; the message names the thing, the value and the way out. No defect of the program."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot run. The message names the file (or the command line), the key and the way out."""
