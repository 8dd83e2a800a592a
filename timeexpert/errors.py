"""The one base of errors that a user can mend: the command line prints them without a traceback."""


class UserError(ValueError):
    """Bad input. The message names the file, the field, the value, the rule and the way out."""
