"""Runs that are killed or stopped, in real processes: what comes back is the unbroken run, to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.tiny import command, config_tree, rows, run_config, train, write_config

# Steps of sft wait here for the test, so that a kill hits the same step on any machine.
GATED = """
import os, time
from timeexpert.stages import loop
record = loop.StageRun._record
def wait_at(self, *args):
    record(self, *args)
    if self.stage.name == os.environ["WAIT_IN"] and self.step == int(os.environ["WAIT_AT"]):
        while not os.path.exists(os.environ["WAIT_FOR"]):
            time.sleep(0.02)
loop.StageRun._record = wait_at
"""


def start_gated(
    config: Path, out: Path, stage: str, step: int, *overrides: str, **process_options: Any
) -> subprocess.Popen[str]:
    """``timeexpert train`` that has recorded ``step`` of ``stage`` and waits; OUT/go lets it go on."""
    os.environ.update(WAIT_IN=stage, WAIT_AT=str(step), WAIT_FOR=str(out / "go"))
    try:
        process = command("train", config, *overrides, "--out", out, "--device", "cpu", code=GATED, **process_options)
    finally:
        for name in ("WAIT_IN", "WAIT_AT", "WAIT_FOR"):
            del os.environ[name]
    deadline = time.monotonic() + 300  # seconds on an idle machine; a busy one may take minutes
    try:
        while not any((r["stage"], r["step"]) == (stage, step) for r in read_whole_lines(out / "metrics.jsonl")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    except BaseException:
        process.kill()
        raise
    return process


def read_whole_lines(metrics: Path) -> list[dict[str, Any]]:
    text = metrics.read_text(encoding="utf-8") if metrics.is_file() else ""
    return [r for r in map(json.loads, text.rpartition("\n")[0].splitlines()) if r["kind"] == "train"]


def figures(run: Path) -> list[dict[str, Any]]:
    """All rows of metrics.jsonl but for what a clock measured."""
    return [{k: v for k, v in row.items() if k != "tokens_per_s"} for row in rows(run / "metrics.jsonl")]


def assert_same_run(run: Path, unbroken: Path) -> None:
    """Every loss, expert statistic and figure, the weights and the answers are equal to the last bit."""
    assert figures(run) == figures(unbroken)
    for stage in ("backbone", "sft"):
        ours, theirs = (load_file(r / "models" / stage / "model.safetensors") for r in (run, unbroken))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not ours[name].equal(theirs[name])] == []
    for name in ("sft.jsonl", "sft.noise_frames.jsonl"):
        assert (run / "predictions" / name).read_bytes() == (unbroken / "predictions" / name).read_bytes()


def test_two_runs_with_one_seed_are_equal_to_the_bit(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    train(run_config(tiny_data), tmp_path / "again")
    assert_same_run(tmp_path / "again", tiny_run)


def test_a_run_killed_in_the_middle_of_a_stage_ends_as_if_it_had_not_been(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config, run = write_config(tiny_data, tmp_path / "tiny.yaml"), tmp_path / "run"
    # checkpoints are written after steps 3 and 6; a data worker outlives its killed parent by seconds
    process = start_gated(config, run, "sft", 5, "data.num_workers=1")
    second = command("train", config, "--out", run)  # while the first one is alive
    try:
        said, _ = second.communicate(timeout=300)
        assert second.returncode == 2
        assert f"another process (pid {process.pid}) is writing into this run folder" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()
    assert not (run / "models" / "sft").exists()
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "stage": "sft", "step"')  # a row cut in half
    # the second half reads its videos in a worker process too; the unbroken run had none
    free = {"data": {**config_tree(tiny_data)["data"], "num_workers": 1}}
    train(run_config(tiny_data, **free), run)
    assert_same_run(run, tiny_run)
    assert list((run / "checkpoints").iterdir()) == []


# Everything of the gate that has a state of its own, and edits after every second step.
CHANGING: dict[str, Any] = {
    "max_experts": 5,
    "top_k": 1,
    "logit_scale": 5.0,
    "learn_scale": True,
    "alpha_warmup_steps": 6,
    "tracker": "window",
    "tracker_window": 5,
    "threshold_update": "mean_k",
    "fallback": "skip",
    "adaptive": {"enabled": True, "update_every": 2, "tau_min": 0.25, "min_active": 2, "add_share": 0.1},
}


@pytest.mark.slow
def test_a_run_killed_between_two_edits_of_its_experts_ends_as_if_it_had_not_been(
    tiny_data: Path, tmp_path: Path
) -> None:
    tree = config_tree(tiny_data)
    changes = {"model": {**tree["model"], "moe": {**tree["model"]["moe"], **CHANGING}}}
    unbroken, run = tmp_path / "unbroken", tmp_path / "run"
    train(run_config(tiny_data, **changes), unbroken)
    edits = [r for r in rows(unbroken / "metrics.jsonl", "expert_edit") if r["stage"] == "sft"]
    assert {(r["step"], r["action"]) for r in edits} >= {(2, "remove"), (2, "add"), (4, "remove"), (4, "add")}
    # checkpoints are written after steps 3 and 6: the one of step 3 holds an edit and an open record
    process = start_gated(write_config(tiny_data, tmp_path / "tiny.yaml", **changes), run, "sft", 5)
    process.kill()
    process.wait()
    assert any(r["step"] == 4 for r in rows(run / "metrics.jsonl", "expert_edit"))  # is made again
    train(run_config(tiny_data, **changes), run)
    assert_same_run(run, unbroken)


def test_a_run_killed_between_stages_goes_on_from_the_finished_model(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(run_config(tiny_data), run, only=["backbone"])
    assert not (run / "models" / "sft").exists()
    train(run_config(tiny_data), run)
    assert_same_run(run, tiny_run)


def test_sigterm_writes_a_checkpoint_and_exits_143_and_the_same_command_continues(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config, run = write_config(tiny_data, tmp_path / "tiny.yaml"), tmp_path / "run"
    process = start_gated(config, run, "sft", 4)
    process.send_signal(signal.SIGTERM)
    (run / "go").touch()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 143
    assert f"stopped; the state is saved. Continue with the same command ({run})." in said
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["sft-0000003", "sft-0000004"]
    again = command("train", config, "--out", run, "--device", "cpu")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "continuing stage sft at step 4 of 8" in said
    assert "control: mean segment" in said and f"report: {run / 'report.html'}" in said
    assert_same_run(run, tiny_run)


def test_a_signal_to_the_whole_process_group_still_writes_the_checkpoint(
    tiny_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config, run = write_config(tiny_data, tmp_path / "tiny.yaml"), tmp_path / "run"
    process = start_gated(config, run, "sft", 4, "data.num_workers=1", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C: the data worker is told as well
    (run / "go").touch()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert "stopped; the state is saved." in said and "Traceback" not in said
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["sft-0000003", "sft-0000004"]
    train(run_config(tiny_data), run)
    assert_same_run(run, tiny_run)


def wait_for_saves() -> None:
    """A process ends when its saves are written; an error inside one does not wait for them."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


