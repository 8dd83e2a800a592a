"""ZeRO steps and edits as one process does, and its checkpoints go on under the other engine.

The training loop with it is in tests/stages/test_parallel_training.py, beside the other layouts.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parallel.test_engine import SLOTS, Model
from tests.ranks import cut, needs_deepspeed, run_ranks, train_ranks
from tests.stages.test_parallel_training import assert_same_training, changes, stop_at_7
from tests.tiny import config_tree, rows, run_config, train, write_config
from timeexpert.cli import main
from timeexpert.config import ConfigError
from timeexpert.errors import UserError
from timeexpert.moe.rows import read_row, write_row
from timeexpert.parallel import OneProcess, ParallelConfig, engine, start
from timeexpert.stages.config import StageConfig
from timeexpert.stages.optim import build_optimizers

SHARING = [{"zero": 1}, {"zero": 2}, {"zero": 3}, {"zero": 2, "offload": True}, {"zero": 3, "offload": True}]


def zero(**more: Any) -> dict[str, Any]:
    """``parallel`` of a run with DeepSpeed."""
    return {"engine": "deepspeed", **more}


@dataclass(frozen=True)
class Output:
    """Of a training step."""

    loss: Tensor


class Trained(Model):
    """The model of the other engine's tests, with a loss; ``frozen`` is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = torch.nn.Linear(4, 5).requires_grad_(False)  # an odd number of weights: two ranks share unevenly
        torch.nn.init.ones_(self.frozen.weight)
        torch.nn.init.zeros_(self.frozen.bias)

    def training_step(self, x: Tensor) -> Output:
        """x (B, S, 4)."""
        return Output((self(x) - self.frozen(x)[..., :4]).square().sum())


def few_steps(runs_in: OneProcess, optimizer: str, discarded: bool) -> dict[str, Any]:
    """Norms, weights and moments after steps of two micro-batches on each of two ranks, or four on one, with an edit of
    an expert between them. ``discarded``: a step with gradients that are not finite is prepared and not made."""
    model = Trained()
    stage = StageConfig(name="s", kind="sft", steps=9, mix={"v": 1}, optimizer=optimizer, lr=1e-2, weight_decay=0.5)  # type: ignore[arg-type]
    runs_in.shard(model, [model.into], ("training_step",))
    optimizers = runs_in.optimizers(build_optimizers(model, stage))
    for group in (group for each in optimizers for group in each.param_groups):
        group["lr"] = 1e-2
    model.moe.gate.active_experts[4] = False
    trained = [p for p in model.parameters() if p.requires_grad]
    stacked, norms = model.moe.experts.gate_up_proj, []

    def gradients(seed: int, times: float = 1.0) -> float:
        data = torch.randn(4, 2, 3, 4, generator=torch.Generator().manual_seed(seed)).chunk(runs_in.world_size)
        own = data[runs_in.rank]
        for i, x in enumerate(own):
            runs_in.backward(times * model.training_step(x).loss, last=i + 1 == len(own))
        runs_in.reduce_gradients(trained)
        return runs_in.clip_grad_norm_(trained, 1.0)

    for step in range(4):
        if discarded and step == 2:
            assert not math.isfinite(gradients(17, math.nan))
            for each in optimizers:
                each.zero_grad(set_to_none=True)
        norms.append(gradients(step))
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
        if step == 1:
            with torch.no_grad(), runs_in.whole([stacked]):
                write_row(stacked, 4, read_row(stacked, 1) + 1.0)
            for each in optimizers:
                if stacked in each.state:
                    for name, moment in list(each.state[stacked].items()):
                        if moment.shape[:1] == (SLOTS,):
                            write_row(moment, 4, read_row(moment, 1))
                            each.state[stacked][name] = moment
    names = {p: n for n, p in model.named_parameters()}
    moments = {
        f"{names[p]}.{name}": value.clone()
        for each in optimizers
        for p, state in each.state.items()
        for name, value in state.items()
    }
    return {"norms": norms, "weights": runs_in.weights(model), "moments": moments}


