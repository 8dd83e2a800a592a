"""Counts are read off the model, stage by stage."""

from __future__ import annotations

from timeexpert.config import load
from timeexpert.paths import packaged_config
from timeexpert.planner import StageModel
from timeexpert.planner.sizes import ARIA_VOCABULARY, Count, build_on_meta, model_sizes, vocabulary
from timeexpert.stages.config import RunConfig


def test_the_papers_model_has_the_published_number_of_weights(sft: StageModel):
    sizes = sft.sizes
    assert round(sizes.total.weights / 1e9, 1) == 25.3
    assert round(sizes.active / 1e9, 1) == 4.1
    assert sizes.num_layers == 28
    # attention, shared experts, two norms; 64 experts of three matrices
    assert sizes.layer.weights == 4 * 2560**2 + 3 * 2560 * 3328 + 2 * 2560
    assert sizes.experts.weights == 64 * 3 * 2560 * 1664


def test_the_units_and_the_parts_are_the_whole_model(aria: RunConfig):
    model = build_on_meta(aria, ARIA_VOCABULARY)
    every = sum(parameter.numel() for parameter in model.parameters())
    for stage in aria.stages:
        sizes = model_sizes(model, stage)
        assert sizes.total.weights == every
        assert sum(sizes.parts.values(), Count()) == sizes.total


def test_what_is_frozen_has_neither_gradients_nor_optimizer_states(aria: RunConfig):
    model = build_on_meta(aria, ARIA_VOCABULARY)
    for stage in aria.stages:
        sizes = model_sizes(model, stage)
        for part, count in sizes.parts.items():
            trained = count.weights if part in stage.parts else 0
            assert (count.trained, count.states) == (trained, 2 * trained), (stage.name, part)


def test_muon_keeps_one_number_for_a_matrix_of_the_decoder():
    config = load(RunConfig, packaged_config("tiny"))
    stage = next(stage for stage in config.stages if stage.optimizer == "muon")
    sizes = model_sizes(build_on_meta(config, 400), stage)
    matrices = sizes.layer.weights - 2 * 128  # without the norms
    assert sizes.layer.states == matrices + 2 * 2 * 128
    assert sizes.experts.states == 2 * sizes.experts.weights


def test_a_tokenizer_that_is_not_here_is_an_assumption_that_is_said(aria: RunConfig):
    size, note = vocabulary(aria)
    assert size == ARIA_VOCABULARY
    assert note is not None and "100352 text pieces" in note and "--vocab-size" in note
    assert vocabulary(aria, 500) == (500, None)
    tiny = load(RunConfig, packaged_config("tiny"))
    assert vocabulary(tiny) == (400, None)
