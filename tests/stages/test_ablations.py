"""The paper's ablations as configs: each trains, and its records show the one thing that it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import rows, train
from timeexpert.config import load, to_tree
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig

NAMES = ("fixed", "no_task_loss", "no_task_routing", "topk2", "topk6", "trace")


def ablation(name: str, tiny_data: Path, *settings: str) -> RunConfig:
    """The config with four steps of its backbone stage, on the tests' own data."""
    small = (f"data.root={tiny_data}", "data.eval=null", "text.vocab_size=320", "stages.backbone.steps=4")
    logs = ("train.threads=1", "train.log_every=1", "train.experts_every=1", "stages.backbone.batch_videos=2")
    return load(RunConfig, config_path(name), [*small, *logs, *settings])


def run(name: str, tiny_data: Path, out: Path, *settings: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the losses, and the layers of all records of experts."""
    train(ablation(f"ablations/{name}", tiny_data, *settings), out, only=["backbone"])
    records = rows(out / "metrics.jsonl", "experts")
    return rows(out / "metrics.jsonl", "train"), [layer for record in records for layer in record["layers"]]


def test_an_ablation_differs_from_the_tiny_config_in_its_gate_alone(tiny_data: Path) -> None:
    tiny = to_tree(ablation("tiny", tiny_data))
    for name in NAMES:
        other = to_tree(ablation(f"ablations/{name}", tiny_data))
        assert other["model"].pop("moe") != tiny["model"]["moe"] and other.pop("name") == name
        rest = {**tiny, "model": {k: v for k, v in tiny["model"].items() if k != "moe"}}
        assert {**other, "name": tiny["name"]} == rest
    assert {**to_tree(ablation("ablations/adaptive", tiny_data)), "name": tiny["name"]} == tiny  # as tiny is


def test_without_the_adaptive_process_no_expert_comes_or_goes(tiny_data: Path, tmp_path: Path) -> None:
    _, layers = run("fixed", tiny_data, tmp_path)
    assert all(layer["active"] == [True] * 6 for layer in layers)
    assert rows(tmp_path / "metrics.jsonl", "expert_edit") == []


@pytest.mark.parametrize(("name", "k"), [("topk2", 2), ("topk6", 6), ("trace", 1)])
def test_vanilla_routers_give_every_token_k_experts(name: str, k: int, tiny_data: Path, tmp_path: Path) -> None:
    losses, layers = run(name, tiny_data, tmp_path)
    assert {layer["mean_k"] for layer in layers} == {k} and {layer["fallback"] for layer in layers} == {0}
    assert all("aux_loss" not in row and row["z_loss"] > 0 for row in losses)


def test_without_task_routing_history_changes_no_decision(tiny_data: Path, tmp_path: Path) -> None:
    _, layers = run("no_task_routing", tiny_data, tmp_path)
    assert {(layer["alpha"], layer["flipped"]) for layer in layers} == {(0.0, 0.0)}


def test_without_the_task_loss_it_is_zero(tiny_data: Path, tmp_path: Path) -> None:
    losses, _ = run("no_task_loss", tiny_data, tmp_path)
    assert [row["aux_loss"] for row in losses] == [0.0] * 4


def test_the_adaptive_process_adds_and_removes(tiny_data: Path, tmp_path: Path) -> None:
    often = ("model.moe.adaptive.update_every=1", "model.moe.adaptive.add_share=0", "model.moe.adaptive.tau_min=0.2")
    _, layers = run("adaptive", tiny_data, tmp_path, *often)
    assert all(len(layer["active"]) == 8 for layer in layers)
    edits = rows(tmp_path / "metrics.jsonl", "expert_edit")
    assert {edit["action"] for edit in edits} == {"add", "remove"}
    assert {edit["step"] for edit in edits} <= {1, 2, 3}  # none after the last step
