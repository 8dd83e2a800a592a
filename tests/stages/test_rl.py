"""Reinforcement learning in the one loop: what is drawn, rewarded, optimised, written down and continued."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.ranks import run_ranks, train_ranks
from tests.tiny import STAGE, command, config_tree, rows, run_config, train, trainer_of, write_config
from timeexpert.config import ConfigError, from_tree
from timeexpert.evaluation.segment_rewards import CONVENTIONS, REWARDS, answer_of_events
from timeexpert.stages.rl import GrpoObjective
from timeexpert.stages.stopping import Stopped
from timeexpert.stages.train import EXIT_TERMINATED, run_and_report
from timeexpert.tokenization import EventSequence

PHASE: dict[str, Any] = {
    **STAGE,
    "kind": "rl",
    "tasks": ["moment_retrieval", "dense_captioning"],
    "num_frames": [4],
    "sampling": "uniform",
    "lr": 1e-3,
    "evaluate": False,
}
LIMITS = {"max_new_tokens": 40, "max_events": 2}
PHASES = [
    {**PHASE, "name": "phase1", "steps": 3, "rl": {**LIMITS, "group_size": 4}},
    {
        **PHASE,
        "name": "phase2",
        "steps": 8,
        "schedule": "linear",
        "rl": {
            **LIMITS,
            "group_size": 3,
            "rewards": {"format": 1, "segment_matching": 2},
            "prompt": "Say when. {question}",
            "updates_per_rollout": 2,
            "epsilon": 0.2,
        },
    },
]

WEIGHTS = {
    "phase1": {"format": 1, "global_matching": 1, "local_matching": 1},
    "phase2": {"format": 1, "segment_matching": 2},
}


def from_sft(tiny_run: Path, **changes: Any) -> dict[str, Any]:
    """Changes to the tiny config: the phases, from a finished model."""
    folder = str(tiny_run / "models" / "sft")
    tree = config_tree(tiny_run)
    return {
        "name": "rl",
        "model": {**tree["model"], "pretrained": folder},
        "text": {"tokenizer": folder},
        "stages": PHASES,
        "train": {**tree["train"], "checkpoint_every": 2},
        **changes,
    }


@pytest.fixture(scope="module")
def rl_run(tiny_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both phases, finished."""
    out = tmp_path_factory.mktemp("rl") / "run"
    train(run_config(tiny_data, **from_sft(tiny_run)), out)
    return out


def steps_of(run: Path, stage: str) -> list[dict[str, Any]]:
    return [row for row in rows(run / "metrics.jsonl", "train") if row["stage"] == stage]


def figures(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows(run / "metrics.jsonl")]


def test_the_policy_that_is_optimised_is_the_one_that_was_sampled(rl_run: Path) -> None:
    first = [row for row in steps_of(rl_run, "phase1")] + [r for r in steps_of(rl_run, "phase2") if r["step"] % 2]
    assert max(row["logprob_gap"] for row in first) < 1e-4  # drawn token by token, optimised in one packed pass
    later = [r["logprob_gap"] for r in steps_of(rl_run, "phase2") if r["step"] % 2 == 0]
    assert min(later) > 1e-4  # the second update on the same answers has other weights


def test_each_phase_starts_at_its_own_reference(rl_run: Path) -> None:
    for stage in ("phase1", "phase2"):
        kl = [row["kl"] for row in steps_of(rl_run, stage)]
        assert abs(kl[0]) < 1e-6 < kl[-1]


def test_rollouts_hold_questions_answers_rewards_and_advantages(rl_run: Path) -> None:
    told = rows(rl_run / "rollouts.jsonl")
    assert {row["stage"] for row in told} == {"phase1", "phase2"}
    # two questions a step; phase 2 draws answers anew at every second of its steps
    assert [row["global_step"] for row in told] == [s for s in (1, 2, 3, 4, 6, 8, 10) for _ in range(2)]
    rules = CONVENTIONS["strict"]
    for row in told:
        weights = WEIGHTS[row["stage"]]
        truth = EventSequence.from_json(row["truth"]).segments_s
        assert row["prompt"].startswith("Say when. ") == (row["stage"] == "phase2")
        for answer in row["answers"]:
            read = answer_of_events(EventSequence.from_json(answer["events"]).segments_s, answer["parsed"], rules)
            assert answer["rewards"] == {name: REWARDS[name](read, truth, rules) for name in weights}
            assert answer["reward"] == pytest.approx(sum(weights[n] * v for n, v in answer["rewards"].items()))
        rewards = np.array([answer["reward"] for answer in row["answers"]])
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        np.testing.assert_allclose([a["advantage"] for a in row["answers"]], advantages, atol=1e-5)
    assert any(len({str(a["events"]) for a in row["answers"]}) > 1 for row in told)


