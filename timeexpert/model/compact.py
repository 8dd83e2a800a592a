"""A model without its empty expert slots: smaller tensors, the same answers."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from .timeexpert import TimeExpert

# tensors of a MoE layer with one row (or, for the rates, one column) per slot
_ROWS = ("gate.weight", "gate.threshold", "gate.active_experts", "experts.gate_up_proj", "experts.down_proj")
_COLUMNS = ("gate.activation_rates",)


def compact(model: TimeExpert) -> TimeExpert:
    """A copy of ``model`` with as many slots as its fullest layer has experts, and at least ``top_k``.

    Experts stay in their order, and layers with fewer keep some empty slots. In float32, router ``topany`` gives the
    same logits to the last bit (unless a score lies within rounding of its threshold); ``topk`` gives them but for
    rounding, as its softmax is of a product with fewer rows. Training can go on from the copy, but adds no
    expert to a full layer: ``max_experts`` is the new number of slots.
    """
    moe = model.config.moe_config
    slots = max(moe.top_k, *(int(gate.active_experts.sum()) for gate in model.gates))
    config = deepcopy(model.config)
    config.moe = {**config.moe, "num_experts": slots, "max_experts": None}
    with no_init_weights():
        small = TimeExpert(config)
    state = model.state_dict()
    for index, gate in enumerate(model.gates):
        prefix, kept = f"decoder.layers.{index}.moe.", _kept(gate.active_experts, slots)
        for name in (*_ROWS, *_COLUMNS):
            if (tensor := state.get(prefix + name)) is not None:
                state[prefix + name] = tensor[:, kept] if name in _COLUMNS else tensor[kept]
    small.load_state_dict(state, assign=True)
    return small.eval()


def _kept(active_E: Tensor, slots: int) -> Tensor:
    """The slots that stay, in order: all active ones, filled up with the first empty ones."""
    first = torch.argsort(~active_E, stable=True)[:slots]
    return first.sort().values
