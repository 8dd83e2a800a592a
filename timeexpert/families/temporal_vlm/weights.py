"""Published weights in a new TemporalVLM: InstructBLIP's vision tower and Q-Former, LLaMA's language model."""

from __future__ import annotations

from timeexpert.families.published import Loaded, fill

from .model import TemporalVLM

TOWERS = ("vision_model.", "qformer.", "query_tokens")  # of InstructBLIP; its language model is another one
WORDS = "qformer.embeddings.word_embeddings.weight"


def load_published(model: TemporalVLM, instructblip: str | None, llama: str | None) -> Loaded:
    """Fill ``model`` from folders of safetensors, as :func:`fill`; ``None`` leaves its own values.

    The table of words of the Q-Former stays new where the time's sentence is written in another tokenizer than its own
    (``qformer.tokenizer``).
    """
    done = Loaded()
    if instructblip is not None:
        prefix = "frame_encoder."
        new = () if model.config.stamp_tokenizer else (WORDS,)

        def of_towers(name: str) -> str | None:
            name = name.removeprefix("model.")  # which some versions of transformers write
            return name if name.startswith(TOWERS) and name not in new else None

        done += fill(model, instructblip, prefix, of_towers, may_lack=tuple(prefix + name for name in new))
    if llama is not None:
        done += fill(model, llama, "llm.")
    return done
