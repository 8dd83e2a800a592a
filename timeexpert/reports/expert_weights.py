"""What a checkpoint knows of its experts: which are alike, and what a token costs with fewer of them.

E expert slots, D model dim, F expert dim, L layers. Only config.json and the experts' tensors are read, one layer
at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from timeexpert.config import from_tree
from timeexpert.errors import UserError

from .errors import ReportError
from .run_files import Record, number, stage_of

if TYPE_CHECKING:
    from torch import Tensor

DUPLICATE_FROM = 0.95  # cosine of two experts' weights; of independent random ones it is 0 +- 1 / sqrt(3 D F)
COMPARED_K = 6  # ARIA's experts per token
ROWS_AT_ONCE = 1 << 24  # weights of a layer in memory at a time, in float32: 64 MiB


@dataclass(frozen=True)
class LayerSimilarity:
    """Cosines between the experts of one layer, (E, E) float32: of the gate's rows, and of all weights of an expert
    laid end to end. ``active`` (E,): slots in use."""

    layer: int
    active: list[bool]
    gate: NDArray[np.float32]
    experts: NDArray[np.float32]

    @property
    def duplicates(self) -> list[tuple[int, int, float, float]]:
        """Pairs of active experts whose weights' cosine is DUPLICATE_FROM or more: (a, b, weights, gate rows)."""
        on = [i for i, used in enumerate(self.active) if used]
        return [
            (a, b, float(self.experts[a, b]), float(self.gate[a, b]))
            for i, a in enumerate(on)
            for b in on[i + 1 :]
            if self.experts[a, b] >= DUPLICATE_FROM
        ]

    def nearest(self, cosines: NDArray[np.float32]) -> list[tuple[int, int, float]]:
        """For each active expert the active one most like it: (expert, other, cosine); empty with fewer than two."""
        on = np.flatnonzero(self.active)
        if len(on) < 2:
            return []
        among = cosines[np.ix_(on, on)].copy()
        np.fill_diagonal(among, -np.inf)
        return [(int(on[i]), int(on[j]), float(among[i, j])) for i, j in enumerate(among.argmax(1))]


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of the MoE decoder, from config.json. ``query_dim``: heads x head dim; ``key_value_dim`` likewise."""

    layers: int
    model_dim: int
    query_dim: int
    key_value_dim: int
    expert_dim: int
    shared_experts: int
    slots: int
    wanted_k: int
    router: str
    bytes_per_weight: int

    @property
    def expert_weights(self) -> int:
        """Weights of one SwiGLU expert: 3 D F."""
        return 3 * self.model_dim * self.expert_dim

    @property
    def fixed_weights(self) -> int:
        """Weights of one layer that every token meets: attention, gate, shared experts."""
        attention = 2 * self.model_dim * (self.query_dim + self.key_value_dim)
        return attention + self.slots * self.model_dim + self.shared_experts * self.expert_weights

    def cost(self, mean_ks: Sequence[float]) -> Cost:
        """What one token costs with ``mean_ks`` experts in the layers (one number per layer)."""
        routed = sum(mean_ks) * self.expert_weights
        return Cost(
            sum(mean_ks) / len(mean_ks),
            routed * self.bytes_per_weight,
            2 * routed,
            2 * (routed + len(mean_ks) * self.fixed_weights),
        )


@dataclass(frozen=True)
class Cost:
    """Per token, over all layers: ``bytes`` of routed experts' weights that are read where tokens come one by one,
    FLOPs of the routed experts, and of the decoder (without attention scores, which grow with the context)."""

    mean_k: float
    bytes: float
    expert_flops: float
    decoder_flops: float

    def to_json(self) -> dict[str, float]:
        """A JSON object."""
        return {
            "mean_k": round(self.mean_k, 4),
            "expert_bytes": round(self.bytes),
            "expert_flops": round(self.expert_flops),
            "decoder_flops": round(self.decoder_flops),
        }


@dataclass(frozen=True)
class ExpertWeights:
    """What was read of one model folder; ``global_step`` is ``None`` where it does not say. ``moe``: the
    settings of its MoE layers. ``similarity`` is empty where it was not asked for."""

    folder: str
    stage: str
    global_step: int | None
    sizes: DecoderSizes
    moe: Record
    similarity: list[LayerSimilarity]

    def costs(self, mean_ks: Sequence[float]) -> dict[str, Cost]:
        """What a token costs as measured, with six experts, and with the wanted number."""
        sizes = self.sizes
        out = {"measured": sizes.cost(mean_ks), f"k = {COMPARED_K}": sizes.cost([COMPARED_K] * len(mean_ks))}
        if sizes.wanted_k != COMPARED_K:
            out[f"wanted k = {sizes.wanted_k}"] = sizes.cost([sizes.wanted_k] * len(mean_ks))
        return out

    def to_json(self, mean_ks: Sequence[float] | None) -> dict[str, Any]:
        """A JSON object; ``mean_ks``: experts per token of each layer, if they are known."""
        pairs = [
            {"layer": s.layer, "experts": [a, b], "cosine": round(c, 4), "gate_cosine": round(g, 4)}
            for s in self.similarity
            for a, b, c, g in s.duplicates
        ]
        nearest = [
            {"layer": s.layer, "expert": a, "nearest": b, "cosine": round(c, 4)}
            for s in self.similarity
            for a, b, c in s.nearest(s.experts)
        ]
        costs = {} if mean_ks is None else {name: cost.to_json() for name, cost in self.costs(mean_ks).items()}
        place = {"folder": self.folder, "stage": self.stage, "global_step": self.global_step}
        return {**place, "router": self.sizes.router, "duplicates": pairs, "nearest": nearest, "cost_per_token": costs}


def find_weights(run: Path, stage: str | None = None) -> Path | None:
    """The newest model of a run or of one of its stages: a finished one, or the state of a stage in progress."""
    if is_model(run):
        return run
    found = [p for p in (*run.glob("models/*"), *run.glob("checkpoints/*")) if p.name[0] != "." and is_model(p)]
    wanted = [p for p in found if stage is None or written_at(p)[0] == stage]
    return max(wanted, key=lambda p: written_at(p)[1] or 0, default=None)


def is_model(folder: Path) -> bool:
    """Whether a folder holds weights."""
    return any(folder.glob("model*.safetensors"))


def written_at(folder: Path) -> tuple[str, int | None]:
    """Stage and global step of a model folder's weights, where a file beside them says so."""
    for name in ("inference.json", "trainer.json"):
        if (folder / name).is_file():
            row = _json(folder / name)
            step = number(row, "global_step")
            return stage_of(row), None if step is None else int(step)
    return "?", None


