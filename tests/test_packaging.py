"""What a wheel and a source archive hold, and that the installed copy works far from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("timeexpert", "moe", "tokenization", "stages", "kernels", "configs")


def package_files() -> dict[str, Path]:
    """Each file of the package by its place in the wheel: ``moe/gate.py`` -> ``timeexpert/moe/gate.py``."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    relative = [path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts and path.name[0] != "."]
    return {
        path.as_posix() if path.parts[0] == "timeexpert" else f"timeexpert/{path.as_posix()}": ROOT / path
        for path in relative
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the build reads: setuptools writes its build folder beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for path in package_files().values():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    (copy / "tests").mkdir()
    (copy / "tests" / "__init__.py").write_text("")
    (copy / "kernels").mkdir(exist_ok=True)
    (copy / "kernels" / "probe.py").write_text("answer = 42\n")  # kernels has no __init__.py
    return copy


def build(backend_call: str, source: Path) -> None:
    code = f"import setuptools.build_meta as backend; backend.{backend_call}"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        ".",
    ]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    [path] = folder.glob("timeexpert-*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {*package_files(), "timeexpert/kernels/probe.py"}


def test_the_wheel_brings_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = {Path(n).name: archive.read(n).decode() for n in archive.namelist() if ".dist-info/" in n}
    assert "Apache License" in metadata["LICENSE"]
    assert "timeexpert = timeexpert.cli:main" in metadata["entry_points.txt"]
    assert "Requires-Python: >=3.11" in metadata["METADATA"]
    assert "Requires-Dist: torch>=2.11" in metadata["METADATA"]


def test_an_installed_copy_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import timeexpert, timeexpert.moe, timeexpert.tokenization, timeexpert.stages;"
        "from timeexpert.kernels import probe;"
        "from timeexpert.cli import main; print(timeexpert.__file__, probe.answer); main(['--help'])"
    )
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{tmp_path / 'site' / 'timeexpert' / '__init__.py'} 42\nusage: timeexpert")


def test_the_source_archive_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build(f"build_sdist({str(tmp_path)!r})", source)
    [archive] = tmp_path.glob("timeexpert-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert {"setup.py", "pyproject.toml", "LICENSE", "kernels/probe.py", "moe/__init__.py"} <= names
    [unpacked] = (tmp_path / "unpacked").iterdir()
    build(f"build_wheel({str(tmp_path)!r})", unpacked)
    [again] = tmp_path.glob("timeexpert-*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_every_requirement_is_pinned_to_a_version_in_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from timeexpert.requirements import EXTRAS, REQUIRED

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, [*REQUIRED, *EXTRAS["dev"]]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), requirement


def test_no_folder_of_the_package_is_left_without_its_init() -> None:
    folders = {path.parent for place, path in package_files().items() if place.endswith(".py")}
    without = {str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()}
    assert without <= {"kernels"}  # a namespace on purpose; any other such folder would be missing from the wheel
