"""The main person in words, by which a detector finds the same person in other shots.

The paper takes Pix2Cap's caption of the person's region. Pix2Cap has no class in transformers, so a multimodal endpoint
is asked in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from timeexpert.data.endpoint import Message

from .asking import Fault
from .config import DescriptionConfig
from .marking import as_jpeg, image_part, picture_size
from .persons import Box

MAX_CHARS = 400
FRAME = (0, 200, 255)

PROMPT = (
    "The first picture is a frame of a video with a box around one person; the second picture shows that person alone. "
    "Describe how this person looks, so that somebody could pick them out in other frames: kind of person, clothes and "
    "their colours, hair, what they wear or carry. Say nothing about actions, place, mood or the box. Reply with one "
    "phrase of at most {max_words} words and nothing else, for example: a woman in a green raincoat with a black hat"
)


@dataclass(frozen=True, eq=False)
class DescriptionQuestion:
    """Asks what the person in ``box`` of the frame looks like. ``image()`` gives the frame, [H, W, 3]."""

    image: Callable[[], NDArray[np.uint8]]
    box: Box
    config: DescriptionConfig

    def messages(self) -> list[Message]:
        """One user message: the words, the frame with the box, the person alone."""
        whole = Image.fromarray(self.image())
        x0, y0, x1, y1 = self.box
        alone = whole.crop((floor(x0), floor(y0), ceil(x1), ceil(y1)))
        ImageDraw.Draw(whole).rectangle(self.box, outline=FRAME, width=max(2, whole.height // 180))
        text = PROMPT.format(max_words=self.config.max_words)
        parts = [image_part(as_jpeg(_shrunk(picture, self.config.picture_height))) for picture in (whole, alone)]
        return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]

    def read(self, text: str) -> str | Fault:
        """The phrase, without quotes around it and a full stop behind."""
        phrase = text.strip().strip("\"'`").rstrip(".").strip()
        words = len(phrase.split())
        if not words:
            return Fault("it is empty.")
        if "\n" in phrase:
            return Fault("it has more than one line.")
        if words > self.config.max_words or len(phrase) > MAX_CHARS:
            return Fault(f"it has {words} words; at most {self.config.max_words} are allowed.")
        return phrase


def _shrunk(picture: Image.Image, most: int) -> Image.Image:
    height, width = picture_size(picture.height, picture.width, most)
    return picture.resize((width, height), Image.Resampling.BOX) if height < picture.height else picture