def _json(file: Path) -> Record:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{file}: cannot be read: {error}. Use another checkpoint.") from None
    if not isinstance(read, dict):
        raise ReportError(f"{file}: must hold a JSON object. Use another checkpoint.")
    return read


def read_weights(folder: Path, *, similarity: bool = True) -> ExpertWeights:
    """Sizes, and the similarity of experts, of a model folder. Raises :class:`ReportError` where a file is damaged."""
    stage, step = written_at(folder)
    tensors = _Tensors(folder)
    config = _json(folder / "config.json")
    moe = _moe_settings(folder / "config.json", _part(config, "moe"))
    stored = tensors.bytes_of("decoder.layers.0.moe.experts.down_proj")
    sizes = _sizes(folder / "config.json", _part(config, "text_config"), moe, stored)
    layers = [_similarity(tensors, layer) for layer in range(sizes.layers)] if similarity else []
    return ExpertWeights(folder.name, stage, step, sizes, moe, layers)


def _part(config: Record, key: str) -> Record:
    part = config.get(key)
    return part if isinstance(part, dict) else {}


def _moe_settings(file: Path, tree: Record) -> Record:
    """All MoE settings by name, defaults included; those of a part as ``adaptive.tau_min``."""
    from timeexpert.moe import MoEConfig  # brings torch

    try:
        settings = asdict(from_tree(MoEConfig, tree, "moe"))
    except UserError as error:
        raise ReportError(f"{file}: {error}") from None
    parts = {f"{name}.{key}": v for name, part in settings.items() if isinstance(part, dict) for key, v in part.items()}
    return {name: value for name, value in settings.items() if not isinstance(value, dict)} | parts


