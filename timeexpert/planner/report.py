"""A plan as tables for a terminal, and what to change about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .memory import KINDS
from .plan import Plan, fullest_by_phase, gib, with_checkpointing
from .search import Change, cheapest_changes, smallest_cluster

KIND_NAMES = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "gathered": "weights in use",
    "exchange": "all-to-all buffers",
    "batches": "batches",
}
TABLE_WIDTH = 130
WORTH_SAYING = 0.95  # a layout that takes at most this share of the time is named although the asked one fits


@dataclass(frozen=True)
class Advice:
    """What to change: to fit, or to be faster. ``more``: a plan on more nodes, where no change is enough."""

    changes: list[Change]
    more: Plan | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        rows = [
            {"change": list(c.words), "peak_bytes": round(c.plan.peak.total), "step_s": c.plan.step_s}
            for c in self.changes
        ]
        nodes = None if self.more is None else self.more.cluster.nodes
        return {"changes": rows, "nodes_that_fit": nodes}


def advice(plan: Plan) -> Advice:
    """The cheapest changes that make a plan fit; for one that fits, what would be clearly faster."""
    changes = cheapest_changes(plan)
    if plan.fits:
        return Advice([c for c in changes if c.plan.step_s < WORTH_SAYING * plan.step_s])
    return Advice(changes, None if changes else smallest_cluster(plan))


def print_plan(config: str, plan: Plan, notes: Sequence[str]) -> None:
    """Everything about one stage."""
    console, layout, cluster = _console(), plan.layout, plan.cluster
    rows, sizes = plan.model.rows, plan.model.sizes
    total = sizes.total
    console.print(f"[bold]{config}, stage {plan.model.stage.name}[/]: {cluster.nodes} x {cluster.gpus_per_node} "
                  f"{cluster.gpu.name} ({cluster.gpu.source})", highlight=False)  # fmt: skip
    lines = [
        f"parallel: data {layout.degrees.data}, shard {layout.degrees.shard}, expert {layout.degrees.expert}; "
        f"{layout.accumulate} x {layout.micro_batch} videos per GPU, {layout.videos_per_step} per step; "
        f"checkpointing {'on' if layout.gradient_checkpointing else 'off'}" + (", offloaded" if layout.offload else ""),
        f"{number(total.weights)} weights, {number(total.trained)} trained ({', '.join(plan.model.trained_parts)}); "
        f"{number(sizes.active)} active per token",
        f"rows of {rows.typical} tokens (times) and {rows.longest} (memory), {rows.frames:g} frames, "
        f"{rows.experts_per_token:g} experts per token",
        *(f"assumed: {note}" for note in notes),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(_memory_table(plan))
    console.print(_phase_table(plan))
    console.print(_work_table(plan))
    if plan.traffic:
        console.print(_traffic_table(plan))
    _print_time(console, plan)
    _print_advice(console, plan)
    console.print()


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _memory_table(plan: Plan) -> Table:
    off, on = with_checkpointing(plan, False), with_checkpointing(plan, True)
    table = _table(
        f"Memory per GPU at its fullest, GiB ({gib(plan.cluster.usable_bytes):.1f} usable)",
        "",
        f"without checkpointing ({off.phase})",
        f"with checkpointing ({on.phase})",
    )
    for kind in KINDS:
        table.add_row(KIND_NAMES[kind], *(f"{gib(getattr(moment, kind)):.2f}" for moment in (off, on)))
    table.add_row("total", f"{gib(off.total):.2f}", f"{gib(on.total):.2f}", style="bold")
    return table


def _phase_table(plan: Plan) -> Table:
    state = "on" if plan.layout.gradient_checkpointing else "off"
    table = _table(f"By phase, checkpointing {state}, GiB", "", *(KIND_NAMES[kind] for kind in KINDS), "total")
    for moment in fullest_by_phase(plan.moments):
        sizes = (*(getattr(moment, kind) for kind in KINDS), moment.total)
        table.add_row(moment.phase, *(f"{gib(size):.2f}" for size in sizes))
    return table


def _work_table(plan: Plan) -> Table:
    table = _table("TFLOP per GPU and step", "", "forward", "backward", "recomputed")
    times = plan.layout.accumulate / 1e12
    parts = {name: part * times for name, part in plan.work.items()}
    for name, part in parts.items():
        if part.total:
            table.add_row(name, *(f"{value:.4g}" for value in (part.forward, part.backward, part.recompute)))
    return table


def _traffic_table(plan: Plan) -> Table:
    columns = ("", "collective", "ranks", "in a node", "calls", "MB a call", "GB sent", "GB over network", "ms")
    table = _table("Bytes on the wire per GPU and step", *columns)
    for c in plan.traffic:
        seconds, _ = c.seconds(plan.cluster)
        table.add_row(
            c.name,
            c.kind,
            str(c.group.ranks),
            str(c.group.per_node),
            str(c.calls),
            f"{c.payload / 1e6:.2f}",
            f"{c.sent / 1e9:.2f}",
            f"{c.network / 1e9:.2f}",
            f"{seconds * 1e3:.1f}",
        )
    return table


def _console() -> Console:
    """At least as wide as the tables: a narrower terminal breaks lines, but loses no digits."""
    console = Console()
    return console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)


def _print_time(console: Console, plan: Plan) -> None:
    busy = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in plan.busy.items() if seconds >= plan.step_s / 1000)
    console.print(
        f"[bold]{plan.step_s:.3g} s per step[/], {number(plan.tokens_per_s)} tokens/s "
        f"({number(plan.tokens_per_s / plan.layout.world)} per GPU), MFU {plan.mfu:.1%}; alone: {busy or 'nothing'}",
        highlight=False,
    )
    console.print(f"limit: [bold]{plan.limit}[/]", highlight=False)


def _print_advice(console: Console, plan: Plan) -> None:
    if plan.fits:
        free = plan.cluster.usable_bytes - plan.peak.total
        console.print(f"[green]fits[/], {gib(free):.1f} GiB free", highlight=False)
    else:
        over = plan.peak.total - plan.cluster.usable_bytes
        where = f"{gib(over):.1f} GiB too much ({plan.peak.phase})" if over > 0 else "the host has not enough memory"
        console.print(f"[red]does not fit[/]: {where}", highlight=False)
    found = advice(plan)
    for change in found.changes:
        console.print(
            f"  {'faster' if plan.fits else 'fits'} with {', '.join(change.words)}: "
            f"{gib(change.plan.peak.total):.1f} GiB, {change.plan.step_s:.3g} s per step",
            highlight=False,
        )
    if found.more is not None:
        console.print(
            f"  fits on {found.more.cluster.nodes} nodes: {gib(found.more.peak.total):.1f} GiB", highlight=False
        )
    elif not plan.fits and not found.changes:
        console.print("  nothing that was tried fits on these GPUs, nor on more of them", highlight=False)


def sweep_rows(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """One row per number of GPUs, as plain values."""
    return [
        {
            "gpus": plan.layout.world,
            "nodes": plan.cluster.nodes,
            **asdict(plan.layout.degrees),
            "micro_batch": plan.layout.micro_batch,
            "accumulate": plan.layout.accumulate,
            "videos_per_step": plan.layout.videos_per_step,
            "gradient_checkpointing": plan.layout.gradient_checkpointing,
            "offload": plan.layout.offload,
            "fits": plan.fits,
            "peak_bytes": round(plan.peak.total),
            "step_s": plan.step_s,
            "tokens_per_s": plan.tokens_per_s,
            "mfu": plan.mfu,
            "limit": plan.limit,
        }
        for plan in plans
    ]


def print_sweep(config: str, stage: str, plans: Sequence[Plan], notes: Sequence[str]) -> None:
    """The fastest layout that fits, for each number of GPUs."""
    console = _console()
    gpu = plans[0].cluster.gpu
    columns = ("GPUs", "data x shard", "expert", "videos per GPU", "per step", "recompute", "offload", "GiB")
    table = _table(f"{config}, stage {stage} on {gpu.name}", *columns, "s", "tokens/s", "per GPU", "MFU", "limit")
    for plan in plans:
        a, fits = plan.layout, plan.fits
        table.add_row(
            str(a.world),
            f"{a.degrees.data} x {a.degrees.shard}",
            str(a.degrees.expert),
            f"{a.accumulate} x {a.micro_batch}",
            str(a.videos_per_step),
            "yes" if a.gradient_checkpointing else "no",
            "yes" if a.offload else "no",
            f"{gib(plan.peak.total):.1f}",
            *(
                (
                    f"{plan.step_s:.3g}",
                    number(plan.tokens_per_s),
                    number(plan.tokens_per_s / a.world),
                    f"{plan.mfu:.0%}",
                )
                if fits
                else ("-",) * 4
            ),
            plan.limit,
            style="" if fits else "dim",
        )
    console.print(table)
    for note in notes:
        console.print(f"assumed: {note}", highlight=False, markup=False)


def number(value: float) -> str:
    """1234567 as 1.23M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.0f}"
