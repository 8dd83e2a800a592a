"""ARIA's weights as TimeExpert's, and back: in memory, or from a folder of safetensors read shard by shard.

Two spellings of the same tensors are known (and read whatever the file says): ``released``
(``language_model.model.layers.0.mlp.experts.fc1.weight``, as published) and ``transformers``
(``model.language_model.layers.0.mlp.experts.gate_up_proj``, as its modules are named). A text model alone
(``AriaTextForCausalLM``) spells its names as ``text``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AriaConfig
from transformers.initialization import no_init_weights

from timeexpert.errors import UserError

from .config import TimeExpertConfig
from .timeexpert import TimeExpert

Spelling = Literal["released", "transformers", "text"]
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_INDEX_BYTES = 64 << 20  # ARIA's has 0.1 MB
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TOWER, _PROJECTOR = "frame_encoder.vision_tower.", "frame_encoder.projector."
_POSITIONS, _QUERY = f"{_TOWER}embeddings.position_embedding.weight", f"{_PROJECTOR}query"
# our prefix -> its prefix in each spelling
_PREFIXES: dict[str, dict[Spelling, str]] = {
    _TOWER: {"released": "vision_tower.", "transformers": "model.vision_tower."},
    _PROJECTOR: {"released": "multi_modal_projector.", "transformers": "model.multi_modal_projector."},
    "embedding.text.": {
        "released": "language_model.model.embed_tokens.",
        "transformers": "model.language_model.embed_tokens.",
        "text": "model.embed_tokens.",
    },
    "heads.text.": {"released": "language_model.lm_head.", "transformers": "lm_head.", "text": "lm_head."},
    "decoder.norm.": {
        "released": "language_model.model.norm.",
        "transformers": "model.language_model.norm.",
        "text": "model.norm.",
    },
    "decoder.layers.": {
        "released": "language_model.model.layers.",
        "transformers": "model.language_model.layers.",
        "text": "model.layers.",
    },
}
# within a layer: ours, released, transformers (and text)
_IN_LAYER = (
    ("moe.gate.weight", "mlp.router.weight", "mlp.router.weight"),
    ("moe.experts.gate_up_proj", "mlp.experts.fc1.weight", "mlp.experts.gate_up_proj"),
    ("moe.experts.down_proj", "mlp.experts.fc2.weight", "mlp.experts.down_proj"),
    ("moe.shared_experts.", "mlp.shared_experts.", "mlp.shared_experts."),
)
_PER_EXPERT = (".moe.gate.weight", ".moe.experts.gate_up_proj", ".moe.experts.down_proj")
# of the first release, before its names were those of transformers
_OLDER = (("vision_tower.vision_model.", "vision_tower."), (".ln_ffn.", ".layer_norm."))
_OLDER_PROJECTOR = ((".ffn.", ".feed_forward."), (".ln_kv.", ".layer_norm_kv."))


class WeightsError(UserError):
    """Weights that do not fit the model; the message names the tensors."""


@dataclass(frozen=True)
class AriaReport:
    """``loaded``: our names that hold ARIA's values. ``new``: ours that ARIA does not have (freshly initialised).
    ``unused``: ARIA's tensors, or rows of them, for which this model has no place."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]


def aria_name(name: str, spelling: Spelling = "released") -> str | None:
    """ARIA's name of our tensor ``name``; None where ARIA has no such tensor."""
    for prefix, theirs in _PREFIXES.items():
        if not name.startswith(prefix) or spelling not in theirs:
            continue
        rest = name.removeprefix(prefix)
        if prefix == "decoder.layers.":
            index, _, rest = rest.partition(".")
            for ours, released, other in _IN_LAYER:
                if rest.startswith(ours):
                    rest = (released if spelling == "released" else other) + rest.removeprefix(ours)
            if rest.startswith("moe."):  # thresholds and history
                return None
            rest = f"{index}.{rest}"
        return theirs[spelling] + rest
    return None


