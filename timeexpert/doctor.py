"""What ``timeexpert doctor`` looks at: versions, devices, codecs, name clashes, disk space.

Only the standard library is imported at the top, and nothing is assumed to be installed: this module has to work
where the install is broken.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from timeexpert.requirements import EXTRAS, PYTHON, REQUIRED

OK, NOTE, BAD = "ok", "note", "bad"  # a note never changes the exit code

IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
DEVELOPMENT_EXTRAS = ("test", "dev")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
DECODERS = ("h264", "hevc", "vp9", "libdav1d")
ENCODERS = ("libx264", "mpeg4")
FREE_GB_NEEDED = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do where it is not well."""

    topic: str
    name: str
    status: str
    found: str
    advice: str = ""


def examine(folder: Path) -> list[Finding]:
    """Every finding about this Python, this machine and the working folder ``folder``."""
    return [
        check_python(platform.python_version()),
        *(check_required(requirement) for requirement in REQUIRED),
        *(finding for extra in EXTRAS if extra not in DEVELOPMENT_EXTRAS for finding in check_extra(extra)),
        *check_cpu(),
        *check_gpus(_try_import("torch")),
        *check_codecs(_try_import("av")),
        *check_names(sys.path),
        check_hub_kernels(),
        check_disk(folder),
    ]


def check_python(version: str) -> Finding:
    """The interpreter against the range that installs accept."""
    if _in_range(version, PYTHON) is False:
        advice = f"needs {PYTHON}: make clean, then make PYTHON=python3.11 test"
        return Finding("python", "python", BAD, f"{version} at {sys.executable}", advice)
    return Finding("python", "python", OK, f"{version} at {sys.executable}")


def check_required(requirement: str) -> Finding:
    """A part that must be there: installed, in range, and importable (a wheel for another machine is not)."""
    name, wanted = _split(requirement)
    found = _version(name)
    install = f"pip install '{requirement}'"
    if found is None:
        return Finding("required", name, BAD, "not installed", install)
    in_range = _in_range(found, wanted)
    if in_range is False:
        return Finding("required", name, BAD, found, f"needs {wanted}: {install}")
    module = _try_import(IMPORT_NAMES.get(name, name))
    if isinstance(module, str):
        return Finding("required", name, BAD, f"{found}, but its import fails: {module}", f"reinstall it: {install}")
    return Finding("required", name, OK, found if in_range else f"{found} (range not checked: packaging is missing)")


def check_extra(extra: str) -> list[Finding]:
    """The parts of ``pip install timeexpert[extra]``: absent is fine, out of range is worth a note."""
    findings = []
    for requirement in EXTRAS[extra]:
        name, wanted = _split(requirement)
        found = _version(name)
        # In a checkout that was never installed, the bare name would fetch whatever an index calls timeexpert.
        topic, install = "optional", f"pip install -e '.[{extra}]'"
        if _checkout() is None:
            install = f"pip install 'timeexpert[{extra}]'"
        if found is None:
            findings.append(Finding(topic, name, NOTE, "not installed", install))
        elif _in_range(found, wanted) is False:
            findings.append(Finding(topic, name, NOTE, found, f"needs {wanted}: {install}"))
        else:
            findings.append(Finding(topic, name, OK, found))
    return findings


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Finding]:
    """Cores this process may use, vector and matrix units, memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    findings = [Finding("device", "cpu", OK, f"{cores} cores, {platform.machine()}")]
    if cpuinfo.is_file():
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
        findings.append(Finding("device", "cpu units", OK, ", ".join(f for f in CPU_FLAGS if f in words) or "none"))
    psutil = _try_import("psutil")
    if not isinstance(psutil, str):
        memory: Any = psutil.virtual_memory()
        found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
        findings.append(Finding("device", "memory", OK, found))
    return findings


def check_gpus(torch: Any) -> list[Finding]:
    """Each CUDA or ROCm device, or why there is none. ``torch`` is the module, or its import error as text."""
    if isinstance(torch, str):
        return []
    if torch.cuda.is_available():
        return [_gpu(torch.cuda.get_device_properties(i), i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [Finding("device", "gpu", OK, "Apple GPU through Metal (mps)")]
    reason = "torch sees none" if torch.version.cuda or torch.version.hip else "this torch is built for CPU only"
    return [Finding("device", "gpu", NOTE, reason, "everything runs on the CPU, at the size of configs/tiny.yaml")]


def _gpu(device: Any, index: int) -> Finding:
    found = f"{device.name}, capability {device.major}.{device.minor}, {device.total_memory / 2**30:.1f} GiB"
    return Finding("device", f"gpu {index}", OK, found)


def check_codecs(av: Any) -> list[Finding]:
    """Which codecs PyAV's FFmpeg offers. ``av`` is the module, or its import error as text."""
    if isinstance(av, str):
        return []
    findings = []
    for kind, names, mode in (("decode", DECODERS, "r"), ("encode", ENCODERS, "w")):
        missing = [name for name in names if not _has_codec(av, name, mode)]
        there = ", ".join(name for name in names if name not in missing)
        advice = f"without {', '.join(missing)}: pip install --force-reinstall av (its wheels bring them)"
        findings.append(Finding("codec", kind, NOTE if missing else OK, there or "none", advice if missing else ""))
    return findings


