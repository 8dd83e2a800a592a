"""Two hosts with addresses of their own (network namespaces) train one model, and go on when one of them dies."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.test_ranks import tree_of
from tests.ranks import free_port
from tests.scripts.launching import end_all, finish, start, steps, wait_until
from tests.tiny import ROOT, rows, run_config, train, write_config

HOSTS = {"te-a": "10.199.7.1", "te-b": "10.199.7.2"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Name -> address. Each has a network of its own, with one cable between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    names = {f"{name}-{os.getpid()}": address for name, address in HOSTS.items()}
    first, second = names
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "te0", "netns", first, "type", "veth", "peer", "name", "te0", "netns", second)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
        for name, address in names.items():
            ip("-n", name, "address", "add", f"{address}/24", "dev", "te0")
            ip("-n", name, "link", "set", "te0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        end_all()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.slow
def test_two_hosts_train_and_a_host_that_dies_comes_back(
    hosts: dict[str, str], tiny_data: Path, tmp_path: Path
) -> None:
    changes = tree_of(tiny_data, 24)
    train(run_config(tiny_data, **changes), tmp_path / "unbroken")
    config = write_config(tiny_data, tmp_path / "tiny.yaml", **changes, parallel={"timeout_s": 30})
    run, port, (first, second) = tmp_path / "run", free_port(), hosts

    def begin(name: str) -> subprocess.Popen[str]:
        env = {
            "NODES": "2",
            "RENDEZVOUS": f"{hosts[first]}:{port}",
            "RANKS_PER_NODE": "1",
            "INTERFACE": "te0",
            "LOCAL_ADDR": hosts[name],
            "GRACE_S": "3",
            "RENDEZVOUS_TIMEOUT_S": "120",
            "MAX_RESTARTS": "3",
            "MIN_FREE_GB": "0",
        }
        words = [ROOT / "scripts" / "train_node.sh", config, "--device", "cpu", "-o", run]
        return start(["ip", "netns", "exec", name, *words], env=env)

    here, there = begin(first), begin(second)
    wait_until(lambda: len(steps(run)) >= 5, here)
    for process in (*psutil.Process(there.pid).children(recursive=True), psutil.Process(there.pid)):
        process.kill()  # power is cut
    again = begin(second)
    code, said = finish(here)
    assert code == 0, said
    code, said_there = finish(again)
    assert code == 0, said_there
    assert "continuing stage sft at step" in said
    ours, theirs = (rows(folder / "samples.jsonl") for folder in (run, tmp_path / "unbroken"))
    assert ours == theirs and [row["step"] for row in ours] == list(range(1, 25))
