"""The figures of evaluations, as reports name them."""

from __future__ import annotations

from .run_files import Record, RunFiles, number, records_in, stage_of

# The figures of the table with their titles, in its order.
FIGURES = {
    "r1_0.3": "R@1 IoU 0.3",
    "r1_0.5": "R@1 IoU 0.5",
    "r1_0.7": "R@1 IoU 0.7",
    "miou": "mIoU",
    "f1": "captioning F1",
    "caption_exact_match_0.5": "caption match",
    "map": "highlight mAP",
    "hit1": "HIT@1",
    "accuracy": "frame accuracy",
    "edit": "Edit",
    "f1_0.1": "segment F1@10",
    "f1_0.25": "segment F1@25",
    "f1_0.5": "segment F1@50",
    "where_jf": "where J&F",
    "combined_jf": "combined J&F",
    "parse_rate": "answers parsed",
}
SECTIONS = ("moment_retrieval", "dense_captioning", "highlight_detection", "action_segmentation")


def _figures(row: Record) -> dict[str, float]:
    """The known figures of an eval record or a summary row, nested in a section or flat."""
    parts = [row, *(inner for section in SECTIONS if isinstance(inner := row.get(section), dict))]
    return {key: value for part in parts for key in FIGURES if (value := number(part, key)) is not None}


def result_rows(files: RunFiles) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Figures after each stage and of each control, from the evaluation records, then from the summary."""
    stages: dict[str, dict[str, float]] = {}
    controls: dict[str, dict[str, float]] = {}
    for row in files.evals:
        control = row.get("control")
        target, name = (stages, stage_of(row)) if control is None else (controls, str(control))
        target[name] = _figures(row)
    for row in records_in(files.summary.get("stages")):
        name = str(row.get("name", "?"))
        stages[name] = stages.get(name, {}) | _figures(row)
    summary_controls = files.summary.get("controls")
    if isinstance(summary_controls, dict):
        for name, row in summary_controls.items():
            if isinstance(row, dict):
                controls[str(name)] = controls.get(str(name), {}) | _figures(row)
    # a control may ask questions that the data have none of
    return stages, {name: figures for name, figures in controls.items() if figures}
