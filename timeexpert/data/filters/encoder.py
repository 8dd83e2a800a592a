"""Caption against frames by a dual encoder (CLIP and its like) from a local folder.

Only safetensors weights are read, nothing is fetched, and no code of the folder is run.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from timeexpert.data.records import Sample
from timeexpert.errors import UserError

from .captions import captions_of
from .clips import Clip, ClipStore, PictureRequest
from .config import AlignmentConfig
from .timing import Fit

BATCH = 32  # frames or captions at a time


class EncoderScorer:
    """Similarity of each caption to the frames of its segment, against windows of the same length elsewhere.

    ``value`` is the share of the other windows that fit their caption worse than the annotated one, averaged over the
    events: 1 where the annotated place is the best, about 0.5 for a model that sees nothing. Windows that overlap the
    annotated one by more than half are not held against it. ``None`` where fewer than three windows are left.
    """

    threshold = 0.25
    LEAST_WINDOWS = 3
    STEPS = 4  # windows start every quarter of their length

    def __init__(self, config: AlignmentConfig) -> None:
        self.max_shift_s = config.max_shift_s
        self.model, self.tokenizer, self.processor, size = _load(Path(str(config.model)), config.device)
        self.device = config.device
        self.wanted = PictureRequest(size, config.frames_per_s, config.max_frames)
        self.fingerprint = _fingerprint(Path(str(config.model)))
        self.store: ClipStore | None = None  # where the clips' vectors are; set by the run
        self._text_vector = lru_cache(maxsize=4096)(self._embed_text)

    def embed_frames(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] to unit vectors float32 [n, D]."""
        import torch

        out = []
        with torch.inference_mode():
            for first in range(0, len(frames), BATCH):
                pixels = self.processor(images=list(frames[first : first + BATCH]), return_tensors="pt")
                found = self.model.get_image_features(pixel_values=pixels["pixel_values"].to(self.device))
                out.append(_unit(found))
        return np.concatenate(out)

    def _embed_text(self, text: str) -> np.ndarray:
        import torch

        with torch.inference_mode():
            rows = self.tokenizer([text], truncation=True, max_length=self._longest, return_tensors="pt", padding=True)
            wanted = {name: rows[name].to(self.device) for name in ("input_ids", "attention_mask") if name in rows}
            return _unit(self.model.get_text_features(**wanted))[0]

    @property
    def _longest(self) -> int:
        return int(getattr(self.model.config.text_config, "max_position_embeddings", 77))

    def fit(self, sample: Sample, clip: Clip) -> Fit | None:
        """``None`` where no event has both a caption and enough of the clip beside it."""
        assert self.store is not None
        kept = self.store.embedding(sample.video)
        if kept is None:
            return None
        vectors, times_s = kept
        captions = captions_of(sample)
        captions = captions if len(captions) == len(sample.events) else captions[:1] * len(sample.events)
        values, shifts, weights = [], [], []
        for caption, (start_s, end_s) in zip(captions, sample.events.segments_s, strict=False):
            found = self._event(vectors @ self._text_vector(caption), times_s, start_s, end_s) if caption else None
            if found is not None:
                values.append(found[0])
                shifts.append(found[1])
                weights.append(end_s - start_s)
        if not values:
            return None
        value = float(np.average(values, weights=np.maximum(weights, 1e-3)))
        saw = f"{1 - value:.0%} of the other windows fit the captions better"
        return Fit(value, shifts[int(np.argmin(values))], saw)

    def _event(
        self, similarity: np.ndarray, times_s: np.ndarray, start_s: float, end_s: float
    ) -> tuple[float, float] | None:
        """(share of other windows that fit worse, shift of the best window) of one event."""
        length_s = max(end_s - start_s, 1e-3)
        step_s = max(length_s / self.STEPS, float(np.median(np.diff(times_s))) if len(times_s) > 1 else length_s)
        own = similarity[(times_s >= start_s) & (times_s <= end_s)]
        if not len(own):
            own = similarity[[int(np.argmin(np.abs(times_s - (start_s + end_s) / 2)))]]
        tries = int(self.max_shift_s / step_s)
        others = []
        for number in [n for n in range(-tries, tries + 1) if n]:
            shift_s = number * step_s
            inside = (times_s >= start_s + shift_s) & (times_s <= end_s + shift_s)
            fits = start_s + shift_s >= times_s[0] - step_s and end_s + shift_s <= times_s[-1] + step_s
            if abs(shift_s) >= length_s / 2 and fits and inside.any():
                others.append((float(similarity[inside].mean()), shift_s))
        if len(others) < self.LEAST_WINDOWS:
            return None
        here = float(own.mean())
        return sum(score < here for score, _ in others) / len(others), max(others)[1]


def _load(folder: Path, device: str) -> tuple[Any, Any, Any, int]:
    """(model, tokenizer, image processor, picture size). Raises :class:`UserError`."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"alignment.model ({folder}): no config.json in it. Give a local folder of a CLIP-like model in the "
            "transformers layout: config.json, safetensors weights, tokenizer and preprocessor files."
        )
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"alignment.model ({folder}): no .safetensors file in it; other weights are not read.")
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **local).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
        processor = AutoImageProcessor.from_pretrained(str(folder), backend="pil", **local)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f"alignment.model ({folder}): cannot be loaded: {error}") from None
    size = getattr(getattr(model.config, "vision_config", None), "image_size", None)
    if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features") or not isinstance(size, int):
        raise UserError(
            f"alignment.model ({folder}): {type(model).__name__} has no text and image features to compare. Give a "
            "dual encoder, for example a CLIP model."
        )
    return model, tokenizer, processor, size


def _unit(found: Any) -> np.ndarray:
    """Unit vectors float32 [n, D] of what transformers returns: a tensor, or an output that pools one."""
    vectors = getattr(found, "pooler_output", found).float().cpu().numpy()
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def _fingerprint(folder: Path) -> str:
    """Tells models apart without reading gigabytes: the config, and the names and sizes of all files."""
    listing = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([config, listing]).encode()).hexdigest()[:16]
