from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from timeexpert.reports import ReportError, expert_weights
from timeexpert.reports.expert_weights import DUPLICATE_FROM, DecoderSizes, find_weights, read_weights

from .weights import DIM, EXPERT_DIM, expert_tensors, write_model

MOE = "decoder.layers.0.moe."
SIZES = DecoderSizes(
    layers=2,
    model_dim=4,
    query_dim=4,
    key_value_dim=2,
    expert_dim=3,
    shared_experts=1,
    slots=8,
    wanted_k=2,
    router="topany",
    bytes_per_weight=2,
)


def test_bytes_and_flops_of_a_token_by_hand():
    assert SIZES.expert_weights == 36  # 4 x 6 for gate and up, 3 x 4 for down
    assert SIZES.fixed_weights == (4 * 4 + 2 * 4 * 2 + 4 * 4) + 8 * 4 + 36  # q, k and v, o; gate rows; shared expert
    cost = SIZES.cost([1.0, 2.0])
    assert cost.mean_k == 1.5
    assert cost.bytes == 3 * 36 * 2
    assert cost.expert_flops == 2 * 3 * 36
    assert cost.decoder_flops == 2 * (3 * 36 + 2 * (48 + 32 + 36))


def test_the_formula_counts_the_weights_that_a_real_decoder_has(tiny_run: Path):
    from timeexpert.predict import load_model

    folder = tiny_run / "models" / "sft"
    decoder = load_model(folder).decoder
    sizes = read_weights(folder, similarity=False).sizes
    counted = {n: p.numel() for n, p in decoder.named_parameters() if "norm" not in n and "threshold" not in n}
    routed = sum(n for name, n in counted.items() if ".experts." in name)
    assert routed == sizes.layers * sizes.slots * sizes.expert_weights
    assert sum(counted.values()) - routed == sizes.layers * sizes.fixed_weights


def test_costs_are_compared_with_six_experts_and_with_the_wanted_number(tmp_path):
    weights = read_weights(write_model(tmp_path, expert_tensors(2, 8)))
    assert [(name, cost.mean_k) for name, cost in weights.costs([1.0, 1.5]).items()] == [
        ("measured", 1.25),
        ("k = 6", 6.0),
        ("wanted k = 2", 2.0),
    ]
    same = read_weights(write_model(tmp_path / "six", expert_tensors(2, 8), top_k=6))
    assert list(same.costs([6.0, 6.0])) == ["measured", "k = 6"]


def test_similarity_is_the_cosine_of_gate_rows_and_of_all_weights_of_an_expert(tmp_path):
    tensors = expert_tensors(1, 3)
    [layer] = read_weights(write_model(tmp_path, tensors)).similarity
    gate = tensors[f"{MOE}gate.weight"]
    flat = torch.cat([tensors[f"{MOE}experts.{name}"].flatten(1) for name in ("gate_up_proj", "down_proj")], 1)
    for found, rows in ((layer.gate, gate), (layer.experts, flat)):
        wanted = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        assert found == pytest.approx(wanted.numpy(), abs=1e-6)
    assert layer.active == [True] * 3


def test_large_layers_are_read_in_pieces_with_the_same_result(tmp_path, monkeypatch):
    folder = write_model(tmp_path, expert_tensors(1, 3))
    [whole] = read_weights(folder).similarity
    monkeypatch.setattr(expert_weights, "ROWS_AT_ONCE", 1)
    [pieces] = read_weights(folder).similarity
    assert pieces.experts == pytest.approx(whole.experts, abs=1e-6)


def test_duplicates_are_active_experts_whose_weights_are_nearly_the_same(tmp_path):
    tensors = expert_tensors(1, 4)
    for name in ("gate_up_proj", "down_proj"):
        rows = tensors[f"{MOE}experts.{name}"]
        rows[2] = 3 * rows[0]  # the same direction: cosine 1
        rows[3] = rows[0]  # as well, but of a slot that is not active
    tensors[f"{MOE}gate.active_experts"][3] = False
    [layer] = read_weights(write_model(tmp_path, tensors)).similarity
    [(a, b, cosine, gate)] = layer.duplicates
    assert (a, b) == (0, 2) and cosine == pytest.approx(1.0) and cosine >= DUPLICATE_FROM
    assert gate == pytest.approx(float(layer.gate[0, 2])) and abs(gate) < DUPLICATE_FROM
    assert {(i, j) for i, j, _ in layer.nearest(layer.experts)} >= {(0, 2), (2, 0)}
    assert len(layer.nearest(layer.experts)) == 3


