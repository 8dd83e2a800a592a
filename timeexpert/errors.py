"""The one base of errors that a user can mend: the command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message names the file, the field, the value, the rule and the way out."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `` Did you mean 'trace'?``, or nothing where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(name)[:200], list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
