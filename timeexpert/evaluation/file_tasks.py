"""Tasks whose questions are no samples: E.T. Bench's rows, folders of masks and of frame labels, LoomBench's rows.

Each takes the paths of predictions and references as ``timeexpert score`` is given them; what several tasks read of
one pair of files is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from timeexpert.data.formats.reading import FormatError, json_lines, load_json

from . import bidirectional, etbench, loombench, segmentation, video_highlights, video_objects
from .errors import MISSING, EvaluationError
from .files import read_predictions
from .frame_labels import FrameLabels, read_frame_labels
from .loom_files import LoomAnswers, is_questions, read_answers, read_questions
from .loombench import LoomQuestion
from .mask_files import MaskFolder, PredictedMasks
from .meteor import Meteor
from .scores import Scores


@dataclass(frozen=True)
class Given:
    """The paths of one evaluation, and what has been read of them."""

    predictions: Path
    references: Path

    @cached_property
    def etbench(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """E.T. Bench's rows of the references, and of the predictions."""
        return _rows(self.references), _rows(self.predictions)

    @property
    def holds_loombench(self) -> bool:
        """Whether the references are LoomBench's rows, and not samples."""
        return is_questions(self.references)

    @cached_property
    def loombench(self) -> tuple[dict[str, LoomQuestion], LoomAnswers]:
        """LoomBench's questions and the answers to them."""
        return read_questions(self.references), read_answers(self.predictions)

    @property
    def bad_rows(self) -> list[str]:
        """Rows of the predictions that were read and name no question; so far LoomBench's."""
        return self.loombench[1].bad_rows if "loombench" in self.__dict__ else []

    @property
    def repeated(self) -> int:
        """Answers among them to a question that had one."""
        return self.loombench[1].repeated if "loombench" in self.__dict__ else 0


@dataclass(frozen=True)
class FileTask:
    """One name that ``timeexpert score --task`` takes. ``score``: (paths, convention, METEOR), to scores and extra
    names. Hand the same :class:`Given` to the tasks of one pair of files."""

    name: str
    summary: str
    conventions: Mapping[str, Any]
    score: Callable[[Given, str, Meteor | None], tuple[Scores, list[str]]]
    wants_meteor: bool = False
    headline: tuple[str, ...] = ()


def _etbench(task: str, given: Given, convention: str, meteor: Meteor | None) -> Any:
    """Rows of the benchmark; answers are rows of the same (task, source, idx) with the text in ``a``."""
    questions, answers = given.etbench
    asked = [row for row in questions if row.get("task") == task]
    first: dict[Any, int] = {}
    for number, row in enumerate(questions):
        if first.setdefault(_key(row), number) != number:
            raise EvaluationError(
                f"{given.references}: row {number} has the task, source and idx of row {first[_key(row)]} "
                f"({' '.join(_key(row))}). Give every question an idx of its own."
            )
    if not asked:
        raise EvaluationError(f"{given.references}: holds no row of task {task!r}. Give E.T. Bench's annotations.")
    told: dict[Any, Any] = {}
    for row in answers:
        if row.get("task") == task:
            told.setdefault(_key(row), row.get("a"))
    samples = [{**row, "a": told.pop(_key(row), MISSING)} for row in asked]
    extra = [" ".join(map(str, key)) for key in told]
    return etbench.etbench_task(task, samples, convention=convention, meteor=meteor), extra


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in ("task", "source", "idx"))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file. Give a list of E.T. Bench rows.")
    try:
        rows = load_json(path)
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(f"{path}: must be a list of objects, as E.T. Bench's annotations are.")
    return rows


def _masks(score: Callable[..., Scores], given: Given, convention: str, _: Meteor | None) -> Any:
    """Folders of label maps. A bidirectional question is a sequence: what a map marks, of whatever object, counts."""
    truth = MaskFolder(given.references)
    told = PredictedMasks(given.predictions, truth)
    extra = sorted(p.name for p in given.predictions.iterdir() if p.is_dir() and p.name not in truth)
    return score(truth, told, convention=convention), extra


def _loombench(kind: Any, control: str | None, given: Given, convention: str, _: Meteor | None) -> Any:
    """Rows of questions of all kinds and rows of answers, by id; the one kind is scored."""
    questions, answers = given.loombench
    asked = {name: question for name, question in questions.items() if question.kind == kind}
    if not asked:
        raise EvaluationError(f"{given.references}: holds no question of the kind {kind!r}. Choose another --task.")
    told = {name: answer for name, answer in answers.by_id.items() if name in asked}
    scores = loombench.loombench_kind(kind, asked, told, convention=convention, control=control)
    return scores, [n for n in answers.by_id if n not in questions]


