"""Overlapping sliding video Q-Former and fusion (TemporalVLM 3.1, equations 1 to 4; FACTS B1, 3 to 6).

Nothing that is padding is ever a key, so that what a video is beside in a batch changes nothing.
F frames of all clips, K tokens of a frame, C width, M clips with frames, W windows, Q queries per window, L tokens of a
clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TemporalVLMConfig
from .frame_encoder import make_qformer
from .windows import tokens_of, window_starts


class ClipEncoder(nn.Module):
    """Frame tokens of clips -> at most ``clip_length`` tokens per clip."""

    def __init__(self, config: TemporalVLMConfig) -> None:
        super().__init__()
        self.config = config
        width = config.video_config.hidden_size
        self.frame_positions = nn.Embedding(config.frames_per_clip, width)
        self.query_tokens = nn.Parameter(torch.empty(1, config.video_queries, width))
        nn.init.normal_(self.query_tokens, std=config.initializer_range)
        self.qformer = make_qformer(config.video_config, text=False)
        self.norm = nn.LayerNorm(width) if config.fusion and config.fusion_residual else None
        self.fusion = nn.MultiheadAttention(width, config.fusion_heads, batch_first=True) if config.fusion else None

    def forward(self, frames: Tensor, mask: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """frames (F, K, C) with mask (F, K), clip after clip; ``counts`` (M): frames of each clip, 1 or more.

        Returns tokens (M, clip_length, C), zero where there is none, and their mask (M, clip_length).
        """
        place = torch.cat([torch.arange(n) for n in counts]).to(frames.device)
        frames = frames + self.frame_positions(place)[:, None]
        starts = [self._starts(n) for n in counts]
        windows = self._windows(frames, mask, counts, starts)  # (all windows, Q, C)
        fused, there = self._fuse(windows, [len(s) for s in starts])
        return self._reduce(fused, there, starts)

    def _starts(self, frames: int) -> list[int]:
        c = self.config
        return window_starts(frames, c.window, c.overlap, c.partial_windows)

    def _windows(self, frames: Tensor, mask: Tensor, counts: list[int], starts: list[list[int]]) -> Tensor:
        """The video Q-Former on every window: equation 1."""
        rows, first = [], 0
        for count, own in zip(counts, starts, strict=True):
            for start in own:
                last = min(start + self.config.window, count)
                rows.append(
                    F.pad(torch.arange(first + start, first + last), (0, self.config.window - last + start), value=-1)
                )
            first += count
        index = torch.stack(rows).to(frames.device)  # (W, window), -1 behind a clip's end
        keys = frames[index.clamp(min=0)].flatten(1, 2)
        key_mask = ((index >= 0)[:, :, None] & mask[index.clamp(min=0)]).flatten(1, 2)
        queries = self.query_tokens.expand(len(index), -1, -1)
        out: Tensor = self.qformer(
            input_ids=None,
            query_embeds=queries,
            encoder_hidden_states=keys,
            encoder_attention_mask=key_mask.long(),
        ).last_hidden_state
        return out

    def _fuse(self, windows: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """Windows of each clip side by side (equation 2), each token seeing all of its clip (3, 4): (M, W * Q, C)."""
        parts = windows.split(counts)
        tokens = nn.utils.rnn.pad_sequence([part.flatten(0, 1) for part in parts], batch_first=True)
        lengths = torch.tensor([len(part) * part.shape[1] for part in parts], device=tokens.device)
        there = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        if self.fusion is not None:
            x = tokens if self.norm is None else self.norm(tokens)
            out = self.fusion(x, x, x, key_padding_mask=~there, need_weights=False)[0]
            tokens = out if self.norm is None else tokens + out
        return tokens * there[..., None], there

    def _reduce(self, tokens: Tensor, there: Tensor, starts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """A clip's window tokens as its part of the sequence (FACTS B2, 1)."""
        c, out = self.config, []
        for i, own in enumerate(starts):
            x = tokens[i, : len(own) * c.video_queries]
            if c.clip_tokens == "pool":
                x = F.adaptive_avg_pool1d(x.t()[None], c.clip_length)[0].t()
            elif c.clip_tokens == "non_overlapping":
                x = torch.cat([w for w, s in zip(x.split(c.video_queries), own, strict=True) if s % c.window == 0])
            elif c.clip_tokens == "overlap_add":
                x = self._overlap_add(x, own)
            out.append(F.pad(x, (0, 0, 0, c.clip_length - len(x))))
        sizes = [tokens_of(own, c.window, c.video_queries, c.clip_tokens, c.clip_length) for own in starts]
        lengths = torch.tensor(sizes, device=tokens.device)
        return torch.stack(out), torch.arange(c.clip_length, device=tokens.device) < lengths[:, None]

    def _overlap_add(self, x: Tensor, own: list[int]) -> Tensor:
        """Tokens laid over the frames of their windows; the mean where several lie."""
        c = self.config
        first = torch.tensor([start * c.video_queries // c.window for start in own], device=x.device)
        place = (first[:, None] + torch.arange(c.video_queries, device=x.device)).flatten()
        size = int(first[-1]) + c.video_queries
        total = x.new_zeros(size, x.shape[1]).index_add(0, place, x)
        return total / x.new_zeros(size).index_add(0, place, x.new_ones(len(x)))[:, None].clamp(min=1)
