"""Figures of evaluations: the headline ones, and tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

# figures of action segmentation, and their titles
SEGMENTATION = {
    "accuracy": "frame accuracy",
    "edit": "Edit",
    "f1_0.1": "F1@10",
    "f1_0.25": "F1@25",
    "f1_0.5": "F1@50",
}
# figures of LoomBench: their row, its figure, their titles
MASKS = {
    "where_jf": ("loombench_where", "jf", "where J&F"),
    "combined_jf": ("loombench_combined", "jf_bi_fore", "combined J&F"),
    "time_only_jf": ("loombench_combined_time_only", "jf_bi_fore", "its times alone"),
    "mask_only_jf": ("loombench_combined_mask_only", "jf_bi_fore", "its masks alone"),
}


def flat_figures(row: dict[str, Any]) -> dict[str, Any]:
    """The headline figures of an evaluation record, rounded to two decimals of a percent."""
    moments, captions = row.get("moment_retrieval", {}), row.get("dense_captioning", {})
    highlights, steps = row.get("highlight_detection", {}), row.get("action_segmentation", {})
    several, single = row.get("multi_segment", {}), row.get("single_segment", {})
    figures = {
        "r1_0.3": moments.get("r1_0.3"),
        "r1_0.5": moments.get("r1_0.5"),
        "r1_0.7": moments.get("r1_0.7"),
        "miou": moments.get("miou"),
        "multi_f1": several.get("f1"),
        "single_r1_0.5": single.get("r1_0.5"),
        "f1": captions.get("f1"),
        "hit1": highlights.get("hit1"),
        **{name: steps.get(name) for name in SEGMENTATION},
        **{name: row.get(task, {}).get(figure) for name, (task, figure, _) in MASKS.items()},
        "parse_rate": row.get("parse_rate"),
    }
    out: dict[str, Any] = {k: round(v, 2) for k, v in figures.items() if v is not None}
    return {**out, "unreadable": row.get("unreadable", 0), "questions": row.get("questions", 0)}


def summary_table(summary: dict[str, Any]) -> Table:
    """One table: the figures after each stage, and the controls."""
    table = Table(title="held-out videos (percent)")
    names = {"r1_0.5": "R@1 IoU 0.5", "r1_0.7": "R@1 IoU 0.7", "miou": "mIoU", "f1": "dense F1", "hit1": "HIT@1"}
    names |= {"multi_f1": "multi-segment F1", "single_r1_0.5": "single-segment R@1 IoU 0.5"}
    names |= SEGMENTATION | {name: title for name, (_, _, title) in MASKS.items()} | {"parse_rate": "parsed"}
    told = [*summary["stages"], *summary["controls"].values()]
    names = {k: title for k, title in names.items() if any(row.get(k) is not None for row in told)}
    table.add_column("", overflow="fold")
    for title in names.values():
        table.add_column(title, justify="right")

    def cells(figures: dict[str, Any]) -> list[str]:
        return [f"{figures[k]:.1f}" if figures.get(k) is not None else "-" for k in names]

    for stage in summary["stages"]:
        table.add_row(f"after {stage['name']}", *cells(stage))
    table.add_section()
    for name, figures in summary["controls"].items():
        if all(figures.get(k) is None for k in names):
            continue  # it asks questions that these data have none of
        table.add_row(
            {"noise_frames": "control: noise frames", "mean_segment": "control: mean segment"}[name], *cells(figures)
        )
    return table
