"""Imports point down, one module has one name, and no folder of ours gets in the way of a foreign package."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SIBLINGS = ("moe", "tokenization", "stages", "kernels")

# From the bottom to the top: a part imports itself and parts before it. A new part gets its place here.
ORDER = (
    "errors",
    "requirements",
    "timing",
    "kernels",
    "tokenization",
    "paths",
    "config",
    "moe",
    "data",
    "evaluation",
    "loombench",
    "parallel",
    "model",
    "families",
    "checkpoint",
    "predict",
    "feature_cache",
    "reannotation",
    "reports",
    "serving",
    "loomdata",
    "stages",
    "planner",
    "quickstart",
    "doctor",
    "cli",
    "commands",
)
# Two parts side by side: neither imports the other, although one of them comes first in the line above.
FORBIDDEN = {
    ("tokenization", "kernels"),
    ("config", "kernels"),
    ("config", "tokenization"),
    ("data", "kernels"),
    ("data", "moe"),
    ("evaluation", "kernels"),
    ("evaluation", "moe"),
    ("commands", "cli"),
}


def our_files() -> list[Path]:
    folders = [ROOT / "timeexpert", *(ROOT / name for name in SIBLINGS)]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    """``moe/gate.py`` -> ``timeexpert.moe.gate``; a package is named without its ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "timeexpert" else ("timeexpert", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Every dotted name that ``source`` imports, at any depth, relative imports resolved: ``timeexpert.moe.gate``."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the direction, in words."""
    if "." not in module or module == "timeexpert.__main__":
        return []
    part = module.split(".")[1]
    if part not in ORDER:
        return [f"{module}: the part {part!r} has no place in ORDER of tests/test_layout.py"]
    wrong = []
    for name in imported_names(source, module, is_package=is_package):
        words = name.split(".")
        if words[0] in SIBLINGS:
            wrong.append(f"{module} imports {name}: write timeexpert.{words[0]}")
        elif words[0] == "timeexpert" and words[1:] not in ([], ["__version__"]):
            if words[1] not in ORDER:
                wrong.append(f"{module} imports {name}: {words[1]!r} has no place in ORDER of tests/test_layout.py")
            elif ORDER.index(words[1]) > ORDER.index(part) or (part, words[1]) in FORBIDDEN:
                wrong.append(f"{module} imports {name}: {part} stands below or beside {words[1]}")
    return wrong


def test_imports_point_down() -> None:
    wrong = [
        line
        for path in our_files()
        for line in violations(path.read_text("utf-8"), module_name(path), is_package=path.stem == "__init__")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("timeexpert.moe.gate", "from timeexpert.model.config import X", "moe stands below or beside model"),
        ("timeexpert.moe.gate", "def f():\n    import timeexpert.stages.loop", "moe stands below or beside stages"),
        ("timeexpert.tokenization.events", "from ..kernels import reference", "tokenization stands below or beside"),
        ("timeexpert.data.records", "from timeexpert import evaluation", "data stands below or beside evaluation"),
        ("timeexpert.stages.sft", "from moe.gate import Gate", "write timeexpert.moe"),
        ("timeexpert.attic.old", "", "'attic' has no place in ORDER"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, source: str, words: str) -> None:
    assert words in violations(source, module)[0]


def test_imports_along_the_direction_pass() -> None:
    source = "import torch\nfrom timeexpert.moe import gate\nfrom timeexpert import __version__\nfrom . import decoder"
    assert violations(source, "timeexpert.model.heads") == []


def test_evaluation_and_tokenization_load_without_torch() -> None:
    light = [module_name(p) for name in ("timeexpert/evaluation", "tokenization") for p in (ROOT / name).rglob("*.py")]
    assert light
    code = f"import importlib, sys; [importlib.import_module(m) for m in {light}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["moe", "tokenization", "stages"])
def test_a_folder_cannot_be_imported_by_a_second_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=f"import timeexpert.{name}, not {name}"):
        importlib.import_module(name)


HUB_KERNELS = """
from unittest.mock import MagicMock
def __getattr__(name):
    return (lambda *args, **kwargs: lambda item: item) if name.startswith("use_kernel") else MagicMock(name=name)
"""


def test_kernels_leaves_hugging_faces_package_of_that_name_to_transformers(tmp_path: Path) -> None:
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    assert not (ROOT / "kernels" / "__init__.py").exists()  # with one, ours would win in a checkout
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(HUB_KERNELS)
    (tmp_path / "kernels-0.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    (tmp_path / "kernels-0.dist-info" / "METADATA").write_text(metadata)
    code = (
        "import timeexpert, kernels; from transformers.utils import is_kernels_available;"
        "from transformers.models.aria import modeling_aria; print(is_kernels_available(), kernels.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,  # the root, and with it our kernels/, comes first on the path
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", str(tmp_path / "kernels" / "__init__.py")]


def test_public_names_are_the_ones_of_the_modules_that_define_them() -> None:
    import timeexpert
    from timeexpert.config import load
    from timeexpert.tokenization import Event

    assert timeexpert.Event is Event
    assert timeexpert.load_config is load
    with pytest.raises(AttributeError, match="module 'timeexpert' has no attribute 'Evnt'"):
        timeexpert.Evnt  # noqa: B018
