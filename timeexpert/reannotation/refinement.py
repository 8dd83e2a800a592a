"""Rules that move the times of events: into the readable clip, off their neighbours, onto cuts, to a minimum length.

No rule changes the order of starts, and none makes two events overlap that did not. All times are seconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from math import floor

from .config import RefinementConfig
from .traced import Span, Traced

EDGE_S = 0.1  # boundaries and cuts this close to the clip's own ends stay where they are
ROUNDING_S = 0.01  # an annotation of two decimals may end this much past the clip
SAME_S = 1e-6


def refine(
    events: Sequence[Traced], readable_s: float, cuts_s: Sequence[float], config: RefinementConfig
) -> list[Traced]:
    """Events in order of time after all rules. ``readable_s`` is the clip's readable duration."""
    out = list(events)
    _keep_inside(out, readable_s)
    _trim_overlaps(out, config)
    _close_gaps(out, config)
    _snap(out, readable_s, cuts_s, config)
    _lengthen(out, readable_s, config)
    return out


def _keep_inside(events: list[Traced], readable_s: float) -> None:
    """Ends past the last readable frame move to it; an event that begins past it stays, for ``data filter`` to drop."""
    for i, one in enumerate(events):
        start_s, end_s = one.span
        if start_s < readable_s < end_s - ROUNDING_S:
            why = f"end moved to where the readable clip ends, at {readable_s:.2f} s"
            events[i] = one.moved("inside the clip", why, (start_s, max(start_s, floor(readable_s * 1000) / 1000)))


def _trim_overlaps(events: list[Traced], config: RefinementConfig) -> None:
    """The earlier of two events that overlap a little ends where the later begins; nested events stay."""
    starts = [one.span[0] for one in events]
    for i, one in enumerate(events):
        start_s, end_s = one.span
        first = bisect_left(starts, max(end_s - config.trim_overlap_s, start_s + SAME_S))
        for j in range(first, len(events)):
            later_s, later_end_s = events[j].span
            if later_s >= end_s:
                break
            if later_end_s > end_s and later_s - start_s >= config.min_length_s:
                why = f"end trimmed to its neighbour, which begins at {later_s:.2f} s"
                events[i] = one.moved("trimmed", why, (start_s, later_s))
                break


def _close_gaps(events: list[Traced], config: RefinementConfig) -> None:
    starts = [one.span[0] for one in events]
    for i, one in enumerate(events):
        start_s, end_s = one.span
        j = bisect_left(starts, end_s)
        if start_s < end_s and j < len(starts) and 0 < starts[j] - end_s <= config.close_gap_s:
            why = f"end extended to its neighbour, which begins at {starts[j]:.2f} s"
            events[i] = one.moved("extended", why, (start_s, starts[j]))


def _snap(events: list[Traced], readable_s: float, cuts_s: Sequence[float], config: RefinementConfig) -> None:
    target = snap_targets([one.span for one in events], readable_s, cuts_s, config)
    for i, one in enumerate(events):
        start_s, end_s = one.span
        moved = {name: target[t] for name, t in (("start", start_s), ("end", end_s)) if t in target}
        if moved:
            cuts = tuple(dict.fromkeys(moved.values()))
            where = " and ".join(f"{cut_s:.2f} s" for cut_s in cuts)
            why = f"{' and '.join(moved)} snapped to the cut{'s' if len(cuts) > 1 else ''} at {where}"
            span = (moved.get("start", start_s), moved.get("end", end_s))
            events[i] = one.moved("snapped", why, span, cuts)


def snap_targets(
    spans: Sequence[Span], readable_s: float, cuts_s: Sequence[float], config: RefinementConfig
) -> dict[float, float]:
    """Boundary -> the cut it moves to. Equal boundaries move together, so touching events go on touching.

    The nearest cut within reach is a map that keeps order. Where it would make an event too short, the cut lets go of
    the boundary that it moved furthest and of all that lie further out on that side: order still holds.
    """
    cuts = sorted({round(c, 3) for c in cuts_s if EDGE_S < c < readable_s - EDGE_S})
    target: dict[float, float] = {}
    for value in {time_s for span in spans for time_s in span}:
        near = bisect_left(cuts, value)
        for cut in sorted(cuts[max(0, near - 1) : near + 1], key=lambda c: abs(c - value)):
            if EDGE_S < value < readable_s - EDGE_S and 0 < abs(cut - value) <= config.snap_s:
                target[value] = cut
            break
    while True:
        collapsed = next((s for s in spans if _too_short(s, target, config.min_length_s)), None)
        if collapsed is None:
            return target
        furthest = max(collapsed, key=lambda v: abs(target.get(v, v) - v))
        cut = target[furthest]
        for value in [v for v, c in target.items() if c == cut and (v < cut) == (furthest < cut)]:
            if abs(value - cut) >= abs(furthest - cut):
                del target[value]


def _too_short(span: Span, target: dict[float, float], min_length_s: float) -> bool:
    start_s, end_s = span
    if start_s not in target and end_s not in target:
        return False
    length_s = target.get(end_s, end_s) - target.get(start_s, start_s)
    return length_s < min(min_length_s, end_s - start_s) - SAME_S or (length_s <= 0 and start_s < end_s)


def _lengthen(events: list[Traced], readable_s: float, config: RefinementConfig) -> None:
    """Short events grow to the minimum where their neighbours leave room: first later, then earlier."""
    starts, ends = [one.span[0] for one in events], sorted(one.span[1] for one in events)
    for i, one in enumerate(events):
        start_s, end_s = one.span
        if end_s - start_s >= config.min_length_s - SAME_S or start_s >= readable_s:
            continue
        ends.pop(bisect_left(ends, end_s))  # its own
        j = bisect_left(starts, end_s)
        j += j == i  # a point
        latest_s = starts[j] if j < len(starts) else readable_s
        # not before another start either: the order of starts stays
        k = bisect_right(ends, start_s)
        earliest_s = max(starts[i - 1] if i else 0.0, ends[k - 1] if k else 0.0)
        if i + 1 < len(starts) and starts[i + 1] == start_s:
            earliest_s = start_s
        new_end_s = min(round(start_s + config.min_length_s, 3), latest_s, readable_s)
        new_start_s = min(start_s, round(new_end_s - config.min_length_s, 3))
        if new_end_s >= end_s and new_start_s >= earliest_s - SAME_S:
            why = f"lengthened to {config.min_length_s:g} s"
            events[i] = one.moved("lengthened", why, (max(new_start_s, earliest_s), new_end_s))
        starts[i], end_s = events[i].span
        insort(ends, end_s)
