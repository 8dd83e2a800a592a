"""From the state of [SEG] to masks: an MLP, and SAM2 that is prompted with what it says (FACTS D2; Sa2VA).

O objects, K frames, S side of SAM2's square frames, C width of SAM2's prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VideoInferenceSession, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoPromptEncoder

# Mean and standard deviation of RGB that both InternVL's and SAM2's processors take (ImageNet's).
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
FRAMES_AT_ONCE = 16  # through a vision tower, whose activations would fill a GPU for a long video


def normalised(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 RGB (F, 3, H, W) as both vision towers take it; floats are taken to be normalised."""
    if frames.dtype == torch.uint8:
        mean, std = (torch.tensor(v, device=frames.device)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
        frames = (frames.float() / 255 - mean) / std
    return frames.to(dtype)


class EmbeddingPromptEncoder(Sam2VideoPromptEncoder):
    """SAM2's prompt encoder, which also takes prompts that are embeddings already.

    Points whose last dimension is C instead of 2 are such: they stand behind the embeddings of one padding point
    (label -1), and of the second one that SAM2 adds to all points without a box.
    """

    def forward(
        self, input_points: Tensor | None, input_labels: Tensor | None, input_boxes: Any, input_masks: Any
    ) -> tuple[Tensor, Tensor]:
        """As the base class; ``input_points`` (B, O, 1, 2), or (B, O, 1, C) as embeddings."""
        if input_points is None or input_points.shape[-1] == 2:
            return super().forward(input_points, input_labels, input_boxes, input_masks)
        nowhere = input_points.new_zeros(*input_points.shape[:2], 1, 2)
        labels = -torch.ones(nowhere.shape[:3], dtype=torch.int32, device=nowhere.device)
        sparse, dense = super().forward(nowhere, labels, input_boxes, input_masks)
        return torch.cat([sparse, input_points.to(sparse.dtype)], 2), dense


class PromptedSam2(Sam2VideoModel):
    """transformers' SAM2 for videos, prompted by embeddings. Its parameters have their published names."""

    def __init__(self, config: Sam2VideoConfig) -> None:
        super().__init__(config)
        self.prompt_encoder = EmbeddingPromptEncoder(config.prompt_encoder_config)
        self.post_init()

    def _process_object_pointers(self, temporal_offsets: list[int], pointer_tokens: list[Tensor], *rest: Any) -> Any:
        # (1, 1, C) each: where C is as wide as a memory, the base class does not drop the dimension of points
        flat = [pointer.flatten(0, -2) for pointer in pointer_tokens]
        return super()._process_object_pointers(temporal_offsets, flat, *rest)


class MaskHead(nn.Module):
    """The MLP (Linear, ReLU, Linear) and SAM2."""

    def __init__(self, config: Sam2VideoConfig, state_dim: int, multimask: bool) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.sam = PromptedSam2(config)
        width = config.prompt_encoder_config.hidden_size
        self.projection = nn.Sequential(nn.Linear(state_dim, state_dim), nn.ReLU(), nn.Linear(state_dim, width))
        self.multimask = multimask

    def features(self, frames: Tensor) -> list[Tensor]:
        """Maps of frames (K, 3, S, S) as the mask decoder reads them: (K, C/8, S/4, S/4), (K, C/4, S/8, S/8) and, with
        SAM2's embedding of no memory, (K, C, S/16, S/16). Gradients reach the tower only where it is trained."""
        tower = self.sam.vision_encoder
        pixels = normalised(frames, next(tower.parameters()).dtype)
        trains = any(p.requires_grad for p in tower.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            parts = [tower(pixel_values=part).fpn_hidden_states for part in pixels.split(FRAMES_AT_ONCE)]
            maps = [torch.cat(level) for level in zip(*parts, strict=True)]
        decoder = self.sam.mask_decoder
        no_memory = self.sam.no_memory_embedding.permute(0, 2, 1)[..., None]
        return [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1]), maps[2] + no_memory]

    def decode(self, features: list[Tensor], prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (O, S/4, S/4) and the score (O,) that the object is there, a frame for each object.

        ``features``: of O frames, as :meth:`features` gives them; ``prompts`` (O, C). Each frame is one that is
        prompted for the first time: no memory is read. With ``multimask`` the mask of the highest predicted IoU.
        """
        sam = self.sam
        sparse, dense = sam.prompt_encoder(prompts[:, None, None], None, None, None)
        masks, ious, _, score = sam.mask_decoder(
            image_embeddings=features[-1],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(len(prompts), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask,
            high_resolution_features=features[:-1],
        )
        best = ious[:, 0].argmax(-1)
        return masks[torch.arange(len(best), device=best.device), 0, best], score[:, 0, 0]

    def alone(self, frames: Tensor, prompts: Tensor) -> Tensor:
        """Masks of each of K frames by itself: logits (O, K, S/4, S/4), below 0 where the object is said to be absent.

        ``frames`` (K, 3, S, S), ``prompts`` (O, C).
        """
        out = []
        for part in frames.split(FRAMES_AT_ONCE):
            features, count = self.features(part), len(part)
            rows = []
            for prompt in prompts:
                logits, score = self.decode(features, prompt.expand(count, -1))
                rows.append(torch.where(score[:, None, None] > 0, logits, -logits.abs() - 1))
            out.append(torch.stack(rows))
        return torch.cat(out, 1)

    @torch.inference_mode()
    def propagate(self, frames: Tensor, prompts: Tensor, keyframes: list[int]) -> Tensor:
        """Masks in all K frames: logits (O, K, S/4, S/4), below 0 where the object is said to be absent.

        ``prompts`` (O, C) are given on ``keyframes``; SAM2's memory carries them forward from the first keyframe to
        the last frame, then from it back to frame 0.
        """
        sam, objects = self.sam, len(prompts)
        dtype = next(sam.parameters()).dtype
        session = Sam2VideoInferenceSession(
            normalised(frames, dtype),
            *frames.shape[-2:],
            inference_device=frames.device,
            inference_state_device=frames.device,
            video_storage_device=frames.device,
            dtype=dtype,
        )
        label = -torch.ones(1, 1, 1, dtype=torch.int32, device=frames.device)
        for keyframe in sorted(set(keyframes)):
            for i, prompt in enumerate(prompts):
                inputs = {"point_coords": prompt[None, None, None], "point_labels": label}
                session.add_point_inputs(session.obj_id_to_idx(i), keyframe, inputs)
            session.obj_with_new_inputs = list(range(objects))
            sam(session, frame_idx=keyframe)
            _forget_large_masks(session)
        first, out = min(keyframes), {}
        for reverse in (False, True):
            for seen in sam.propagate_in_video_iterator(session, start_frame_idx=first, reverse=reverse):
                out[seen.frame_idx] = seen.pred_masks[:, 0]
                _forget_large_masks(session)
        return torch.stack([out[i] for i in range(len(frames))], 1)

    def masks(
        self, frames: Tensor, prompts: Tensor, keyframes: list[int] | None, size: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Bool (K, height, width) of one object after the other: where it is, after bilinear upsampling; ``keyframes``
        None: every frame is prompted by itself."""
        logits = self.alone(frames, prompts) if keyframes is None else self.propagate(frames, prompts, keyframes)
        for own in logits:
            parts = own[:, None].float().split(FRAMES_AT_ONCE)
            large = [functional.interpolate(p, size, mode="bilinear", align_corners=False)[:, 0] > 0 for p in parts]
            yield torch.cat(large)


def _forget_large_masks(session: Sam2VideoInferenceSession) -> None:
    """Drop the masks at SAM2's full size, 4 MiB for each object and frame, which the memory encoder has read."""
    for outputs in session.output_dict_per_obj.values():
        for kept in (*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()):
            kept.pop("high_res_masks", None)