def _frame_labels(given: Given, convention: str, _: Meteor | None) -> Any:
    """Folders of files with a class name per line."""
    truth = {name: read_frame_labels(path) for name, path in _files(given.references).items()}
    told: dict[str, FrameLabels | None] = {}
    for name, path in _files(given.predictions).items():
        try:
            told[name] = read_frame_labels(path)
        except EvaluationError:  # counted as an answer that did not parse
            told[name] = None
    scores = segmentation.action_segmentation(truth, told, convention=convention)
    return scores, [name for name in told if name not in truth]


def _files(folder: Path) -> dict[str, Path]:
    """Files by video: ``VIDEO.txt``, or ``VIDEO`` as MS-TCN writes its results."""
    found = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not found:
        raise EvaluationError(f"{folder}: no folder with files in it. Give the folder of frame labels, VIDEO.txt each.")
    named: dict[str, Path] = {}
    for path in found:
        other = named.setdefault(path.name.removesuffix(".txt"), path)
        if other is not path:
            raise EvaluationError(f"{path}: {other.name} beside it is of the same video. Keep one of the two.")
    return named


def _clip_labels(benchmark: Any, given: Given, convention: str, _: Meteor | None) -> Any:
    """Lighthouse's lines with ``label`` (clips x annotators); answers are ``pred_saliency_scores`` by ``qid``."""
    rows = list(json_lines(given.references))
    if not rows:
        raise EvaluationError(f"{given.references}: holds no line. Give objects with qid and label (a list per clip).")
    first: dict[str, str] = {}
    for row in rows:
        where = given.references.parent / row.where
        if row.problem or not isinstance(row.value, dict) or "label" not in row.value:
            problem = row.problem.rstrip(".") or "a line must be an object with qid and label (a list per clip)"
            raise EvaluationError(f"{where}: {problem}. Correct the row.")
        qid = str(row.value.get("qid", row.key))
        if first.setdefault(qid, row.where) != row.where:
            raise EvaluationError(f"{where}: qid {qid!r} stands in {first[qid]} already. Give every row its own.")
    told = read_predictions(given.predictions, "moment_detr").by("qid")
    truth = [row.value["label"] for row in rows]
    items = list(first)
    answers = [told.pop(item, None) for item in items]
    scores = [MISSING if a is None else None if a.problem is not None else a.clip_scores for a in answers]
    domains = [str(row.value["domain"]) for row in rows] if all("domain" in row.value for row in rows) else None
    options: dict[str, Any] = {"items": items, "domains": domains, "convention": convention}
    return video_highlights.video_highlights(truth, scores, benchmark, **options), list(told)


_ALL = (
    *(
        FileTask(
            name,
            f"{name.replace('_', ' ')}: mAP of a score per clip, by Lighthouse's label files",
            video_highlights.CONVENTIONS,
            partial(_clip_labels, name),
        )
        for name in video_highlights.BENCHMARKS
    ),
    *(
        FileTask(
            f"etbench_{name}",
            f"E.T. Bench {name}: rows with the answer's text in 'a'",
            dict.fromkeys(("strict", "etbench")),
            partial(_etbench, name),
            wants_meteor=name in ("dvc", "slc"),
        )
        for name in etbench.TASKS
    ),
    FileTask("frame_labels", "action segmentation from folders of VIDEO.txt", segmentation.CONVENTIONS, _frame_labels),
    *(
        FileTask(
            f"masks_{name}",
            f"J and F from folders of SEQUENCE/FRAME.png, {name.replace('_', '-')}",
            video_objects.CONVENTIONS,
            partial(_masks, partial(video_objects.video_object_segmentation, task=name)),
        )
        for name in ("semi_supervised", "unsupervised")
    ),
    FileTask(
        "masks_bidirectional",
        "VideoLoom's bidirectional-foreground J&F from folders of SEQUENCE/FRAME.png",
        bidirectional.CONVENTIONS,
        partial(_masks, bidirectional.bidirectional_foreground),
    ),
    *(
        FileTask(
            row.name,
            f"{row.summary}; rows with id, kind, segment_s, masks, or samples",
            bidirectional.CONVENTIONS,
            partial(_loombench, row.kind, row.control),
            headline=row.headline,
        )
        for row in loombench.ROWS
    ),
)
FILE_TASKS: dict[str, FileTask] = {task.name: task for task in _ALL}
