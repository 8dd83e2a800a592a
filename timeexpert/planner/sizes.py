"""Parameters of a stage, counted on the model itself: built on the meta device, frozen and given its optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from timeexpert.families.timeexpert.settings import PREFIXES
from timeexpert.model import TimeExpert
from timeexpert.stages.config import RunConfig, StageConfig
from timeexpert.stages.models import model_config
from timeexpert.stages.muon import Muon
from timeexpert.stages.optim import build_optimizers, freeze
from timeexpert.tokenization.text import load_text

ARIA_VOCABULARY = 100352
# Numbers that an optimizer keeps per trained weight.
STATES: dict[type[torch.optim.Optimizer], int] = {torch.optim.AdamW: 2, Muon: 1, torch.optim.SGD: 0}


@dataclass(frozen=True)
class Count:
    """Weights of one unit: all, those that train, and numbers that the optimizer keeps for them."""

    weights: int = 0
    trained: int = 0
    states: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.weights + other.weights, self.trained + other.trained, self.states + other.states)

    def __mul__(self, times: int) -> Count:
        return Count(self.weights * times, self.trained * times, self.states * times)


@dataclass(frozen=True)
class ModelSizes:
    """What one stage trains of a model, by the units that are sharded together (``TimeExpert.sharding_units``).

    ``layer``, ``experts``, ``gate``: of each decoder layer; gates are whole on every GPU. ``frames``: the frame
    encoder, ``embedding``: all tables, ``root``: last norm and heads. ``parts``: by the names that stages use.
    ``active``: weights that a token passes with ``top_k`` routed experts, embeddings and heads counted, the frame
    encoder not.
    ``largest``: weights of the largest trained tensor.
    """

    layer: Count
    experts: Count
    gate: Count
    frames: Count
    embedding: Count
    root: Count
    num_layers: int
    parts: dict[str, Count]
    active: int
    largest: int

    @property
    def dense(self) -> Count:
        """All that is sharded and no expert."""
        return self.layer * self.num_layers + self.frames + self.embedding + self.root

    @property
    def total(self) -> Count:
        """The whole model."""
        return self.dense + (self.experts + self.gate) * self.num_layers


def vocabulary(config: RunConfig, size: int | None = None) -> tuple[int, str | None]:
    """Text pieces of a run's tokenizer; where it is not on this machine an assumption, and a note that says so."""
    if size is not None:
        return size, None
    if config.text.tokenizer == "train":
        return config.text.vocab_size, None
    if Path(config.text.tokenizer).exists():
        return load_text(config.text.tokenizer).vocab_size, None
    note = f"text.tokenizer ({config.text.tokenizer}) is not here: {ARIA_VOCABULARY} text pieces, as ARIA."
    return ARIA_VOCABULARY, f"{note} --vocab-size says another number."


def build_on_meta(config: RunConfig, vocab_size: int) -> TimeExpert:
    """The run's model without memory for its weights."""
    text: Any = SimpleNamespace(vocab_size=vocab_size, pad_id=0, eos_id=0)  # what model_config asks of a tokenizer
    with torch.device("meta"):
        return TimeExpert(model_config(config, text))


def model_sizes(model: TimeExpert, stage: StageConfig) -> ModelSizes:
    """Counts of one stage; freezes ``model`` as the stage does."""
    trained = set(freeze(model, stage))
    states: dict[int, int] = {}
    for optimizer in build_optimizers(model, stage):
        for group in optimizer.param_groups:
            states |= {id(p): STATES[type(optimizer)] * p.numel() for p in group["params"]}
    units = dict.fromkeys(("layer", "experts", "gate", "frames", "embedding", "root"), Count())
    parts = dict.fromkeys(PREFIXES, Count())
    for name, parameter in model.named_parameters():
        count = _count(parameter, name in trained, states)
        units[_unit(name)] += count
        parts[next(part for part, prefixes in PREFIXES.items() if name.startswith(prefixes))] += count
    layers, moe = len(model.moe_layers), model.moe_layers[0].gate.config
    for name in ("layer", "experts", "gate"):
        whole = units[name]
        units[name] = Count(whole.weights // layers, whole.trained // layers, whole.states // layers)
    per_expert = units["experts"].weights // moe.slots
    active = layers * (units["layer"].weights + units["gate"].weights + moe.top_k * per_expert)
    active += units["embedding"].weights + units["root"].weights
    largest = max(p.numel() for name, p in model.named_parameters() if name in trained)
    return ModelSizes(**units, num_layers=layers, parts=parts, active=active, largest=largest)


def _unit(name: str) -> str:
    """The unit that a parameter of this name is sharded with."""
    if ".moe.experts." in name:
        return "experts"
    if ".moe.gate." in name:
        return "gate"
    prefixes = {"decoder.layers.": "layer", "frame_encoder.": "frames", "embedding.": "embedding"}
    return next((unit for prefix, unit in prefixes.items() if name.startswith(prefix)), "root")


def _count(parameter: nn.Parameter, trained: bool, states: dict[int, int]) -> Count:
    size = parameter.numel()
    return Count(size, size if trained else 0, states.get(id(parameter), 0))
