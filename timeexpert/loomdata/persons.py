"""Finding a person in a picture by words: GroundingDINO (Liu et al., ECCV 2024), transformers' class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .models import load_pretrained

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the picture


@dataclass(frozen=True)
class Found:
    """A box and how sure the detector is of it, 0 to 1."""

    box: Box
    score: float


class PersonDetector(Protocol):
    """Finds what words describe."""

    def best(self, image: NDArray[np.uint8], text: str) -> Found | None:
        """The best box for ``text`` in ``image`` [H, W, 3]; ``None`` where there is no box at all."""
        ...


class GroundingDino:
    """``model`` is a folder or a name on the hub. Raises ``UserError``."""

    def __init__(self, model: str, device: str) -> None:
        from transformers import AutoProcessor, GroundingDinoForObjectDetection

        self.processor: Any = load_pretrained(AutoProcessor, model, "person.model")
        self.model: Any = load_pretrained(GroundingDinoForObjectDetection, model, "person.model", device)

    def best(self, image: NDArray[np.uint8], text: str) -> Found | None:
        """See :class:`PersonDetector`."""
        import torch

        height, width = image.shape[:2]
        room = self.model.config.max_text_len
        inputs = self.processor(
            images=image, text=as_query(text), return_tensors="pt", truncation=True, max_length=room
        ).to(self.model.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        (found,) = self.processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(height, width)]
        )
        for i in found["scores"].argsort(descending=True).tolist():
            box = inside(found["boxes"][i].tolist(), height, width)
            if box is not None:
                return Found(box, float(found["scores"][i]))
        return None


def as_query(text: str) -> str:
    """Words as GroundingDINO reads one phrase: lower case, one full stop, at the end."""
    return " ".join(text.lower().replace(".", " ").split()) + "."


def inside(box: list[float], height: int, width: int) -> Box | None:
    """The part of a box that lies in the picture; ``None`` where that is less than a pixel wide or high."""
    x0, y0, x1, y1 = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
