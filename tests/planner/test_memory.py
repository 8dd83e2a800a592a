"""Memory by degrees; what real steps allocate is compared in test_check_planner.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timeexpert.parallel import Degrees
from timeexpert.planner import Layout, StageModel
from timeexpert.planner.memory import KINDS, Moment, peak
from timeexpert.planner.plan import memory

ONE = Layout(degrees=Degrees(), micro_batch=2, accumulate=2)


def test_degrees_divide_weights_gradients_and_states(sft: StageModel):
    sizes = sft.sizes
    gates = 4 * sizes.gate.weights * sizes.num_layers
    alone, spread = (peak(memory(sft, replace(ONE, degrees=degrees))) for degrees in (Degrees(), Degrees(2, 16, 8)))
    assert alone.parameters == 4 * sizes.total.weights
    assert spread.parameters == pytest.approx((alone.parameters - gates) / 16 + gates)
    assert spread.optimizer == pytest.approx(2 * spread.gradients)


def test_experts_on_more_ranks_than_weights_are_sharded_over(sft: StageModel):
    moment = memory(sft, replace(ONE, degrees=Degrees(8, 1, 8)))[0]
    sizes, layers = sft.sizes, sft.sizes.num_layers
    whole = sizes.dense.weights + sizes.gate.weights * layers
    assert moment.parameters == pytest.approx(4 * (whole + sizes.experts.weights * layers / 8))


def test_checkpointing_leaves_one_layer_and_the_layers_inputs(sft: StageModel):
    off, on = (
        max(m.activations for m in memory(sft, replace(ONE, gradient_checkpointing=again)) if "decoder" in m.phase)
        for again in (False, True)
    )
    assert on < off / 5


def test_first_micro_batch_needs_no_room_for_gradients(sft: StageModel):
    once, twice = (memory(sft, replace(ONE, accumulate=n)) for n in (1, 2))
    assert {m.gradients for m in once if m.phase == "heads forward"} == {0.0}
    assert next(m for m in twice if m.phase == "heads forward").gradients == 4 * sft.sizes.total.trained
    assert once[-1].gradients == twice[-1].gradients


def test_offload_leaves_the_gpu_what_is_in_use(sft: StageModel):
    moment = peak(memory(sft, replace(ONE, degrees=Degrees(1, 16, 8), offload=True)))
    assert moment.parameters == moment.gradients == moment.optimizer == 0.0
    assert moment.gathered > 0


def test_rows_of_other_ranks_need_buffers(sft: StageModel):
    for degrees, some in ((Degrees(1, 16, 1), False), (Degrees(1, 16, 8), True)):
        exchanged = [m.exchange for m in memory(sft, replace(ONE, degrees=degrees)) if m.phase == "decoder forward"]
        assert (max(exchanged) > 0) == some


def test_a_moment_is_the_sum_of_its_kinds():
    moment = Moment(phase="frames", **{kind: float(i) for i, kind in enumerate(KINDS)})
    assert moment.total == sum(range(len(KINDS)))
    assert moment.to_json()["total"] == moment.total
