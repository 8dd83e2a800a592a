"""A stand-in for SLURM's commands on one machine: each "node" is a process of its own, with a name.

Installed under the names srun, sbatch and scontrol (:func:`install`). Only what the launcher asks for is there, with
the semantics of SLURM's manual pages; steps are real processes and get real signals. ``sbatch`` behaves as with
``--wait``, and runs the script again when ``scontrol requeue`` asked for it. Signals go to *every* process of a step,
the hardest case: which processes get them depends on a site's ProctrackType.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def install(folder: Path, nodes: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The environment in which the stand-in answers.

    ``nodes`` maps names of nodes to ``env`` (variables that are other ones there) and ``dead`` (nothing starts).
    """
    commands = folder / "bin"
    commands.mkdir(parents=True)
    for name in ("srun", "sbatch", "scontrol"):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        script.chmod(0o755)
    (folder / "nodes.json").write_text(json.dumps(nodes))
    return {"PATH": f"{commands}:{os.environ['PATH']}", "STAND_IN": str(folder)}


def split(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Leading options, ``--name=value`` all of them, and the rest."""
    count = next((i for i, word in enumerate(words) if not word.startswith("--")), len(words))
    return dict(word.removeprefix("--").split("=", 1) for word in words[:count]), words[count:]


def sbatch(folder: Path, words: list[str]) -> int:
    """Run a job to its end, again and again while it is put back into the queue."""
    options, (script, *arguments) = split(words)
    spooled = shutil.copy(script, folder / "slurm_script")
    said = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?", Path(script).read_text(), re.MULTILINE)) | options
    assert said["signal"] == "B:USR1@300" and "requeue" in said
    nodes = list(json.loads((folder / "nodes.json").read_text()))[: int(said["nodes"])]
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": ",".join(nodes),
        "SLURM_JOB_NUM_NODES": str(len(nodes)),
        "SLURM_SUBMIT_DIR": os.getcwd(),
    }
    starts = 0
    while True:
        (folder / "requeue").unlink(missing_ok=True)
        count = {"SLURM_RESTART_COUNT": str(starts)} if starts else {}
        process = subprocess.Popen(["bash", spooled, *arguments], env={**os.environ, **job, **count})
        (folder / "batch.pid").write_text(str(process.pid))
        code = process.wait()
        if not (folder / "requeue").exists():
            return code
        starts += 1


def scontrol(folder: Path, words: list[str]) -> int:
    """``show hostnames LIST`` and ``requeue JOB``."""
    if words[:2] == ["show", "hostnames"]:
        print("\n".join(words[2].split(",")))
        return 0
    assert words[0] == "requeue" and words[1] == os.environ["SLURM_JOB_ID"]
    (folder / "requeue").touch()
    return 0


def srun(folder: Path, words: list[str]) -> int:
    """A step: one process per node, its output in a file of its own. Returns the largest exit code."""
    options, command = split(words)
    known = json.loads((folder / "nodes.json").read_text())
    tasks = []
    step = {"STAND_IN_STEP": str(os.getpid())}
    for rank, node in enumerate(options["nodelist"].split(",")):
        own = {"SLURMD_NODENAME": node, "SLURM_PROCID": str(rank), **known[node].get("env", {}), **step}
        mode = "a" if options.get("open-mode") == "append" else "w"
        started = ["sleep", "1000"] if known[node].get("dead") else command
        with open(options["output"].replace("%N", node), mode) as log:
            tasks.append(subprocess.Popen(started, env={**os.environ, **own}, stdout=log, stderr=log))
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: tell(step, number))
    first_end = None
    while None in (codes := [task.poll() for task in tasks]):
        ended = [code for code in codes if code is not None]
        first_end = first_end or (time.monotonic() if ended else None)
        waited = first_end is not None and 0 < float(options["wait"]) < time.monotonic() - first_end
        if waited or (options["kill-on-bad-exit"] == "1" and any(ended)):
            tell(step, signal.SIGKILL)
        time.sleep(0.1)
    tell(step, signal.SIGKILL)  # SLURM leaves nothing of a step behind
    return max(abs(task.returncode) for task in tasks)


def tell(step: dict[str, str], number: int) -> None:
    """A signal to every process of a step, whatever session it is in."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().items() >= step.items():
                process.send_signal(number)


if __name__ == "__main__":
    commands = {"srun": srun, "sbatch": sbatch, "scontrol": scontrol}
    sys.exit(commands[sys.argv[1]](Path(os.environ["STAND_IN"]), sys.argv[2:]))