def check_names(search_path: list[str]) -> list[Finding]:
    """Foreign packages that share a name with a folder of a checkout, and so hide it or are hidden by it."""
    ours = _checkout()
    elsewhere = [entry for entry in search_path if Path(entry or os.curdir).resolve() != ours]
    findings = []
    for name in ("moe", "stages", "tokenization"):
        spec = PathFinder.find_spec(name, elsewhere)
        if spec is not None:
            place = spec.origin or ", ".join(spec.submodule_search_locations or [])
            advice = f"started in a checkout, 'import {name}' is refused for it too; ours is timeexpert.{name}"
            findings.append(Finding("name", name, NOTE, f"another package: {place}", advice))
    copy = PathFinder.find_spec("timeexpert", elsewhere)
    if ours is not None and copy is not None and copy.origin and Path(copy.origin).resolve().parent.parent != ours:
        advice = f"the checkout in {ours} runs, not that copy; pip uninstall timeexpert if that is not wanted"
        findings.append(Finding("name", "timeexpert", NOTE, f"a second copy: {copy.origin}", advice))
    return findings or [Finding("name", "moe, stages, tokenization", OK, "no other package has these names")]


def check_hub_kernels() -> Finding:
    """Hugging Face's ``kernels``: transformers imports it where its version fits."""
    found = _version("kernels")
    if found is None:
        return Finding("name", "kernels (Hugging Face)", OK, "not installed; attention uses torch")
    utils = _try_import("transformers.utils")
    if isinstance(utils, str):
        return Finding("name", "kernels (Hugging Face)", NOTE, found, "not checked: transformers cannot be imported")
    if utils.is_kernels_available():
        return Finding("name", "kernels (Hugging Face)", OK, f"{found}, used by transformers")
    advice = "transformers ignores this version; pip uninstall kernels, or install the one it names"
    return Finding("name", "kernels (Hugging Face)", NOTE, found, advice)


def check_disk(folder: Path) -> Finding:
    """Free space where runs will be written."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < FREE_GB_NEEDED:
        advice = f"less than {FREE_GB_NEEDED} GB: free some, or start in another folder"
        return Finding("disk", str(folder), NOTE, f"{free_gb:.1f} GB free", advice)
    return Finding("disk", str(folder), OK, f"{free_gb:.1f} GB free")


def _checkout() -> Path | None:
    """The root of the checkout this package runs from; None for an installed copy."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "setup.py").is_file() else None


def _split(requirement: str) -> tuple[str, str]:
    """'torch>=2.11' -> ('torch', '>=2.11')."""
    cut = next((i for i, char in enumerate(requirement) if char in "<>=!~"), len(requirement))
    return requirement[:cut], requirement[cut:]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _in_range(version: str, wanted: str) -> bool | None:
    """Whether a version is in a range; None where that cannot be told because ``packaging`` is missing."""
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return None
    return SpecifierSet(wanted).contains(version, prereleases=True)


def _try_import(name: str) -> ModuleType | str:
    """The module, or the reason why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken binary raises OSError, a version check RuntimeError: each is the finding
        return f"{type(error).__name__}: {error}"


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.Codec(name, mode)
    except ValueError:  # av.error.UnknownCodecError is one
        return False
    return True