@pytest.fixture
def stopped_run(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended inside sft after step 7, with the checkpoints of steps 3 and 6."""
    from timeexpert.stages.loop import StageRun, Stopped

    record = StageRun._record

    def stop_at_7(self: StageRun, *args: Any) -> None:
        record(self, *args)
        if (self.stage.name, self.step) == ("sft", 7):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "_record", stop_at_7)
        with pytest.raises(Stopped):
            train(run_config(tiny_data), tmp_path / "run")
    wait_for_saves()
    assert [p.name for p in sorted((tmp_path / "run" / "checkpoints").iterdir())] == ["sft-0000003", "sft-0000006"]
    return tmp_path / "run"


def test_a_damaged_newest_checkpoint_is_named_and_the_older_one_is_used(
    tiny_data: Path, tiny_run: Path, stopped_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from timeexpert.stages.run_folder import RunFolder
    from timeexpert.stages.train import Trainer

    file = stopped_run / "checkpoints" / "sft-0000006" / "trainer.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    folder = RunFolder(stopped_run)
    with folder.locked():
        Trainer(run_config(tiny_data), folder, "cpu", Console(width=1000, soft_wrap=True)).execute()
    said = capsys.readouterr().out
    assert f"left out a damaged checkpoint: {file}: its bytes differ from the manifest (damaged)." in said
    assert "continuing stage sft at step 3 of 8" in said
    assert_same_run(stopped_run, tiny_run)


def test_what_changes_no_weight_may_change_in_between(tiny_data: Path, tiny_run: Path, stopped_run: Path) -> None:
    tree = config_tree(tiny_data)
    shutil.copytree(tiny_data, stopped_run / "moved")
    free = {
        "data": {**tree["data"], "root": str(stopped_run / "moved"), "cache_gib": 0.5},
        "train": {**tree["train"], "checkpoint_every": 2, "keep_checkpoints": 1},
    }
    train(run_config(tiny_data, **free), stopped_run)
    assert_same_run(stopped_run, tiny_run)


def test_time_is_summed_over_starts_and_memory_keeps_its_peak(
    tiny_data: Path, tmp_path: Path, stopped_run: Path
) -> None:
    from timeexpert.stages.run_folder import RunFolder

    with RunFolder(stopped_run).timed("sft") as lap:  # a start that got as far as this and was killed
        time.sleep(0.2)
        lap()
    before = RunFolder(stopped_run).seconds()
    assert before["sft"] >= 0.2 and before["backbone"] > 0
    summary = train(run_config(tiny_data), stopped_run)
    assert summary["seconds"]["backbone"] == before["backbone"]  # it was not trained again
    assert summary["seconds"]["sft"] >= before["sft"]
    assert summary["steps"] == 12
    peak = {**summary, "peak_rss_gib": 1000.0}
    (stopped_run / "summary.json").write_text(json.dumps(peak))
    assert train(run_config(tiny_data), stopped_run) == peak


def test_the_summary_counts_steps_of_finished_stages_only(tiny_data: Path, tmp_path: Path) -> None:
    assert train(run_config(tiny_data), tmp_path, only=["backbone"])["steps"] == 4


def test_stages_after_a_restart_run_with_the_attention_of_the_config(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timeexpert.stages.loop import StageRun

    execute, used = StageRun.execute, []

    def spy(self: StageRun) -> None:
        used.append((self.stage.name, self.model.config._attn_implementation))
        execute(self)

    monkeypatch.setattr(StageRun, "execute", spy)
    config = run_config(tiny_data, model={**config_tree(tiny_data)["model"], "attention": "eager"})
    train(config, tmp_path, only=["backbone"])
    train(config, tmp_path, only=["sft"])  # from the finished model of the first start
    assert used == [("backbone", "eager"), ("sft", "eager")]


def test_data_that_were_rebuilt_in_between_are_named(tiny_data: Path, stopped_run: Path) -> None:
    from timeexpert.data.build import build
    from timeexpert.stages.loop import TrainingError

    lines = (tiny_data / "videos.raw" / "samples.jsonl").read_text().splitlines()
    samples, shards = stopped_run / "samples.jsonl", stopped_run / "data"
    samples.write_text("".join(line.replace('"prompt": "', '"prompt": "Now: ') + "\n" for line in lines))
    shutil.copytree(tiny_data / "images", shards / "images")
    shutil.copytree(tiny_data / "held_out", shards / "held_out")
    build(samples, tiny_data / "videos.raw" / "media", shards / "videos")  # as many videos, other questions
    data = {**config_tree(tiny_data)["data"], "root": str(shards)}
    with pytest.raises(TrainingError, match=r"sft-0000006: data set 'videos' has been rebuilt since this checkpoint"):
        train(run_config(tiny_data, data=data), stopped_run)


def test_a_stage_that_draws_at_random_repeats_after_a_restart(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from timeexpert.model import TimeExpert

    step, drawn = TimeExpert.training_step, []

    def with_dropout(self: TimeExpert, *args: Any) -> Any:
        drawn.append(float(torch.rand(())))
        return step(self, *args)

    monkeypatch.setattr(TimeExpert, "training_step", with_dropout)
    train(run_config(tiny_data), tmp_path / "unbroken")
    unbroken, drawn[:] = list(drawn), []
    train(run_config(tiny_data), tmp_path / "run", only=["backbone"])
    train(run_config(tiny_data), tmp_path / "run")
    assert drawn == unbroken and len(set(drawn)) == 12


def test_a_damaged_finished_model_stops_the_run_instead_of_training_on_it(tiny_data: Path, stopped_run: Path) -> None:
    from timeexpert.checkpoint import CheckpointError

    file = stopped_run / "models" / "backbone" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"backbone/model.safetensors: its bytes differ from the manifest"):
        train(run_config(tiny_data), stopped_run)


def test_another_config_in_the_same_folder_is_refused_with_its_keys(tiny_data: Path, tiny_run: Path) -> None:
    from timeexpert.stages.run_folder import RunError

    tree = config_tree(tiny_data)
    tree["stages"][1]["lr"] = 0.5
    tree["train"]["seed"] = 3
    words = (
        r"config.yaml: this folder holds a run with another config: stages.sft.lr was 0.01, is 0.5; "
        r"train.seed was 0, is 3. Give the same settings to continue it, or another folder with --out."
    )
    with pytest.raises(RunError, match=words):
        train(run_config(tiny_data, stages=tree["stages"], train=tree["train"]), tiny_run)


def test_a_stage_is_not_trained_before_the_one_it_starts_from(tiny_data: Path, tmp_path: Path) -> None:
    from timeexpert.config import ConfigError

    config = run_config(tiny_data)
    with pytest.raises(ConfigError, match=r"--stage 'sft' starts from the weights of 'backbone', which is not"):
        train(config, tmp_path / "run", only=["sft"])
    with pytest.raises(ConfigError, match=r"--stage 'fst' is not a stage of this config; there are backbone, sft."):
        train(config, tmp_path / "run", only=["fst"])


def test_stages_whose_names_begin_alike_keep_their_own_checkpoints(tiny_data: Path, tmp_path: Path) -> None:
    from timeexpert.stages.run_folder import RunFolder

    run = RunFolder(tmp_path)
    for name in ("sft-0000002", "sft-0000010", "sft-2-0000003"):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "manifest.json").write_text('{"files": {}}')
    assert run.latest_checkpoint("sft") == (run.checkpoints / "sft-0000010", [])
    assert run.latest_checkpoint("sft-2") == (run.checkpoints / "sft-2-0000003", [])
    run.prune("sft", 0)
    assert [p.name for p in run.checkpoints.iterdir()] == ["sft-2-0000003"]


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_the_newest_checkpoints_are_kept_however_many_there_are_yet(keep: int, tmp_path: Path) -> None:
    from timeexpert.stages.run_folder import RunFolder

    run = RunFolder(tmp_path)
    for step in range(1, 5):
        (run.checkpoints / f"sft-{step:07d}").mkdir(parents=True)
        run.prune("sft", keep)
        kept = [int(p.name[-1]) for p in sorted(run.checkpoints.iterdir())]
        assert kept == list(range(1, step + 1))[-keep:]
