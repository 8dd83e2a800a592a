"""A frame in numbers, for KTS: by its colours, or by what a vision model makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.media import resolve_media
from timeexpert.data.video import Video

from .models import load_pretrained

BINS, GRID = 8, 2
BATCH = 16


def colour_features(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``frame`` [H, W, 3] as histograms of red, green and blue in each quarter: float32 [96], of length 1.

    Roots of the shares are taken, so that dot products compare histograms as the Bhattacharyya coefficient does.
    """
    rows = np.array_split(np.arange(frame.shape[0]), GRID)
    columns = np.array_split(np.arange(frame.shape[1]), GRID)
    parts = [frame[r[0] : r[-1] + 1, c[0] : c[-1] + 1] for r in rows for c in columns if len(r) and len(c)]
    counts = [np.bincount(part[..., k].ravel() // (256 // BINS), minlength=BINS) for part in parts for k in range(3)]
    roots = np.sqrt(np.concatenate(counts).astype(np.float32))
    padded = np.zeros(3 * BINS * GRID * GRID, np.float32)
    padded[: len(roots)] = roots
    return (padded / np.linalg.norm(padded)).astype(np.float32)


class VisionFeatures:
    """Frames as a vision model of transformers describes them. ``model`` is a folder or a name on the hub."""

    def __init__(self, model: str, device: str) -> None:
        from transformers import AutoImageProcessor, AutoModel

        self.processor = load_pretrained(AutoImageProcessor, model, "shots.kts_model")
        self.model = load_pretrained(AutoModel, model, "shots.kts_model", device)

    def of(self, media: Path, video: str, times_s: NDArray[np.float64]) -> NDArray[np.float32]:
        """Features [n, D] of the frames on screen at ``times_s`` [n], each of length 1."""
        import torch

        rows = []
        with Video.open(resolve_media(media, video), name=video) as opened, torch.inference_mode():
            for first in range(0, len(times_s), BATCH):
                frames, _ = opened.frames_at(times_s[first : first + BATCH])
                inputs = self.processor(images=list(frames), return_tensors="pt").to(self.model.device)
                out = self.model(**inputs)
                pooled = getattr(out, "pooler_output", None)
                rows.append((out.last_hidden_state.mean(1) if pooled is None else pooled).float().cpu().numpy())
        table = np.concatenate(rows)
        return (table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)).astype(np.float32)
