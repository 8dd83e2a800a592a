"""The command line: which commands there are, how mistakes are answered, and what an exit code means."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import timeexpert
from timeexpert import cli
from timeexpert.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

SAMPLE_COMMAND = """
import os
from timeexpert.errors import UserError
HELP = "do what --what says"

def add_arguments(parser):
    parser.add_argument("--what", required=True)

def run(args):
    if args.what == "user-error":
        raise UserError("clip.mp4: fps (0) must be above 0.")
    if args.what == "interrupt":
        raise KeyboardInterrupt
    if args.what == "bug":
        raise KeyError("a bug")
    if args.what == "lost-worker":
        raise BrokenPipeError("the pipe to a worker")
    if args.what == "much":
        for _ in range(100_000):
            print("many lines")
    return 1 if args.what == "no" else 0
"""


@pytest.fixture
def sample_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of commands with one command in it, ``timeexpert sample do``."""
    import timeexpert.commands

    (tmp_path / "sample_do.py").write_text(SAMPLE_COMMAND)
    monkeypatch.setattr(cli, "COMMANDS_FOLDER", tmp_path)
    monkeypatch.setattr(timeexpert.commands, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "timeexpert.commands.sample_do", raising=False)
    monkeypatch.delenv("TIMEEXPERT_DEBUG", raising=False)
    return "sample do"


def timeexpert_process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "timeexpert", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", sorted(cli.commands()))
def test_every_command_offers_help_arguments_and_run(name: str) -> None:
    module = importlib.import_module(f"timeexpert.commands.{name.replace(' ', '_')}")
    assert cli.help_line(cli.commands()[name]) == module.HELP
    assert 0 < len(module.HELP) <= 120 and "\n" not in module.HELP
    module.add_arguments(argparse.ArgumentParser())
    assert callable(module.run)


@pytest.mark.parametrize("name", sorted(cli.commands()))
def test_flags_are_kebab_case(name: str) -> None:
    module = importlib.import_module(f"timeexpert.commands.{name.replace(' ', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    assert [flag for flag in flags if "_" in flag] == []


def test_help_lists_every_command_and_imports_none_of_their_libraries() -> None:
    code = (
        "import sys; from timeexpert.cli import main; code = main(['--help']);"
        "print('heavy:', [m for m in ('torch', 'transformers', 'numpy', 'av', 'yaml', 'rich') if m in sys.modules]);"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: timeexpert <command> [options]")
    assert "heavy: []" in done.stdout
    for name in cli.commands():
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(cli.commands()))
def test_help_of_a_command_does_not_load_torch(name: str) -> None:
    code = (
        "import atexit, sys; from timeexpert.cli import main;"
        "atexit.register(lambda: print('torch:', 'torch' in sys.modules)); main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *name.split(), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: timeexpert {name}")
    assert "torch: False" in done.stdout


def test_help_of_a_group_lists_its_commands_alone(sample_command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample"]) == cli.main(["sample", "--help"]) == 0
    out = capsys.readouterr().out
    assert "sample do  do what --what says" in out
    assert "doctor" not in out


def test_the_version_is_the_packages() -> None:
    assert timeexpert_process("--version").stdout == f"timeexpert {timeexpert.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docter"], r"unknown command 'docter'. Did you mean 'timeexpert doctor'\?"),
        (["sampel", "do"], r"unknown command 'sampel'. Did you mean 'timeexpert sample'\?"),
        (["sample", "doo"], r"unknown command 'sample doo'. Did you mean 'timeexpert sample do'\?"),
        (["do"], r"unknown command 'do'. Did you mean 'timeexpert sample do'\?"),
        (["zzz"], "unknown command 'zzz'. See timeexpert --help"),
        (["__init__"], "unknown command '__init__'"),
        (["../cli"], "unknown command '../cli'"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest_one(
    words: list[str], message: str, sample_command: str, tmp_path: Path
) -> None:
    (tmp_path / "doctor.py").write_text("HELP = 'look'")
    with pytest.raises(UserError, match=message):
        cli._dispatch(words)


def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    sample_command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", "do", "--what", "user-error"]) == 2
    assert capsys.readouterr().err == "error: clip.mp4: fps (0) must be above 0.\n"


def test_errors_are_red_on_a_terminal_and_plain_elsewhere(
    sample_command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.main(["zzz"])
    assert capsys.readouterr().err.startswith("\033[31merror: unknown command 'zzz'")
    monkeypatch.setenv("NO_COLOR", "1")
    cli.main(["zzz"])
    assert capsys.readouterr().err.startswith("error: unknown command 'zzz'")


def test_debug_shows_the_traceback(sample_command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMEEXPERT_DEBUG", "1")
    with pytest.raises(UserError, match=r"fps \(0\)"):
        cli.main(["sample", "do", "--what", "user-error"])


def test_a_bug_keeps_its_traceback(sample_command: str) -> None:
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["sample", "do", "--what", "bug"])


def test_a_pipe_that_breaks_elsewhere_is_a_failure_to_be_seen(sample_command: str) -> None:
    with pytest.raises(BrokenPipeError, match="the pipe to a worker"):
        cli.main(["sample", "do", "--what", "lost-worker"])


def test_exit_codes_are_the_commands_own_or_130_when_interrupted(sample_command: str) -> None:
    assert [cli.main(["sample", "do", "--what", what]) for what in ("yes", "no", "interrupt")] == [0, 1, 130]


def test_a_missing_flag_exits_2_and_names_it(sample_command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sample", "do"])
    assert "timeexpert sample do: error: the following arguments are required: --what" in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "sample_do.py").write_text(SAMPLE_COMMAND)
    code = (
        "import sys, pathlib, timeexpert.commands; from timeexpert import cli;"
        f"cli.COMMANDS_FOLDER = pathlib.Path({str(tmp_path)!r}); timeexpert.commands.__path__ = [{str(tmp_path)!r}];"
        "sys.exit(cli.main(['sample', 'do', '--what', 'much']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "many lines\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 141


def test_python_dash_m_works_from_another_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "timeexpert", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("timeexpert ")
