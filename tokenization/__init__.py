"""Numbers, events and text as tokens."""

if __name__ != "timeexpert.tokenization":
    raise ImportError("import timeexpert.tokenization, not tokenization")

from .events import Event, EventCodec, EventError, EventSequence, Problem
from .grammar import EventGrammar, GrammarLimits
from .interleave import interleave, snap_events
from .number_format import NumberFormat, NumberFormatError
from .text import load_text
from .vocabulary import IdSpace, NumericVocab, TokenType

__all__ = [
    "Event",
    "EventCodec",
    "EventError",
    "EventGrammar",
    "EventSequence",
    "GrammarLimits",
    "IdSpace",
    "NumberFormat",
    "NumberFormatError",
    "NumericVocab",
    "Problem",
    "TokenType",
    "interleave",
    "load_text",
    "snap_events",
]