def _sizes(file: Path, text: Record, moe: Record, bytes_per_weight: int) -> DecoderSizes:
    def size(part: Record, where: str, name: str, default: int | None = None) -> int:
        value = part.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ReportError(
                f"{file}: {where}.{name} ({value!r}) must be a whole number. Give the folder of a TimeExpert model."
            )
        return value

    width, heads = size(text, "text_config", "hidden_size"), size(text, "text_config", "num_attention_heads")
    head_dim = size(text, "text_config", "head_dim", width // max(1, heads))
    experts = size(moe, "moe", "num_experts")
    return DecoderSizes(
        layers=size(text, "text_config", "num_hidden_layers"),
        model_dim=width,
        query_dim=heads * head_dim,
        key_value_dim=size(text, "text_config", "num_key_value_heads", heads) * head_dim,
        expert_dim=size(moe, "moe", "expert_dim"),
        shared_experts=size(moe, "moe", "num_shared_experts"),
        slots=size(moe, "moe", "max_experts", experts),
        wanted_k=size(moe, "moe", "top_k"),
        router=str(moe["router"]),
        bytes_per_weight=bytes_per_weight,
    )


def _similarity(tensors: _Tensors, layer: int) -> LayerSimilarity:
    name = f"decoder.layers.{layer}.moe."
    gate = tensors.cosines([f"{name}gate.weight"])
    experts = tensors.cosines([f"{name}experts.gate_up_proj", f"{name}experts.down_proj"])
    active = [bool(v) for v in tensors.whole(f"{name}gate.active_experts").tolist()]
    return LayerSimilarity(layer, active, gate, experts)


class _Tensors:
    """Tensors of a model folder or of a checkpoint of training by name."""

    def __init__(self, folder: Path) -> None:
        from timeexpert.checkpoint import MODEL, CheckpointError, Pieces

        self.folder = folder
        try:
            self.pieces = Pieces(folder, MODEL)
        except CheckpointError as error:
            raise ReportError(str(error)) from None

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self.pieces.names:
            raise ReportError(f"{self.folder}: its weights have no {name}. Give the folder of a TimeExpert model.")
        return self.pieces.shape(name)

    def bytes_of(self, name: str) -> int:
        """Bytes of one stored number."""
        self._shape(name)
        bits = re.search(r"[0-9]+", self.pieces.dtype(name))  # F32, BF16, F8_E4M3
        return int(bits[0]) // 8 if bits else 1

    def whole(self, name: str) -> Tensor:
        """A whole tensor."""
        self._shape(name)
        return self.pieces.read(name)

    def _parts(self, name: str) -> Iterator[Tensor]:
        """(E, n) pieces in float32 of a tensor (E, ...), none larger than ROWS_AT_ONCE numbers if E rows allow it."""
        experts, rows, *rest = self._shape(name)
        at_once = max(1, ROWS_AT_ONCE // (experts * int(np.prod(rest, initial=1))))
        for start in range(0, rows, at_once):
            part = (slice(0, experts), slice(start, min(rows, start + at_once)), *(slice(0, n) for n in rest))
            yield self.pieces.read(name, part).float().reshape(experts, -1)

    def cosines(self, names: Sequence[str]) -> NDArray[np.float32]:
        """(E, E): cosines between experts, each the concatenation of its rows of all ``names``; 0 for a zero row."""
        first, *others = (part @ part.t() for name in names for part in self._parts(name))
        dots = sum(others, start=first)
        norm = dots.diagonal().sqrt()
        if not norm.isfinite().all():
            lost = (~norm.isfinite()).nonzero()[:, 0].tolist()
            raise ReportError(
                f"{self.folder}: {names[0]} of expert {', '.join(map(str, lost))} holds numbers that are not finite: "
                "the training diverged. Use an earlier checkpoint."
            )
        scale = (norm[:, None] * norm[None, :]).clamp(min=1e-30)
        return (dots / scale).clamp(-1.0, 1.0).numpy()
