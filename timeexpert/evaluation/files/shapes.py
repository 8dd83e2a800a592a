"""Predictions in the shapes that people's scripts write them: how each is recognised, and how a record becomes answers.

What a row says badly is an unparsed answer, counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from timeexpert.data.mask_tracks import MaskTrack

from ..records import Told
from .references import video_key, video_query

TEXT_FIELDS = ("answer", "text", "response", "generated_cap", "pred", "prediction", "output")

Row = tuple[dict[str, str], Told]  # (key of each kind that the row names, its answer)


class _Unread(Exception):
    """What is wrong with a row's answer."""


@dataclass(frozen=True)
class PredictionFormat:
    """One shape of file: how it is recognised in the first record, and how a record becomes rows."""

    name: str
    description: str
    keys: tuple[str, ...]
    matches: Callable[[Any], bool]
    read: Callable[[Any, str], Iterator[Row]]  # a member (name, value) or a record


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Unread(f"{value!r:.40} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise _Unread("a number is too large") from None


def _floats(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise _Unread(f"{value!r:.40} is not a list of numbers")
    return tuple(_float(v) for v in value)


def _segment(value: Any) -> tuple[float, float]:
    numbers = _floats(value)
    if len(numbers) < 2:
        raise _Unread(f"{value!r:.40} is not [start, end]")
    return numbers[0], numbers[1]


def _told(make: Callable[[], Told]) -> Told:
    try:
        return make()
    except (_Unread, TypeError, ValueError, AttributeError, KeyError) as error:
        return Told(problem=str(error) or type(error).__name__)


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _keys(**given: Any) -> dict[str, str]:
    return {name: key for name, value in given.items() if (key := _id(value)) is not None}


# --- our predictions.jsonl ---


def _ours(member: Any, _: str) -> Iterator[Row]:
    asked = isinstance(member, dict) and member.get("error") is None  # a question that could not be asked is missing
    if asked and (keys := _keys(id=member.get("id"))):
        yield keys, _told(lambda: _our_answer(member))


def _our_answer(row: dict[str, Any]) -> Told:
    events = row["prediction"]
    problems = row.get("problems") or []
    if not isinstance(events, list):
        raise _Unread("prediction must be a list of events")
    timed = [e for e in events if e.get("start_s") is not None]
    scores = [e.get("scores") or [] for e in timed]
    untimed = " ".join(str(e.get("text", "")) for e in events if e.get("start_s") is None)
    return Told(
        segments_s=tuple(_segment([e["start_s"], e.get("end_s")]) for e in timed),
        scores=tuple(_float(s[0]) for s in scores) if all(scores) else (),
        texts=tuple(str(e.get("text", "")) for e in timed),
        text=untimed or (str(row["text"]) if row.get("text") else None),
        problem=str(problems[0].get("reason")) if problems else None,
        tracks=tuple(MaskTrack.from_json(track) for track in row.get("tracks") or ()),
    )


# --- moment_detr's submission: windows with scores and a score per clip ---


def _moment_detr(member: Any, _: str) -> Iterator[Row]:
    if not isinstance(member, dict):
        return
    keys = _keys(qid=member.get("qid"))
    if isinstance(member.get("vid"), str) and isinstance(member.get("query"), str):
        keys["video_query"] = video_query(member["vid"].removeprefix("v_"), member["query"])
    if keys:
        yield keys, _told(lambda: _windows(member))


def _windows(row: dict[str, Any]) -> Told:
    windows, clips = row.get("pred_relevant_windows"), row.get("pred_saliency_scores")
    if windows is None and clips is None:
        raise _Unread("neither pred_relevant_windows nor pred_saliency_scores")
    if windows is not None and not isinstance(windows, list):
        raise _Unread("pred_relevant_windows must be a list")
    numbers = [_floats(w) for w in windows or []]
    if any(len(n) < 2 for n in numbers):
        raise _Unread("a window needs start and end")
    return Told(
        segments_s=tuple((n[0], n[1]) for n in numbers),
        scores=tuple(n[2] for n in numbers) if all(len(n) > 2 for n in numbers) else (),
        clip_scores=None if clips is None else _floats(clips),
    )


# --- TimeChat's, VTG-LLM's and TRACE's formatted grounding answers: {number of the annotation: {timestamp, ...}} ---


def _timechat_tvg(member: Any, _: str) -> Iterator[Row]:
    if isinstance(member, tuple) and isinstance(member[1], dict):
        yield {"index": str(member[0]), "qid": str(member[0])}, _told(lambda: _timestamps(member[1]))


def _timestamps(value: dict[str, Any]) -> Told:
    times = value.get("timestamp")
    if not times:
        raise _Unread("no timestamp was read from the answer")  # that is what an empty list means in these files
    if isinstance(times, list) and not isinstance(times[0], list):
        times = [times]  # TRACE writes one window without the outer list
    return Told(segments_s=tuple(_segment(t) for t in times))


# --- dense captions by video: TimeChat's {video: [{timestamp, caption}]}, ActivityNet's {results: {...sentence}} ---


def _dense(member: Any, _: str) -> Iterator[Row]:
    if isinstance(member, tuple):
        yield {"video": video_key(str(member[0]))}, _told(lambda: _captions(member[1]))


def _captions(value: Any) -> Told:
    if not isinstance(value, list):
        raise _Unread("events must be a list")
    texts = [e.get("caption", e.get("sentence", "")) for e in value]
    return Told(segments_s=tuple(_segment(e["timestamp"]) for e in value), texts=tuple(str(t) for t in texts))


# --- TRACE's raw output: parallel lists of timestamps, scores and captions ---


def _trace(member: Any, _: str) -> Iterator[Row]:
    if not isinstance(member, dict):
        return
    keys = _keys(index=member.get("id"), qid=member.get("id"), id=member.get("id"))
    if isinstance(member.get("video"), str):
        keys["video"] = video_key(member["video"])
    if keys:
        yield keys, _told(lambda: _parallel(member))


def _parallel(row: dict[str, Any]) -> Told:
    times = [_floats(t) for t in row["timestamps"]]
    scores = [_floats(s) for s in row.get("scores") or []]
    texts = [str(t) for t in row.get("captions") or []]
    # an event has two times (a segment) or one (a highlight); others are left out, as TRACE's own scripts do
    kept = [i for i, t in enumerate(times) if len(t) in (1, 2)]
    if not kept and times:
        raise _Unread("no event has one or two times")
    rated = all(i < len(scores) and scores[i] for i in kept)
    return Told(
        segments_s=tuple((times[i][0], times[i][-1]) for i in kept),
        scores=tuple(scores[i][0] for i in kept) if rated else (),
        texts=tuple(texts[i] if i < len(texts) else "" for i in kept),
    )


# --- Charades-STA lines, and answers as free text ---


def _charades(member: Any, _: str) -> Iterator[Row]:
    if isinstance(member, str) and "##" in member:
        head, query = member.split("##", 1)
        words = head.split()
        if words:
            yield {"video_query": video_query(words[0], query)}, _told(lambda: _line(words[1:]))


def _line(words: Sequence[str]) -> Told:
    if len(words) != 2:
        raise _Unread("a line must be 'VIDEO start end##query.'")
    return Told(segments_s=((float(words[0]), float(words[1])),))


def _text(member: Any, _: str) -> Iterator[Row]:
    if isinstance(member, tuple) and isinstance(member[1], str):
        name, text = str(member[0]), member[1]
        yield {"id": name, "qid": name, "index": name, "video": video_key(name)}, Told(text=text, from_text=True)
    if not isinstance(member, dict):
        return
    given = next((member[n] for n in ("id", "question_id", "qid") if _id(member.get(n)) is not None), None)
    keys = _keys(id=given, index=given, qid=member.get("qid", given))
    video = next((member[n] for n in ("vname", "video", "vid") if isinstance(member.get(n), str)), None)
    if video is not None:
        keys["video"] = video_key(video)
        if isinstance(member.get("query"), str):
            keys["video_query"] = video_query(video, member["query"])
    answer = next((member[n] for n in TEXT_FIELDS if n in member), None)
    if keys:
        problem = None if isinstance(answer, str) else "the answer is no text"
        yield keys, Told(text=answer if isinstance(answer, str) else None, from_text=True, problem=problem)


def _member_of(value: Any, *names: str) -> bool:
    """Whether a (name, value) member's value is an event list or object that has one of ``names``."""
    if not isinstance(value, tuple):
        return False
    inner = value[1][0] if isinstance(value[1], list) and value[1] else value[1]
    return isinstance(inner, dict) and any(name in inner for name in names)


def _has(value: Any, *names: str) -> bool:
    return isinstance(value, dict) and any(name in value for name in names)


_ALL = (
    PredictionFormat(
        "ours",
        "predictions.jsonl of timeexpert eval",
        ("id",),
        lambda m: _has(m, "prediction") and isinstance(m["prediction"], (list, type(None))) and "id" in m,
        _ours,
    ),
    PredictionFormat(
        "moment_detr",
        "moment_detr's submission, TimeChat's highlights: qid, pred_relevant_windows, pred_saliency_scores",
        ("qid", "video_query"),
        lambda m: _has(m, "pred_relevant_windows", "pred_saliency_scores"),
        _moment_detr,
    ),
    PredictionFormat(
        "trace",
        "TRACE's answers: video, id, timestamps, scores, captions",
        ("index", "qid", "id", "video"),
        lambda m: _has(m, "timestamps") and isinstance(m["timestamps"], list),
        _trace,
    ),
    PredictionFormat(
        "timechat_tvg",
        "grounding of TimeChat, VTG-LLM, TRACE: {number: {timestamp, query, vid}}",
        ("index", "qid"),
        lambda m: isinstance(m, tuple) and isinstance(m[1], dict) and "timestamp" in m[1],
        _timechat_tvg,
    ),
    PredictionFormat(
        "dense_captions",
        "{video: [{timestamp, caption or sentence}]}, alone or below 'results': TimeChat, TRACE, ActivityNet, YouCook2",
        ("video",),
        lambda m: isinstance(m, tuple) and isinstance(m[1], list) and _member_of(m, "timestamp"),
        _dense,
    ),
    PredictionFormat(
        "charades_sta", "lines 'VIDEO start end##query.'", ("video_query",), lambda m: isinstance(m, str), _charades
    ),
    PredictionFormat(
        "text",
        "id, qid or video with the answer's text: answer, text, response, generated_cap",
        ("id", "qid", "index", "video_query", "video"),
        lambda m: _has(m, *TEXT_FIELDS) or (isinstance(m, tuple) and isinstance(m[1], str)),
        _text,
    ),
)
FORMATS: dict[str, PredictionFormat] = {f.name: f for f in _ALL}
