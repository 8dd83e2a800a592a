"""The TimeExpert model."""

from transformers import AutoConfig, AutoModel

from .config import TimeExpertConfig
from .generation import EventGrammarProcessor
from .protocol import ModelOutput, VideoLLM
from .timeexpert import TimeExpert

# A model folder is then one that transformers knows: AutoModel reads it, AutoTokenizer has no complaints.
AutoConfig.register(TimeExpertConfig.model_type, TimeExpertConfig, exist_ok=True)
AutoModel.register(TimeExpertConfig, TimeExpert, exist_ok=True)

__all__ = ["EventGrammarProcessor", "ModelOutput", "TimeExpert", "TimeExpertConfig", "VideoLLM"]