def our_name(name: str) -> str | None:
    """Our name of ARIA's tensor ``name``, in any spelling; None where it is none of ARIA's."""
    for old, new in _OLDER + (_OLDER_PROJECTOR if "multi_modal_projector." in name else ()):
        name = name.replace(old, new)
    for prefix, theirs in _PREFIXES.items():
        for given in theirs.values():
            if not name.startswith(given):
                continue
            rest = name.removeprefix(given)
            if prefix == "decoder.layers.":
                index, _, rest = rest.partition(".")
                for ours, released, other in _IN_LAYER:
                    for spelt in (released, other):
                        if rest.startswith(spelt):
                            rest = ours + rest.removeprefix(spelt)
                rest = f"{index}.{rest}"
            return prefix + rest
    return None


class _Source(Protocol):
    """Named tensors: their shapes at once, their values one after the other."""

    label: str
    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class _Memory:
    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.label, self.state = "the given weights", state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self.dtype = _common_dtype({tensor.dtype for tensor in state.values()})

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.state.items())


class SafetensorsFolder:
    """A folder with model.safetensors, or with shards and their index. Headers are read at once, tensors one by
    one. Raises :class:`WeightsError`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.label = Path(folder), str(folder)
        listed = self._listed()
        self.shapes: dict[str, tuple[int, ...]] = {}
        kinds = set()
        for file, names in listed.items():
            try:
                with safe_open(self.folder / file, framework="pt") as opened:
                    held = set(opened.keys())
                    for name in sorted(held):
                        self.shapes[name] = tuple(opened.get_slice(name).get_shape())
                        kinds.add(opened.get_slice(name).get_dtype())
            except (OSError, SafetensorError) as error:
                raise WeightsError(f"{self.folder / file}: cannot be read: {error}. Copy it again.") from None
            if names is not None and (odd := sorted(names ^ held)):
                where = "the index lists it, the file lacks it" if odd[0] in names else "the index does not list it"
                raise WeightsError(f"{self.folder / file}: {odd[0]}: {where}. Copy the folder again, whole.")
        if strange := sorted(kinds - set(_DTYPES)):
            raise WeightsError(f"{folder}: weights of type {strange[0]}; only {', '.join(_DTYPES)} can be converted.")
        self.dtype = _common_dtype({_DTYPES[kind] for kind in kinds})
        self.files = list(listed)

    def _listed(self) -> dict[str, set[str] | None]:
        """Files by name, with the tensors that the index says are inside."""
        index = self.folder / INDEX
        if not index.is_file():
            if (self.folder / SINGLE).is_file():
                return {SINGLE: None}
            other = [p.name for p in sorted(self.folder.glob("*.bin"))] if self.folder.is_dir() else []
            hint = f" {other[0]} is a pickle, which is never read." if other else ""
            raise WeightsError(f"{self.folder}: neither {SINGLE} nor {INDEX}.{hint} Give a folder of safetensors.")
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise WeightsError(f"{index}: {index.stat().st_size} bytes; an index has at most {MAX_INDEX_BYTES}.")
        out: dict[str, set[str]] = {}
        try:
            for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
                if Path(file).name != file or not file.endswith(".safetensors"):
                    raise WeightsError(
                        f"{index}: {name} is in {file!r}; it must be a .safetensors file in this folder."
                    )
                out.setdefault(file, set()).add(name)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{index}: not an index of safetensors ({error!r}). Copy it again.") from None
        return dict(out)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            with safe_open(self.folder / file, framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)


def _common_dtype(kinds: set[torch.dtype]) -> torch.dtype:
    floats = {kind for kind in kinds if kind.is_floating_point}
    return floats.pop() if len(floats) == 1 else torch.float32


def from_aria(
    source: Mapping[str, Tensor] | nn.Module | str | Path,
    config: TimeExpertConfig,
    *,
    text_only: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[TimeExpert, AriaReport]:
    """A TimeExpert of ``config`` that holds ARIA's weights, and what was loaded, new and not used.

    ``source``: a state dict, a transformers model, or a folder of safetensors. ``text_only``: it has no vision
    tower and no projector; ours start new. ``dtype``: of the model; None keeps the source's. Thresholds and
    activation rates stay in float32. Raises :class:`WeightsError` for missing, unknown and misshapen tensors.
    """
    tensors: _Source
    if isinstance(source, (str, Path)):
        tensors = SafetensorsFolder(source)
    else:
        tensors = _Memory(source.state_dict() if isinstance(source, nn.Module) else source)
    model = _skeleton(config, dtype or tensors.dtype, initialise=text_only)
    own = model.state_dict()
    plan, unused = _match(tensors, own, model)
    _check_complete(tensors, own, set(plan.values()), text_only)
    fresh = [name for name in own if name not in plan.values()]
    grown = [name for name in plan.values() if name.endswith(_PER_EXPERT) and model.config.moe_config.max_experts]
    with torch.no_grad():
        for path in dict.fromkeys(name.rpartition(".")[0] for name in [*fresh, *grown]):
            model._init_weights(model.get_submodule(path))
        for name, tensor in tensors:
            if name in plan:
                place, part = _fit(plan[name], own[plan[name]], tensor, model)
                place.copy_(part)
    return model, AriaReport(tuple(plan.values()), tuple(fresh), tuple(unused))


def _skeleton(config: TimeExpertConfig, dtype: torch.dtype, initialise: bool) -> TimeExpert:
    """The model without values (25 billion random numbers would be thrown away), or with them."""
    if initialise:
        model = TimeExpert(config)
    else:
        with no_init_weights():
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                model = TimeExpert(config)
            finally:
                torch.set_default_dtype(before)
    model.to(dtype)
    for gate in model.gates:  # bf16 would round steps of 1% of a rate away
        gate.activation_rates = gate.activation_rates.float()
        for parameter in (gate.threshold, gate.log_scale):
            if parameter is not None:
                parameter.data = parameter.data.float()
    model.config.dtype = dtype
    return model


def _match(tensors: _Source, own: Mapping[str, Tensor], model: TimeExpert) -> tuple[dict[str, str], list[str]]:
    """ARIA's name -> ours for every tensor that is used, and what is not used. Raises :class:`WeightsError`."""
    plan: dict[str, str] = {}
    unused, unknown, misshapen = [], [], []
    for name, shape in tensors.shapes.items():
        ours = our_name(name)
        if ours in own:
            assert ours is not None
            if ours in plan.values():
                raise WeightsError(f"{tensors.label}: {name} is there twice, in two spellings.")
            plan[name] = ours
            place, part = _fit(ours, own[ours], torch.empty(shape, device="meta"), model)
            if place.shape != part.shape:
                misshapen.append(f"{name} {list(shape)} must be {list(own[ours].shape)}")
            elif part.numel() < torch.Size(shape).numel():
                unused.append(f"{name} ({shape[0] - part.shape[0]} of {shape[0]} rows)")
        elif _may_be_left_out(ours or name, model):
            unused.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise WeightsError(f"{tensors.label}: {_some(unknown)}: the model has no such tensor. {_WAY_OUT}")
    if misshapen:
        raise WeightsError(f"{tensors.label}: {_some(misshapen)}. {_WAY_OUT}")
    return plan, unused


