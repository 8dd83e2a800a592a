"""One node: torchrun with two gloo ranks, stopped and continued; and what stops a run before it starts."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.ranks import needs_deepspeed
from tests.scripts.launching import TWO_RANKS, finish, launch, steps, wait_until
from tests.tiny import ROOT, write_config
from timeexpert.errors import UserError
from timeexpert.parallel import engine

SCRIPTS = sorted(path for pattern in ("*.sh", "*.sbatch", "launch/*.sh") for path in (ROOT / "scripts").glob(pattern))
ZERO = ("parallel.engine=deepspeed", "parallel.zero=2", "stages.sft.optimizer=adamw")


@pytest.fixture
def preflight() -> ModuleType:
    path = ROOT / "scripts" / "launch" / "preflight.py"
    spec = importlib.util.spec_from_file_location("preflight", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path) -> Path:
    return write_config(tiny_data, tmp_path / "tiny.yaml")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, "-x", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "script", [p for p in SCRIPTS if p.name not in ("common.sh", "recipe.sh")], ids=lambda p: p.name
)
def test_help_is_the_comment_at_the_top(script: Path) -> None:
    code, said = finish(launch(str(script.relative_to(ROOT / "scripts")), "-h"))
    assert code == 0
    first, _, usage = said.splitlines()[:3]
    assert f"# {first}" in script.read_text() and f"scripts/{script.relative_to(ROOT / 'scripts')}" in usage


@pytest.mark.parametrize(
    ("launcher", "engine_keys"),
    [
        ("train_node.sh", ()),
        pytest.param("train_deepspeed.sh", (), marks=needs_deepspeed),
        pytest.param("train_deepspeed.sh", ZERO, marks=needs_deepspeed),
    ],
    ids=["torchrun", "deepspeed", "deepspeed-zero"],
)
def test_two_ranks_stop_with_a_checkpoint_at_any_number_of_signals_and_continue(
    launcher: str, engine_keys: tuple[str, ...], config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    env = {"RANKS_PER_NODE": "2", "DS_ACCELERATOR": "cpu"}
    words = (config, *TWO_RANKS, "stages.sft.steps=30", "train.checkpoint_every=1000", "-o", run, "--stage", "backbone")
    words += ("--stage", "sft", *engine_keys)
    process = launch(launcher, *words, env=env)
    wait_until(lambda: len(steps(run)) >= 6, process)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    code, said = finish(process)
    assert code == 143, said
    (checkpoint,) = (run / "checkpoints").iterdir()
    stopped_at = 4 + int(checkpoint.name.removeprefix("sft-"))  # after the four steps of the backbone
    assert 6 <= stopped_at < 34 and steps(run)[-1] == stopped_at

    code, said = finish(launch(launcher, *words, env=env))
    assert code == 0, said
    assert f"continuing stage sft at step {stopped_at - 4} of 30" in said
    assert steps(run) == list(range(1, 35))


def test_a_killed_rank_starts_again_and_no_step_is_lost(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (config, *TWO_RANKS, "stages.sft.steps=30", "train.checkpoint_every=2", "-o", run)
    process = launch("train_node.sh", *words, env={"RANKS_PER_NODE": "2", "GRACE_S": "5", "MAX_RESTARTS": "1"})
    wait_until(lambda: len(steps(run)) >= 8, process)
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if p.environ().get("RANK") == "1"]
    min(ranks, key=lambda rank: rank.create_time()).kill()
    code, said = finish(process)
    assert code == 0, said
    assert "continuing stage sft at step" in said
    assert steps(run) == list(range(1, 35))


@pytest.mark.slow
def test_the_exit_code_of_a_failed_run_is_told(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: other\nstages: [{name: a, kind: sft, steps: 1, mix: {}}]\n")
    words = (config, *TWO_RANKS, "-o", tmp_path / "run")
    code, said = finish(launch("train_node.sh", *words, env={"RANKS_PER_NODE": "2", "MAX_RESTARTS": "0"}))
    assert code == 1 and "mix of stage 'a' is empty" in said


def test_what_is_missing_is_told_by_name(
    preflight: ModuleType, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, *overrides: object, ranks: int = 2, nodes: int = 1, free_gb: float = 0) -> None:
        given = (*TWO_RANKS, "-o", str(tmp_path / "run"), *map(str, overrides))
        with pytest.raises(UserError, match=words):
            preflight.check(nodes, ranks, free_gb, [str(config), *given])

    given = [str(config), *TWO_RANKS, "-o", str(tmp_path / "run")]
    assert preflight.check(1, 2, 0, given) == 2
    with pytest.raises(UserError, match=r"config 'tinny': neither a file nor .* Did you mean 'tiny'\?"):
        preflight.check(1, 2, 0, ["tinny", *TWO_RANKS])
    refused(r"data\.train\.videos \(nowhere, data\.root .*\): .*nowhere", "data.train.videos=nowhere")
    refused(r"data\.eval \(nowhere, data\.root", "data.eval=nowhere")
    refused(r"model\.pretrained \(nowhere\): no config\.json there", "model.pretrained=nowhere")
    refused(r"stages\.backbone\.accumulate \(2\) batches .* 3 ranks", ranks=1, nodes=3)
    refused(r"parallel\.expert \(2\) does not divide the number of ranks \(3\)", "parallel.expert=2", ranks=3)
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    refused(r"parallel\.engine \('deepspeed'\) needs DeepSpeed, which is not installed", *ZERO)
    refused(r"needs a number of ranks\. Set RANKS_PER_NODE", ranks=0)
    refused(r"--stage 'stf' is not a stage of this config; there are backbone, sft", "--stage", "stf")
    refused(r"GB are free, and MIN_FREE_GB asks for 1e\+09", free_gb=1e9)
    (tmp_path / "file").touch()
    refused(r"file/run: not a usable run folder", "-o", tmp_path / "file" / "run")


def test_a_node_with_too_few_gpus_is_refused(preflight: ModuleType) -> None:
    import torch

    gpus = torch.cuda.device_count()
    with pytest.raises(UserError, match=rf"sees {gpus} GPUs on this node, and RANKS_PER_NODE asks for {gpus + 1}"):
        preflight.check_devices("auto", gpus + 1)


def test_settings_are_checked_before_anything_starts(config: Path) -> None:
    def refused(words: str, *given: object, **env: str) -> None:
        code, said = finish(launch("train_node.sh", *given, env=env))
        assert code == 2 and words in said, said

    refused("error: NODES (two) must be a whole number, 1 or more.", config, NODES="two")
    refused("error: NODES is 2, but RENDEZVOUS is not set.", config, NODES="2")
    refused("error: SITE_ENV (nowhere): no such file.", config, SITE_ENV="nowhere")
    refused("error: config 'tinny': neither a file", "tinny")


def test_a_port_in_use_and_a_host_without_address_are_told(config: Path, tmp_path: Path) -> None:
    words = (config, *TWO_RANKS, "-o", tmp_path / "run")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        env = {"NODES": "2", "RANKS_PER_NODE": "1", "RENDEZVOUS": place}
        code, said = finish(launch("train_node.sh", *words, env=env))
    assert code == 2 and f"RENDEZVOUS ({place}) is in use by another program" in said
    code, said = finish(launch("train_node.sh", *words, env={**env, "RENDEZVOUS": "nowhere.invalid:29500"}))
    assert code == 2 and "RENDEZVOUS (nowhere.invalid:29500) cannot be resolved on this node" in said
