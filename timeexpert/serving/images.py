"""Image files to frames of the model's size. Its own module, as the worker process that imports it needs no torch."""

from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image, ImageOps

from timeexpert.data.video import EXACT_BILINEAR


def decode(images: list[bytes], size: int, max_pixels: int) -> np.ndarray | str:
    """Images as uint8 [n, size, size, 3], or why they are refused. Runs in a worker process."""
    Image.MAX_IMAGE_PIXELS = None  # Pillow would refuse without the size that our own refusal names
    frames = np.empty((len(images), size, size, 3), np.uint8)
    for i, data in enumerate(images):
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                width, height = image.size
                if width * height > max_pixels:  # known from the header, before anything is unpacked
                    return f"image {i}: {width}x{height} pixels are more than {max_pixels}."
                pixels = np.ascontiguousarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            return f"image {i}: not a readable PNG, JPEG or WebP image."
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frames[i] = frame.reformat(size, size, "rgb24", interpolation=EXACT_BILINEAR).to_ndarray()
    return frames
