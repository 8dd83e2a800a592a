"""From what a user names, a run, one of its checkpoints or a model folder with its log, to records and weights."""

from __future__ import annotations

from pathlib import Path

from .errors import ReportError
from .expert_weights import ExpertWeights, find_weights, is_model, read_weights, written_at
from .experts import ExpertReport, expert_report


def read_experts(
    path: str | Path, stage: str | None = None, *, similarity: bool = True
) -> tuple[ExpertReport, ExpertWeights | None]:
    """The expert records of ``path`` and its weights, ``None`` where there are none yet.

    ``path`` is a run, a model folder with its metrics.jsonl (checkpoints/tiny), or ``RUN/models/STAGE`` and
    ``RUN/checkpoints/STAGE-STEP``, which stand for the run as far as their step. Weights that cannot be read are a note
    of the report. Raises :class:`ReportError` where there are no records.
    """
    path = Path(path)
    run, up_to_step = locate(path)
    report = expert_report(run, stage, up_to_step=up_to_step)
    weights = None
    try:
        folder = path if is_model(path) else find_weights(path, stage)
        if folder is None:
            report.notes.append("there is no checkpoint yet: similarity of experts and savings are left out.")
        else:
            weights = read_weights(folder, similarity=similarity)
            report.notes.extend(_remarks(report, weights))
    except ReportError as error:
        report.notes.append(f"similarity of experts and savings are left out: {error}")
    return report, weights


def locate(path: Path) -> tuple[Path, int | None]:
    """The folder whose metrics.jsonl is meant, and up to which global step (all of it for a run)."""
    if not is_model(path) or (path / "metrics.jsonl").is_file():
        return path, None
    run = path.resolve().parent.parent
    if not (run / "metrics.jsonl").is_file():
        raise ReportError(
            f"{path}: a model folder without metrics.jsonl, and none in {run}. Give the run folder that it was "
            "trained in, or put the run's metrics.jsonl beside the weights."
        )
    return run, written_at(path)[1]


def _remarks(report: ExpertReport, weights: ExpertWeights) -> list[str]:
    """What a reader should know before reading."""
    sizes, notes = weights.sizes, []
    if sizes.router == "topk":
        notes.append(
            f"router topk: every token gets its {sizes.wanted_k} best experts. There are no thresholds, so no token is "
            "left without expert, and experts per token say nothing."
        )
    if all(sum(layer.active) == 1 for layer in report.last.layers):
        notes.append("each layer has one expert, so every token uses it: evenness and similarity say nothing.")
    slots = {len(layer.active) for layer in report.last.layers}
    if slots != {sizes.slots}:
        notes.append(
            f"the records have {', '.join(map(str, sorted(slots)))} expert slots per layer and the weights of "
            f"{weights.folder} have {sizes.slots}: experts are numbered differently in the two."
        )
    return notes
