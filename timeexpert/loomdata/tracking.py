"""Masks of one person through a video: SAM2 (Ravi et al., 2024), transformers' ``Sam2VideoModel``.

Frames are decoded where the model asks for them and forgotten afterwards, and so is what the model remembers of frames
that its memory no longer reads: a long video takes no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from timeexpert.data.mask_rle import encode_rle
from timeexpert.data.mask_tracks import MaskTrack
from timeexpert.data.video import Video

from .models import load_pretrained
from .persons import Box

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as SAM2 was trained
OBJECT = 1  # the person's id in a session
BLOCK, BLOCKS = 8, 2  # frames decoded together, and how many such blocks are kept


class Tracker(Protocol):
    """Follows what a box shows."""

    def track(self, video: Video, times_s: Sequence[float], prompt: int, box: Box) -> MaskTrack:
        """Masks on the frames on screen at ``times_s``, of what ``box`` (pixels) shows on frame ``prompt`` of them."""
        ...


class Sam2Tracker:
    """``model`` is a folder or a name on the hub. Raises ``UserError``."""

    def __init__(self, model: str, device: str) -> None:
        from transformers import Sam2VideoModel

        self.model: Any = load_pretrained(Sam2VideoModel, model, "track.model", device)
        side = self.model.config.image_size
        self._side = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))

    def track(self, video: Video, times_s: Sequence[float], prompt: int, box: Box) -> MaskTrack:
        """See :class:`Tracker`. From the prompted frame to the end, then to the start."""
        import torch

        info = video.info
        size = (info.height, info.width)
        session = self._session(_Frames(video, times_s, self._side), size)
        self._prompt(session, prompt, box)
        rles: dict[int, str | None] = {}
        with torch.inference_mode():
            for reverse in (False, True):
                steps = self.model.propagate_in_video_iterator(session, start_frame_idx=prompt, reverse=reverse)
                for out in steps:
                    self._forget(session, out.frame_idx, prompt)
                    if out.frame_idx not in rles:
                        rles[out.frame_idx] = _rle(self._mask(out.pred_masks, size))
        return MaskTrack(size, tuple(times_s), tuple(rles[i] for i in range(len(times_s))))

    def _session(self, frames: _Frames, size: tuple[int, int]) -> Any:
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        device = self.model.device
        session = Sam2VideoInferenceSession(
            video_height=size[0],
            video_width=size[1],
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=self.model.dtype,
        )
        session.processed_frames = frames  # a dict of tensors in transformers; only len() and [i] are used of it
        return session

    def _prompt(self, session: Any, frame: int, box: Box) -> None:
        """A box is two points with labels 2 and 3, in pixels of the model's own input."""
        import torch

        height, width = self._side[0] / session.video_height, self._side[1] / session.video_width
        corners = [[box[0] * width, box[1] * height], [box[2] * width, box[3] * height]]
        index = session.obj_id_to_idx(OBJECT)
        points = {
            "point_coords": torch.tensor([[corners]]),
            "point_labels": torch.tensor([[[2, 3]]], dtype=torch.int32),
        }
        session.add_point_inputs(index, frame, points)
        session.obj_with_new_inputs = [OBJECT]

    def _mask(self, pred_masks: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Logits [1, 1, h, w] as a mask of the video's size: above 0 after bilinear resizing."""
        from torch.nn.functional import interpolate

        logits = interpolate(pred_masks.float(), size, mode="bilinear", align_corners=False)
        return (logits[0, 0] > 0).cpu().numpy()

    def _forget(self, session: Any, at: int, prompt: int) -> None:
        """Drop what memory attention will not read: it looks back ``reach`` frames, and at the prompted one."""
        config = self.model.config
        reach = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        for outputs in session.output_dict_per_obj.values():
            tracked = outputs["non_cond_frame_outputs"]
            for frame in [f for f in tracked if abs(f - at) > reach and abs(f - prompt) > reach]:
                del tracked[frame]
            for kept in (*tracked.values(), *outputs["cond_frame_outputs"].values()):
                kept.pop("high_res_masks", None)  # 4 MiB a frame, for the memory encoder alone, which has run


class _Frames:
    """The frames of a video as SAM2 wants them, decoded in blocks: a plain square resize, scaled and normalised."""

    def __init__(self, video: Video, times_s: Sequence[float], side: tuple[int, int]) -> None:
        self.video, self.times_s, self.side = video, list(times_s), side
        self._blocks: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.times_s)

    def __getitem__(self, i: int) -> Any:
        import torch

        block = i // BLOCK
        if block not in self._blocks:
            while len(self._blocks) >= BLOCKS:
                self._blocks.pop(next(iter(self._blocks)))
            self._blocks[block] = self.video.frames_at(self.times_s[block * BLOCK : (block + 1) * BLOCK], self.side)[0]
        frame = torch.from_numpy(self._blocks[block][i % BLOCK]).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (frame - mean) / std


def _rle(mask: NDArray[np.bool_]) -> str | None:
    return encode_rle(mask)["counts"] if mask.any() else None
