"""Runs cases of reference figures: inputs, and what a published script printed for them.

A family of cases is a folder of JSON files and its adapter is the module of the same name in
:mod:`timeexpert.evaluation.oracles`, found by file name. An adapter offers

- ``figures(reference, inputs, case) -> Any``: our figures, in the shape and units of ``expected[reference]``.
  Keys that the reference printed and the adapter leaves out are disagreements. Raises :class:`NotCovered` with
  the reason where this project computes no such figure.
- ``FAULTS`` (may be absent): rows where the reference is wrong and no preset copies it, each a :class:`Fault`.

Arrays come from ``.npz`` files beside the JSON, read without pickle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from timeexpert.data.formats.reading import FormatError, load_json

from .errors import EvaluationError

ADAPTERS = Path(__file__).parent / "oracles"
SCHEMA_KEYS = ("family", "tolerance", "cases")


class NotCovered(Exception):
    """This project computes no such figure; the message says why."""


@dataclass(frozen=True)
class Fault:
    """Rows in which a reference is wrong: patterns (``*`` and ``?``) on case, reference and path of the figure."""

    case: str
    reference: str
    path: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One reference on one case. ``state``: agreed, differs, fault, not covered, no figure (the reference crashed)."""

    family: str
    file: str
    case: str
    reference: str
    state: str
    largest: float = 0.0
    detail: str = ""


def families(folder: Path) -> list[str]:
    """Names of the families below ``folder``. Raises :class:`EvaluationError` where there is none."""
    if not folder.is_dir():
        raise EvaluationError(f"{folder}: not a folder. Give the folder that holds one folder of cases per family.")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.json")))
    if not found:
        raise EvaluationError(f"{folder}: no family: folders with .json files of reference cases are expected in it.")
    return found


def run_family(folder: Path, family: str) -> Iterator[Row]:
    """Run every case of one family; a case that makes an adapter raise is a row that differs, never an exception."""
    adapter = _adapter(family)
    for path in sorted((folder / family).glob("*.json")):
        document = _read(path)
        for case in document["cases"]:
            inputs = _with_arrays(case["inputs"], path, document["cases"])
            for reference, expected in case["expected"].items():
                yield _run(adapter, family, path.stem, case, reference, inputs, expected, document["tolerance"])