_WAY_OUT = "Give the config of these weights (layers, sizes, experts)."


def _may_be_left_out(name: str, model: TimeExpert) -> bool:
    """Not used: the projector where slots replace it, what comes after the tower's last layer, derived tables."""
    if model.frame_encoder.projector is None and name.startswith(_PROJECTOR):
        return True
    return name.startswith((f"{_TOWER}post_layernorm.", f"{_TOWER}head.")) or name.endswith(".inv_freq")


def _check_complete(tensors: _Source, own: Mapping[str, Tensor], found: set[str], text_only: bool) -> None:
    lacking = []
    for name in own:
        optional = (_TOWER, _PROJECTOR) if text_only else (f"{_TOWER}post_layernorm.", f"{_TOWER}head.")
        if name not in found and (theirs := aria_name(name)) and not name.startswith(optional):
            lacking.append(theirs)
    if lacking:
        raise WeightsError(f"{tensors.label}: missing: {_some(lacking)}. {_WAY_OUT}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _fit(name: str, own: Tensor, theirs: Tensor, model: TimeExpert) -> tuple[Tensor, Tensor]:
    """Where ARIA's values go and which of them: the first slots, the first queries, every n-th position."""
    if name.endswith(_PER_EXPERT):
        return own[: model.config.moe_config.num_experts], theirs
    if name == _QUERY and len(own) <= len(theirs):
        return own, theirs[: len(own)]  # ARIA itself reads the first n
    if name == _POSITIONS and len(own) < len(theirs):
        rows = _positions(len(own), len(theirs))
        return own, theirs if rows is None else theirs[rows.to(theirs.device)]
    return own, theirs


def _positions(own: int, theirs: int) -> Tensor | None:
    """Rows of a square position table that the tower reads for a smaller picture (a 35x35 one of 70x70: every
    second row and column): its position is the bucket of the fraction i / side."""
    side, large = round(own**0.5), round(theirs**0.5)
    if side**2 != own or large**2 != theirs:
        return None
    at = torch.arange(side) * large // side
    return (at[:, None] * large + at).flatten()


def to_aria(model: TimeExpert, spelling: Spelling = "released") -> dict[str, Tensor]:
    """ARIA's state dict of this model; :func:`left_out` names what ARIA has no place for.

    Only active experts are written. Raises :class:`WeightsError` where the layers have different numbers of them,
    or where there is no projector.
    """
    if model.frame_encoder.projector is None and spelling != "text":
        raise WeightsError(f"compressor ({model.config.compressor!r}) replaces ARIA's projector: no ARIA can be made.")
    active_experts(model)
    out = {}
    for name, tensor in model.state_dict().items():
        theirs = aria_name(name, spelling)
        if theirs is None:
            continue
        if name.endswith(_PER_EXPERT):
            active = model.gates[int(name.split(".")[2])].active_experts
            tensor = tensor if bool(active.all()) else tensor[active]
        out[theirs] = tensor
    return out


def left_out(model: TimeExpert) -> list[str]:
    """Our tensors that :func:`to_aria` does not write."""
    return [name for name in model.state_dict() if aria_name(name) is None]


def active_experts(model: TimeExpert) -> int:
    """Active experts of every layer. Raises :class:`WeightsError` where layers differ: ARIA has one number."""
    counts = sorted({int(gate.active_experts.sum()) for gate in model.gates})
    if len(counts) > 1:
        raise WeightsError(f"layers have {counts[0]} to {counts[-1]} active experts; ARIA needs the same in all.")
    return counts[0]


def aria_config(model: TimeExpert) -> AriaConfig:
    """ARIA's config for the weights of :func:`to_aria`. Its router is top-k, whatever ours was."""
    ours, moe = model.config, model.config.moe_config
    text: dict[str, Any] = {k: v for k, v in ours.text_config.to_dict().items() if k != "model_type"}
    text |= {"intermediate_size": moe.expert_dim, "moe_num_experts": active_experts(model), "moe_topk": moe.top_k}
    text |= {"moe_num_shared_experts": moe.num_shared_experts}
    queries = dict(ours.projector_queries)
    if ours.compressor == "queries":
        queries = dict.fromkeys(queries, ours.tokens_per_frame)
    config = AriaConfig(
        vision_config=ours.vision_config.to_dict(), text_config=text, projector_patch_to_query_dict=queries
    )
    config.architectures, config.dtype = ["AriaForConditionalGeneration"], ours.dtype
    return config