def few_zero_steps(config: ParallelConfig, optimizer: str, discarded: bool) -> dict[str, Any]:
    """A job: :func:`few_steps`."""
    with start(config, SLOTS, "cpu") as (runs_in, _):
        return few_steps(runs_in, optimizer, discarded)


@needs_deepspeed
@pytest.mark.parametrize("parallel", SHARING, ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_zero_clips_decays_steps_and_edits_rows_as_one_process_does(optimizer: str, parallel: dict[str, Any]) -> None:
    alone = few_steps(OneProcess(), optimizer, False)
    assert min(alone["norms"]) > 2.0  # all are clipped
    main_rank, other = run_ranks(2, cut, few_zero_steps, ParallelConfig(**zero(**parallel)), optimizer, True)
    assert main_rank["norms"] == pytest.approx(alone["norms"], rel=1e-5) and other["norms"] == main_rank["norms"]
    assert not other["weights"]
    for kind in ("weights", "moments"):
        assert main_rank[kind].keys() == alone[kind].keys()
        for name, value in alone[kind].items():
            torch.testing.assert_close(main_rank[kind][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_moves_between_the_engines_at_a_checkpoint(stage: int, tiny_data: Path, tmp_path: Path) -> None:
    def config(**parallel: Any) -> Any:
        return run_config(tiny_data, **changes(tiny_data, "adamw", 10, **parallel))

    shared = config(**zero(zero=stage))
    train(config(), tmp_path / "alone")
    run_ranks(2, cut, stop_at_7, shared, tmp_path / "zero")
    run_ranks(2, stop_at_7, config(expert=2), tmp_path / "torch")
    for name in ("zero", "torch"):
        assert [p.name for p in (tmp_path / name / "checkpoints").iterdir()] == ["sft-0000007"]
    shutil.copytree(tmp_path / "zero", tmp_path / "one")
    train(config(), tmp_path / "one")
    run_ranks(2, train_ranks, config(expert=2), tmp_path / "zero")
    run_ranks(2, cut, train_ranks, shared, tmp_path / "torch")
    for name in ("one", "zero", "torch"):
        assert_same_training(tmp_path / name, tmp_path / "alone", 1e-6)


@needs_deepspeed
def test_stages_that_train_other_parts_follow_each_other(tiny_data: Path, tmp_path: Path) -> None:
    _, sft = config_tree(tiny_data)["stages"]
    sft |= {"steps": 3, "accumulate": 2, "optimizer": "adamw"}
    stages = [{**sft, "name": "task_modules", "kind": "task_modules", "evaluate": False}, sft]
    train(run_config(tiny_data, stages=stages), tmp_path / "alone")
    run_ranks(2, cut, train_ranks, run_config(tiny_data, stages=stages, parallel=zero(zero=3)), tmp_path / "zero")
    assert_same_training(tmp_path / "zero", tmp_path / "alone")
    evals = [rows(tmp_path / name / "metrics.jsonl", "eval") for name in ("zero", "alone")]
    assert [row["questions"] for row in evals[0]] == [row["questions"] for row in evals[1]] != []


def test_a_run_without_deepspeed_is_told_what_to_install(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    stages = config_tree(tiny_data)["stages"][:1]
    config = write_config(tiny_data, tmp_path / "tiny.yaml", stages=stages, parallel=zero(zero=2))
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    words = "parallel.engine ('deepspeed') needs DeepSpeed, which is not installed. Install it: DS_BUILD_OPS=0 pip"
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_offload_without_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda _: object())
    words = r"parallel.offload \(true\) needs DeepSpeed's processes"
    with pytest.raises(UserError, match=words), start(ParallelConfig(**zero(zero=2, offload=True)), SLOTS, "cpu"):
        pass


def test_muon_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stages.sft.optimizer \('muon'\) needs whole matrices"):
        run_config(tmp_path, parallel=zero(zero=1))


def test_plan_says_that_it_knows_the_other_engine_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "aria", "parallel.engine=deepspeed", "parallel.zero=2", "--vocab-size", "512"]) == 2
    assert "parallel.engine ('deepspeed') is not one that the planner knows" in capsys.readouterr().err