def test_an_empty_slot_of_zeros_is_like_nothing_and_one_expert_has_no_neighbour(tmp_path):
    tensors = expert_tensors(1, 2)
    for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
        tensors[f"{MOE}{name}"][1] = 0.0
    tensors[f"{MOE}gate.active_experts"][1] = False
    [layer] = read_weights(write_model(tmp_path, tensors)).similarity
    assert layer.experts[0, 1] == 0.0 and np.isfinite(layer.gate).all()
    assert layer.nearest(layer.gate) == [] and layer.duplicates == []


def test_weights_in_several_files_and_in_bfloat16_are_read(tmp_path):
    tensors = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in expert_tensors(1, 3).items()}
    whole = read_weights(write_model(tmp_path / "whole", tensors))
    folder = write_model(tmp_path / "parts", tensors)
    (folder / "model.safetensors").unlink()
    table = {name: f"model-{i:05d}-of-{len(tensors):05d}.safetensors" for i, name in enumerate(tensors, 1)}
    for name, file in table.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    parts = read_weights(folder)
    assert parts.similarity[0].experts == pytest.approx(whole.similarity[0].experts)
    assert parts.sizes == whole.sizes and whole.sizes.bytes_per_weight == 2
    assert find_weights(folder) == folder


def test_without_similarity_no_layer_is_compared(tmp_path):
    weights = read_weights(write_model(tmp_path, expert_tensors(2, 3)), similarity=False)
    assert weights.similarity == [] and weights.sizes.layers == 2
    assert weights.sizes.expert_weights == 3 * DIM * EXPERT_DIM


def test_the_newest_model_of_a_run_or_of_a_stage_is_found(tmp_path):
    assert find_weights(tmp_path) is None
    tensors = expert_tensors(1, 2)
    first = write_model(tmp_path / "models" / "warm", tensors, stage="warm", global_step=9)
    write_model(tmp_path / "models" / ".sft.part", tensors, global_step=99)  # half-written
    assert find_weights(tmp_path) == first
    folder = write_model(tmp_path / "checkpoints" / "sft-0000005", tensors)
    (folder / "inference.json").unlink()
    (folder / "trainer.json").write_text(json.dumps({"stage": "sft", "step": 5, "global_step": 14}))
    assert find_weights(tmp_path) == folder
    assert find_weights(tmp_path, "warm") == first
    assert find_weights(tmp_path, "rl") is None
    assert read_weights(folder).global_step == 14


def test_weights_that_are_not_finite_are_named(tmp_path):
    tensors = expert_tensors(2, 3)
    tensors["decoder.layers.1.moe.experts.down_proj"][2, 0, 0] = float("nan")
    folder = write_model(tmp_path, tensors)
    with pytest.raises(
        ReportError, match=r"layers.1.moe.experts.gate_up_proj.* of expert 2 holds numbers that are not"
    ):
        read_weights(folder)


def test_damaged_and_foreign_model_folders_are_refused_by_file_and_field(tmp_path):
    folder = write_model(tmp_path, expert_tensors(2, 2))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ReportError, match=r"config.json: text_config.hidden_size \('wide'\) must be a whole number"):
        read_weights(folder)
    (folder / "config.json").write_text(json.dumps(config | {"moe": {"num_exprts": 3}}))
    with pytest.raises(ReportError, match=r"config.json: .*num_exprts"):
        read_weights(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(ReportError, match=r"config.json: cannot be read: .*Use another checkpoint"):
        read_weights(folder)
    write_model(
        folder, {k: v for k, v in expert_tensors(2, 2).items() if k != "decoder.layers.1.moe.experts.down_proj"}
    )
    with pytest.raises(ReportError, match=r"its weights have no decoder.layers.1.moe.experts.down_proj"):
        read_weights(folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ReportError, match=r"model.safetensors: cannot be read"):
        read_weights(folder)
