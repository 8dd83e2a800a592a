"""One METEOR for all reference cases of a run."""

from __future__ import annotations

from functools import cache

from timeexpert.evaluation.meteor import Meteor, MeteorError
from timeexpert.evaluation.oracle import NotCovered


@cache
def _meteor() -> Meteor | str:
    try:
        return Meteor()
    except MeteorError as error:
        return str(error)


def shared_meteor() -> Meteor:
    """The METEOR of this run. Raises :class:`NotCovered` with what to install where it is missing."""
    meteor = _meteor()
    if isinstance(meteor, str):
        raise NotCovered(meteor)
    return meteor