def _run(
    adapter: ModuleType | None,
    family: str,
    file: str,
    case: Mapping[str, Any],
    reference: str,
    inputs: Mapping[str, Any],
    expected: Any,
    tolerance: Mapping[str, Any],
) -> Row:
    def row(state: str, largest: float = 0.0, detail: str = "") -> Row:
        return Row(family, file, str(case["id"]), reference, state, largest, detail)

    if adapter is None:
        return row("not covered", detail="no adapter")
    crashed = _crashed(expected)
    try:
        ours = adapter.figures(reference, inputs, case)
    except NotCovered as reason:
        return row("not covered", detail=str(reason))
    except EvaluationError as refusal:
        if crashed:
            return row("no figure", detail=f"the reference stops here; ours refuses: {refusal}")
        return row("differs", math.inf, f"EvaluationError: {refusal}")
    except Exception as error:  # the table must name the case, and go on with the others
        return row("differs", math.inf, f"{type(error).__name__}: {error}")
    if crashed:
        return row("no figure", detail="the reference stops here; ours answered")
    wrong, faults, largest = [], [], 0.0
    for path, difference, allowed, text in _differences(ours, expected, "", reference, tolerance):
        if difference <= allowed:
            largest = max(largest, difference)
            continue
        fault = _fault(adapter, str(case["id"]), reference, path)
        if fault is not None:
            faults.append(fault.reason)
        else:
            largest = max(largest, difference)
            wrong.append(f"{path or 'value'}: {text}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return row("differs", largest, wrong[0] + more)
    return row("fault", largest, faults[0]) if faults else row("agreed", largest)


def _differences(
    ours: Any, expected: Any, path: str, reference: str, tolerance: Mapping[str, Any]
) -> Iterator[tuple[str, float, float, str]]:
    """(path, absolute difference, allowed, both values) of every leaf; what cannot be compared differs by inf.

    A part where the reference crashed has no leaf.
    """
    if _crashed(expected):
        return
    if isinstance(expected, Mapping):
        if not isinstance(ours, Mapping):
            yield path, math.inf, 0.0, f"{_short(ours)} is not a mapping"
            return
        for key, value in expected.items():
            if key not in ours:
                yield _join(path, key), math.inf, 0.0, f"left out; the reference has {_short(value)}"
            else:
                yield from _differences(ours[key], value, _join(path, key), reference, tolerance)
    elif isinstance(expected, list):
        if not isinstance(ours, (list, tuple, np.ndarray)) or len(ours) != len(expected):
            yield path, math.inf, 0.0, f"{_short(ours)} is not a list of {len(expected)}"
            return
        for i, value in enumerate(expected):
            yield from _differences(ours[i], value, _join(path, i), reference, tolerance)
    else:
        allowed = _allowed(path, reference, tolerance)
        yield path, _distance(ours, expected), allowed, f"{_short(ours)}; the reference has {_short(expected)}"


def _crashed(expected: Any) -> bool:
    return isinstance(expected, Mapping) and ("raises" in expected or "hangs" in expected)


def _distance(ours: Any, expected: Any) -> float:
    if expected in ("NaN", "Infinity", "-Infinity") and not isinstance(ours, str):
        wanted = float(expected)
        return (
            0.0 if ours is not None and (float(ours) == wanted or math.isnan(wanted) and math.isnan(ours)) else math.inf
        )
    if isinstance(expected, (str, bool)) or expected is None:
        return 0.0 if type(ours) is type(expected) and ours == expected else math.inf
    try:
        difference = abs(float(ours) - float(expected))
    except (TypeError, ValueError):
        return math.inf
    return math.inf if math.isnan(difference) else difference


def _allowed(path: str, reference: str, tolerance: Mapping[str, Any]) -> float:
    """The tolerance of the last word of the path, else of the reference, else of its first word, else the default."""
    last = path.rsplit("/", 1)[-1]
    for name in (last, reference, reference.split(".")[0]):
        if isinstance(tolerance.get(f"{name}_abs"), (int, float)):
            return float(tolerance[f"{name}_abs"])
    return float(tolerance["default_abs"])


def _fault(adapter: ModuleType, case: str, reference: str, path: str) -> Fault | None:
    for fault in getattr(adapter, "FAULTS", ()):
        if fnmatchcase(case, fault.case) and fnmatchcase(reference, fault.reference) and fnmatchcase(path, fault.path):
            return fault
    return None


def _adapter(family: str) -> ModuleType | None:
    if not family.isidentifier() or not (ADAPTERS / f"{family}.py").is_file():
        return None
    return import_module(f"timeexpert.evaluation.oracles.{family}")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = load_json(path)
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    lacking = [key for key in SCHEMA_KEYS if not isinstance(document, dict) or key not in document]
    if lacking:
        raise EvaluationError(f"{path}: lacks {', '.join(lacking)}; a file of reference cases holds {SCHEMA_KEYS}.")
    return document


def _with_arrays(inputs: Mapping[str, Any], path: Path, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``inputs`` with arrays in place of their names; ``queries`` become the inputs of the cases of these ids.

    A query without a case of its own has the arrays ``ID_g`` and ``ID_p``.
    """
    if "npz" not in inputs:
        return dict(inputs)
    if "queries" in inputs:
        named = {case["id"]: case["inputs"] for case in cases}
        alone = {q: {"npz": inputs["npz"], "gt": f"{q}_g", "pred": f"{q}_p"} for q in inputs["queries"]}
        return {**inputs, "queries": {q: _with_arrays(named.get(q, alone[q]), path, ()) for q in alone}}
    name = str(inputs["npz"])
    if Path(name).name != name:
        raise EvaluationError(f"{path}: npz {name!r} must be the name of a file in the same folder.")
    try:
        with np.load(path.parent / name, allow_pickle=False) as arrays:
            named = {key: arrays[inputs[key]] for key in ("gt", "pred", "void") if key in inputs}
    except (OSError, KeyError, ValueError) as error:
        raise EvaluationError(f"{path.parent / name}: cannot be read: {error}.") from None
    return {**inputs, **named}


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