def test_a_page_of_rollouts_is_there_after_each_phase_and_after_a_stop(
    tiny_data: Path, tiny_run: Path, rl_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (rl_run / "rollouts.html").read_text(encoding="utf-8")
    assert "<h2>phase1</h2>" in page and "<h2>phase2</h2>" in page
    loss = GrpoObjective.loss

    def signalled(self: GrpoObjective, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *args)

    monkeypatch.setattr(GrpoObjective, "loss", signalled)
    with trainer_of(run_config(tiny_data, **from_sft(tiny_run)), tmp_path) as trainer:
        assert run_and_report(trainer) == EXIT_TERMINATED
    assert "<h3>2 of 2 questions</h3>" in (tmp_path / "rollouts.html").read_text(encoding="utf-8")


def test_metrics_say_rewards_spread_kl_entropy_length_and_what_teaches_nothing(rl_run: Path) -> None:
    told = rows(rl_run / "rollouts.jsonl")
    for step in steps_of(rl_run, "phase1"):
        own = [a for row in told if row["global_step"] == step["global_step"] for a in row["answers"]]
        assert step["reward"] == pytest.approx(np.mean([a["reward"] for a in own]))
        assert step["reward_local_matching"] == pytest.approx(np.mean([a["rewards"]["local_matching"] for a in own]))
        assert step["reward_format_std"] == pytest.approx(np.std([a["rewards"]["format"] for a in own]))
        assert step["answer_tokens"] == pytest.approx(np.mean([a["tokens"] for a in own]))
        assert step["parse_rate"] == 100.0 and 0 <= step["zero_variance"] <= 100 and step["entropy"] > 0
        assert step["loss"] == pytest.approx(step["loss_policy"] + step["loss_kl"], abs=1e-6)


def test_gates_keep_their_rates_and_thresholds_and_no_expert_statistics_are_written(
    rl_run: Path, tiny_run: Path
) -> None:
    before = load_file(tiny_run / "models" / "sft" / "model.safetensors")
    after = load_file(rl_run / "models" / "phase2" / "model.safetensors")
    kept = [name for name in before if name.endswith(("activation_rates", "active_experts"))]
    assert kept and all(before[name].equal(after[name]) for name in kept)
    tower = [name for name in before if name.startswith("frame_encoder.vision_tower")]
    assert tower and all(before[name].equal(after[name]) for name in tower)
    assert not before["heads.time.weight"].equal(after["heads.time.weight"])
    assert rows(rl_run / "metrics.jsonl", "experts") == []


def test_without_the_grammar_answers_may_not_parse_and_earn_nothing_then(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    phase = {**PHASE, "name": "free", "steps": 2, "rl": {**LIMITS, "group_size": 4, "grammar": False}}
    train(run_config(tiny_data, **from_sft(tiny_run, stages=[phase])), tmp_path)
    told = [answer for row in rows(tmp_path / "rollouts.jsonl") for answer in row["answers"]]
    broken = [answer for answer in told if not answer["parsed"]]
    assert broken and {answer["reward"] for answer in broken} == {0.0}
    steps = steps_of(tmp_path, "free")
    assert all(row["logprob_gap"] < 1e-4 for row in steps)
    share = 100 * (1 - len(broken) / len(told))
    assert np.mean([row["parse_rate"] for row in steps]) == pytest.approx(share)


def test_without_a_weight_of_the_kl_there_is_no_reference_and_no_kl(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    phase = {**PHASE, "name": "free", "steps": 1, "rl": {**LIMITS, "group_size": 4, "beta": 0}}
    train(run_config(tiny_data, **from_sft(tiny_run, stages=[phase])), tmp_path)
    (step,) = steps_of(tmp_path, "free")
    assert not {"kl", "loss_kl"} & step.keys() and step["loss"] == step["loss_policy"]
    assert step["grad_norm"] > 0


def test_a_step_that_is_not_finite_changes_nothing_and_its_answers_are_used_once_more(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**LIMITS, "group_size": 4, "updates_per_rollout": 2, "epsilon": 0.2}
    phase = {**PHASE, "name": "rl", "steps": 4, "rl": settings}
    loss, seen = GrpoObjective.loss, []

    def broken(self: GrpoObjective, batch: Any, counts: dict[str, float]) -> Any:
        seen.append((batch, {name: value.clone() for name, value in self.model.state_dict().items()}))
        out = loss(self, batch, counts)
        return replace(out, loss=out.loss * float("nan")) if len(seen) == 1 else out

    monkeypatch.setattr(GrpoObjective, "loss", broken)
    train(run_config(tiny_data, **from_sft(tiny_run, stages=[phase])), tmp_path)
    batches, states = zip(*seen, strict=True)
    assert batches[0].sampled.equal(batches[1].sampled) and not batches[0].sampled.equal(batches[2].sampled)
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert any(not states[1][name].equal(states[2][name]) for name in states[1])
    (row,) = rows(tmp_path / "metrics.jsonl", "nonfinite")
    told = rows(tmp_path / "rollouts.jsonl")
    assert (row["step"], row["problem"]) == (1, "the loss is nan")
    assert row["samples"] == [question["id"] for question in told if question["global_step"] == 1]
    assert [(r["step"], r["skipped_steps"]) for r in steps_of(tmp_path, "rl")] == [(2, 1), (3, 1), (4, 1)]


# The process waits for the test, so that a kill hits the same place on any machine.
GATED = """
import os, time
from timeexpert.stages import loop, rollouts, rl
def gate(number):
    if number == int(os.environ["WAIT_AT"]):
        open(os.environ["WAIT_FOR"], "w").close()
        while True:
            time.sleep(0.05)
if os.environ["WAIT_IN"] == "rollout":
    judged, count = rl.judged, [0]
    def wait(*args):
        count[0] += 1
        gate(count[0])
        return judged(*args)
    rl.judged = wait
else:
    loss = rl.GrpoObjective.loss
    count = [0]
    def wait(self, *args):
        count[0] += 1
        gate(count[0])
        return loss(self, *args)
    rl.GrpoObjective.loss = wait
"""


# One batch of two questions a step; rollouts at steps 1, 2, 3 of phase 1 and 1, 3, 5, 7 of phase 2. Checkpoints are
# written after steps 2, 4, 6. Question 12 is the second of phase 2's step 5; the 9th loss is that of its step 6.
@pytest.mark.slow
@pytest.mark.parametrize(("where", "number"), [("rollout", 12), ("update", 9)])
def test_a_run_killed_in_a_rollout_or_an_update_ends_as_if_it_had_not_been(
    tiny_data: Path, tiny_run: Path, rl_run: Path, tmp_path: Path, where: str, number: int
) -> None:
    changes = from_sft(tiny_run)
    config, run, there = write_config(tiny_data, tmp_path / "rl.yaml", **changes), tmp_path / "run", tmp_path / "there"
    _kill_when_there(config, run, there, where, number)
    assert (run / "checkpoints" / "phase2-0000004").is_dir() and not (run / "models" / "phase2").exists()
    train(run_config(tiny_data, **changes), run)
    assert figures(run) == figures(rl_run)
    assert rows(run / "rollouts.jsonl") == rows(rl_run / "rollouts.jsonl")
    ours, theirs = (load_file(r / "models" / "phase2" / "model.safetensors") for r in (run, rl_run))
    assert [name for name in ours if not ours[name].equal(theirs[name])] == []


def _kill_when_there(config: Path, run: Path, there: Path, where: str, number: int) -> None:
    gate = {"WAIT_IN": where, "WAIT_AT": str(number), "WAIT_FOR": str(there)}
    os.environ.update(gate)
    try:
        process: subprocess.Popen[str] = command("train", config, "--out", run, "--device", "cpu", code=GATED)
    finally:
        for name in gate:
            del os.environ[name]
    deadline = time.monotonic() + 600  # seconds on an idle machine; a busy one may take minutes
    try:
        while not there.exists():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_signal_between_two_updates_waits_for_the_last_so_that_the_run_goes_on_exactly(
    tiny_data: Path, tiny_run: Path, rl_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = from_sft(tiny_run)
    changes["train"] = {**changes["train"], "checkpoint_every": 8}  # none is due: only the signal asks for one
    loss, stages = GrpoObjective.loss, []

    def signalled(self: GrpoObjective, *args: Any) -> Any:
        stages.append(self.stage)
        if stages.count("phase2") == 3:  # the first of two updates on the same answers
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *args)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(GrpoObjective, "loss", signalled)
        train(run_config(tiny_data, **changes), tmp_path)
    assert [folder.name for folder in (tmp_path / "checkpoints").glob("phase2-*")] == ["phase2-0000004"]
    train(run_config(tiny_data, **changes), tmp_path)
    assert figures(tmp_path) == figures(rl_run)
    assert rows(tmp_path / "rollouts.jsonl") == rows(rl_run / "rollouts.jsonl")


def stage(**changes: Any) -> dict[str, Any]:
    return {**PHASE, "name": "rl", "steps": 4, "rl": LIMITS, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rl": None}, r"kind \('rl'\) and rl do not go together"),
        ({"kind": "sft"}, r"kind \('sft'\) and rl do not go together"),
        ({"tasks": ["general"]}, "tasks: general cannot be rewarded: their answers are no segments. Set tasks to some"),
        ({"questions_per_video": 2}, r"questions_per_video \(2\) must be 1 in an rl stage"),
        ({"questions_of": {name: 3 for name in PHASE["mix"]}}, r"questions_of\.\w+ \(3\) must be 1 in an rl stage"),
        ({"batch_videos": None, "batch_tokens": 4096}, r"batch_videos \(null\) must be a number in an rl stage"),
        ({"snap": "inside"}, r"snap \('inside'\) moves the times that answers are taught; an rl stage rewards"),
        ({"rl": {**LIMITS, "rewards": {"f1": 1}}}, "rewards: 'f1' is not one of format, format_timestamps"),
        ({"rl": {**LIMITS, "rewards": {"timestamps": 1}}}, "'timestamps' reads an answer's thinking, and answers is"),
        ({"rl": {**LIMITS, "rewards": {"format": 0}}}, "rewards is empty, or all weights are 0"),
        ({"rl": {**LIMITS, "prompt": "When?"}}, r"prompt \('When\?'\) must hold \{question\} once"),
        ({"rl": {**LIMITS, "group_size": 1}}, r"group_size \(1\) must be 2 or more"),
        ({"rl": {**LIMITS, "temperature": 0}}, r"temperature \(0.0\) must be positive"),
        ({"rl": {**LIMITS, "epsilon": 1.5}}, r"epsilon \(1.5\) must be between 0 and 1"),
        ({"rl": {**LIMITS, "max_new_tokens": 10}}, r"stages.rl.rl.max_new_tokens \(10\) must be 17 or more"),
        (
            {"rl": {**LIMITS, "updates_per_rollout": 2}},
            r"train.checkpoint_every \(3\) is not divisible by stages.rl.rl.updates_per_rollout \(2\).*Set it to 4",
        ),
    ],
)
def test_a_phase_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    from timeexpert.stages.config import RunConfig

    with pytest.raises(ConfigError, match=words):
        from_tree(RunConfig, config_tree(tmp_path, stages=[stage(**changes)]))


@pytest.mark.slow
def test_two_ranks_draw_the_same_answers_and_learn_the_same(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    settings = {**LIMITS, "group_size": 4, "updates_per_rollout": 2, "epsilon": 0.2}
    phase = {**PHASE, "name": "phase1", "steps": 4, "batch_videos": 1, "accumulate": 2, "optimizer": "sgd"}
    changes = from_sft(tiny_run, stages=[{**phase, "rl": settings}])
    alone, two = tmp_path / "alone", tmp_path / "two"
    train(run_config(tiny_data, **changes), alone)
    run_ranks(2, train_ranks, run_config(tiny_data, **changes), two)
    drawn = [[[a["events"] for a in row["answers"]] for row in rows(run / "rollouts.jsonl")] for run in (alone, two)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 4
    for ours, theirs in zip(steps_of(two, "phase1"), steps_of(alone, "phase1"), strict=True):
        for name in ("loss", "loss_policy", "loss_kl", "kl", "entropy", "reward", "zero_variance", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-7), (ours["step"], name)
