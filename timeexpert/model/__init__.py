"""The TimeExpert model."""

from .config import TimeExpertConfig
from .generation import EventGrammarProcessor
from .protocol import ModelOutput, VideoLLM
from .timeexpert import TimeExpert

__all__ = ["EventGrammarProcessor", "ModelOutput", "TimeExpert", "TimeExpertConfig", "VideoLLM"]
