"""``timeexpert <command>``: finds the command's module, runs it, and prints what the user can mend without a traceback.

A command is a file in ``timeexpert/commands``: ``data_build.py`` is ``timeexpert data build``. It offers
``HELP: str``, ``add_arguments(parser)`` and ``run(args) -> int``. Help is read from the files' text, so that
``timeexpert --help`` imports no command and answers at once.
"""

from __future__ import annotations

import argparse
import ast
import os
import select
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from timeexpert import __version__
from timeexpert.errors import UserError

COMMANDS_FOLDER = Path(__file__).parent / "commands"
# The order in help follows a first visit; a command that is missing here comes last.
ORDER = (
    "quickstart",
    "data",
    "annotate",
    "plan",
    "train",
    "checkpoint",
    "loombench",
    "eval",
    "predict",
    "experts",
    "serve",
    "doctor",
)

EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141  # 130, 141: what shells say of SIGINT, SIGPIPE


def commands() -> dict[str, Path]:
    """Every command there is: its words ("data build") and its file, in the order of help."""
    files = [path for path in COMMANDS_FOLDER.glob("*.py") if path.stem != "__init__"]
    table = {path.stem.replace("_", " ", 1): path for path in files}
    group_rank = {group: rank for rank, group in enumerate(ORDER)}
    return dict(sorted(table.items(), key=lambda row: (group_rank.get(row[0].split()[0], len(ORDER)), row[0])))


def help_line(file: Path) -> str:
    """The ``HELP`` of a command, read from its text: importing eleven commands for one screen of help takes longer."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "HELP" for target in targets):
            return str(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    raise RuntimeError(f"{file} has no HELP: a command offers HELP, add_arguments(parser) and run(args).")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 the command's own "no", 2 bad input, 130 interrupted."""
    debug = os.environ.get("TIMEEXPERT_DEBUG") == "1"
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            raise
        _print_error(f"error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if debug:
            raise
        _print_error("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        # What is still buffered would raise once more while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help_text(commands()))
        return 0
    if words[0] == "--version":
        print(f"timeexpert {__version__}")
        return 0
    table = commands()
    for length in (1, 2):
        name = " ".join(words[:length])
        if name in table:
            return _run(name, words[length:])
    group = {name: file for name, file in table.items() if name.split()[0] == words[0]}
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(_help_text(group))
        return 0
    raise UserError(_unknown(words, table, group))


def _run(name: str, arguments: list[str]) -> int:
    module = import_module(f"timeexpert.commands.{name.replace(' ', '_')}")
    parser = argparse.ArgumentParser(prog=f"timeexpert {name}", description=module.HELP, allow_abbrev=False)
    module.add_arguments(parser)
    return int(module.run(parser.parse_intermixed_args(arguments)))  # key=value may stand after options


def _unknown(words: list[str], table: dict[str, Path], group: dict[str, Path]) -> str:
    given = " ".join(words[:2] if group else words[:1])
    near = get_close_matches(given, group or {*table, *(name.split()[0] for name in table)}, n=1)
    if not near:  # "convert" for "data convert"
        near = [name for name in table if name.split()[-1] == words[0]][:1]
    way_out = f"Did you mean 'timeexpert {near[0]}'?" if near else "See timeexpert --help."
    return f"unknown command {given!r}. {way_out}"


def _help_text(table: dict[str, Path]) -> str:
    width = max((len(name) for name in table), default=0)
    rows = [f"  {name:<{width}}  {help_line(file)}" for name, file in table.items()]
    return "\n".join(
        [
            "usage: timeexpert <command> [options]",
            "",
            "A mixture-of-experts video LLM that says when things happen.",
            "",
            "commands:",
            *rows,
            "",
            "timeexpert <command> --help explains a command; timeexpert --version prints the version.",
            "TIMEEXPERT_DEBUG=1 shows the traceback of an error.",
        ]
    )


def _print_error(message: str) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\033[31m{message}\033[0m" if colour else message, file=sys.stderr)


def _reader_is_gone() -> bool:
    """Whether standard output is the broken pipe: one broken elsewhere (a lost worker) is a failure to be seen."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
