"""The references' straightforward algorithms, written again from their definitions, for scripts/bench_eval.py.

Each does the same work the published script does, in the same way (loops over frames, pairs and queries), without its
reading of arguments. Where a reference itself can be imported, the bench runs that instead.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLDS = [round(0.5 + 0.05 * k, 2) for k in range(10)]
LENGTHS = {"": (-math.inf, math.inf), "_short": (0, 10), "_middle": (10, 30), "_long": (30, 150)}


def ms_tcn(truth: Sequence[Path], results: Sequence[Path]) -> dict[str, float]:
    """Accuracy, Edit and F1 of files with a label per frame, frame by frame, each file read as text."""
    correct = frames = 0
    edit, tallies = 0.0, {overlap: [0, 0, 0] for overlap in (0.1, 0.25, 0.5)}
    for true_file, told_file in zip(truth, results, strict=True):
        y = true_file.read_text().split("\n")[:-1]
        p = told_file.read_text().split("\n")[1].split()
        for i in range(len(y)):
            frames += 1
            if y[i] == p[i]:
                correct += 1
        names_y, names_p = [s[0] for s in _segments(y)], [s[0] for s in _segments(p)]
        edit += 100 * (1 - _distance(names_p, names_y) / max(len(names_p), len(names_y)))
        for overlap, tally in tallies.items():
            for i, count in enumerate(_matched(_segments(p), _segments(y), overlap)):
                tally[i] += count
    figures = {"accuracy": 100 * correct / frames, "edit": edit / len(truth)}
    for overlap, (tp, fp, fn) in tallies.items():
        figures[f"f1_{overlap}"] = 200 * tp / (2 * tp + fp + fn)
    return figures


def _segments(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    found, begin = [], 0
    for i in range(1, len(labels) + 1):
        if i == len(labels) or labels[i] != labels[i - 1]:
            if labels[begin] != "background":
                found.append((labels[begin], begin, i))
            begin = i
    return found


def _distance(a: Sequence[str], b: Sequence[str]) -> float:
    table = np.zeros((len(a) + 1, len(b) + 1))
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for j in range(1, len(b) + 1):
        for i in range(1, len(a) + 1):
            same = a[i - 1] == b[j - 1]
            table[i, j] = (
                table[i - 1, j - 1] if same else 1 + min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1])
            )
    return float(table[-1, -1])


def _matched(p: Sequence[Any], y: Sequence[Any], overlap: float) -> tuple[int, int, int]:
    names, starts, ends = [s[0] for s in y], np.array([s[1] for s in y]), np.array([s[2] for s in y])
    used = np.zeros(len(y), dtype=bool)
    tp = 0
    for name, start, end in p:
        shared = np.minimum(end, ends) - np.maximum(start, starts)
        whole = np.maximum(end, ends) - np.minimum(start, starts)
        iou = shared / whole * np.array([name == other for other in names])
        best = int(iou.argmax())
        if iou[best] >= overlap and not used[best]:
            used[best] = True
            tp += 1
    return tp, len(p) - tp, int((~used).sum())


def davis(sequences: Sequence[tuple[Any, Any]], dilate: Callable[[Any, int], Any]) -> dict[str, float]:
    """J and F of label maps: every object and frame as a whole boolean image."""
    values = []
    for truth, told in sequences:
        for k in range(1, int(truth[0].max()) + 1):
            a, b = truth == k, told == k
            either = (a | b).sum(axis=(1, 2))
            j = np.where(either > 0, (a & b).sum(axis=(1, 2)) / np.maximum(either, 1), 1.0)
            values.append([j.mean(), np.mean([_boundary_f(x, y, dilate) for x, y in zip(a, b, strict=True)])])
    j_mean, f_mean = np.mean(values, axis=0)
    return {"j_mean": 100 * j_mean, "f_mean": 100 * f_mean}


def _boundary_f(truth: Any, told: Any, dilate: Callable[[Any, int], Any]) -> float:
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    a, b = _boundary(truth), _boundary(told)
    near_a, near_b = dilate(a, radius), dilate(b, radius)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    precision, recall = (b & near_a).sum() / b.sum(), (a & near_b).sum() / a.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Any) -> Any:
    right, below, corner = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ corner)
    edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def dilation() -> tuple[str, Callable[[Any, int], Any]]:
    """OpenCV's dilation where it can be imported, as in the reference; else shifted copies in numpy."""
    try:
        import cv2
    except ImportError:
        return "numpy", _dilated
    y, x = np.ogrid[-64:65, -64:65]

    def by_opencv(edge: Any, radius: int) -> Any:
        inside = slice(64 - radius, 65 + radius)
        disk = (y * y + x * x <= radius * radius)[inside, inside].astype(np.uint8)
        return cv2.dilate(edge.astype(np.uint8), disk).astype(bool)

    return f"OpenCV {cv2.__version__}", by_opencv


def _dilated(edge: Any, radius: int) -> Any:
    height, width = edge.shape
    wide = np.zeros((height + 2 * radius, width + 2 * radius), dtype=bool)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                wide[radius + dy : radius + dy + height, radius + dx : radius + dx + width] |= edge
    return wide[radius : radius + height, radius : radius + width]


def moment_detr(submission: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """mAP and R1 of windows, all and by length, and mAP and HIT@1 of clips at three levels."""
    told = {row["qid"]: row for row in submission}
    figures: dict[str, float] = {}
    for name, (above, up_to) in LENGTHS.items():
        aps, hits = [], []
        for row in truth:
            windows = [w for w in row["relevant_windows"] if above < w[1] - w[0] <= up_to]
            if windows:
                listed = told[row["qid"]]["pred_relevant_windows"][:10]
                aps.append([_window_ap(listed, windows, t) for t in THRESHOLDS])
                best = max(_iou(listed[0], w) for w in windows)
                hits.append([best >= t for t in THRESHOLDS])
        figures[f"map{name}"] = round(100 * float(np.mean(aps)), 2)
        figures[f"r1{name}_0.5"] = round(100 * float(np.mean(hits, axis=0)[0]), 2)
    for level, name in ((2, "fair"), (3, "good"), (4, "verygood")):
        aps, hits = [], []
        for row in truth:
            scores = np.zeros((int(row["duration"] / 2), 3))
            scores[row["relevant_clip_ids"]] = row["saliency_scores"]
            predicted = np.array(told[row["qid"]]["pred_saliency_scores"])
            hits.append((scores[predicted.argmax()] >= level).any())
            aps.append([_clip_ap(scores[:, a] >= level, predicted) for a in range(3)])
        figures[f"map_{name}"] = round(100 * float(np.mean(aps)), 2)
        figures[f"hit1_{name}"] = round(100 * float(np.mean(hits)), 2)
    return figures


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    whole = max(a[1], b[1]) - min(a[0], b[0])
    return shared / whole if whole else 0.0


def _window_ap(listed: Sequence[Any], windows: Sequence[Any], threshold: float) -> float:
    hits, used = [], set()
    for window in sorted(listed, key=lambda w: -w[2]):
        overlaps = np.array([_iou(window, true) for true in windows])
        hit = False
        for i in overlaps.argsort()[::-1]:
            if overlaps[i] < threshold:
                break
            if i not in used:
                used.add(i)
                hit = True
                break
        hits.append(hit)
    found = np.cumsum(hits)
    return _area(found / np.arange(1, len(hits) + 1), found / len(windows))


def _clip_ap(positive: Any, scores: Any) -> float:
    if positive.all() or not positive.any():
        return float(positive.all())
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    return _area(found / np.arange(1, len(order) + 1), found / positive.sum())


def _area(precision: Any, recall: Any) -> float:
    precision = np.concatenate([[0.0], precision, [0.0]])
    recall = np.concatenate([[0.0], recall, [1.0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def lmms_eval(rows: Sequence[tuple[str, tuple[float, float]]]) -> dict[str, float]:
    """R@1 and mean IoU of answers in words; the four figures each read every answer again."""
    figures = {}
    for name, value in (("r1_0.3", 0.3), ("r1_0.5", 0.5), ("r1_0.7", 0.7), ("miou", None)):
        total = 0.0
        for text, true in rows:
            overlap = _overlap(_first_span(text), true)
            total += overlap if value is None else overlap >= value
        figures[name] = 100 * total / len(rows)
    return figures


def _first_span(text: str) -> tuple[float, float] | None:
    text = text.lower().replace("to", "-")
    clocks = re.findall(r"\b\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?\b", text)
    spans = [(float(a), float(b)) for a, b in re.findall(r"(\d+(?:\.\d+)?)\s*s?\s*[-–]\s*(\d+(?:\.\d+)?)", text)]
    return (min(spans[0]), max(spans[0])) if spans and not clocks else None


def _overlap(a: tuple[float, float] | None, b: tuple[float, float]) -> float:
    return 0.0 if a is None else _iou(a, b)


def dense_captions(truth: Mapping[str, Sequence[Any]], told: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """F1, CIDEr-D and ROUGE-L of events with words, (start, end, caption) by video: the ActivityNet script's loops.

    Precision and recall per threshold, averaged over videos, then F1 and its mean over thresholds. CIDEr-D of the pairs
    that overlap enough, and of lonely predictions beside a word nobody says, with the document counts of one video.
    The script's METEOR, BLEU and tokenizer are left out.
    """
    f1s, ciders, rouges = [], [], []
    for threshold in (0.3, 0.5, 0.7, 0.9):
        precisions, recalls = [], []
        for video, true in truth.items():
            found_p, found_g, pairs = set(), set(), []
            for p, said in enumerate(told[video]):
                alone = True
                for g, event in enumerate(true):
                    overlap = _iou(said, event)
                    if overlap > threshold:
                        found_p.add(p)
                        found_g.add(g)
                    if overlap >= threshold:
                        alone = False
                        pairs.append((said[2], event[2]))
                if alone:
                    pairs.append((said[2], "nobodysaysthis"))
            precisions.append(len(found_p) / len(told[video]))
            recalls.append(len(found_g) / len(true))
            ciders.append(_cider([(_ngrams(a), _ngrams(b)) for a, b in pairs]))
            rouges.append(np.mean([_rouge_l(a.split(), b.split()) for a, b in pairs]))
        precision, recall = np.mean(precisions), np.mean(recalls)
        f1s.append(2 * precision * recall / (precision + recall))
    return {
        "f1": 100 * float(np.mean(f1s)),
        "cider": 100 * float(np.mean(ciders)),
        "rouge_l": 100 * float(np.mean(rouges)),
    }


def _rouge_l(said: Sequence[str], true: Sequence[str]) -> float:
    table = [[0] * (len(true) + 1) for _ in range(len(said) + 1)]
    for i in range(1, len(said) + 1):
        for j in range(1, len(true) + 1):
            same = said[i - 1] == true[j - 1]
            table[i][j] = table[i - 1][j - 1] + 1 if same else max(table[i - 1][j], table[i][j - 1])
    common = table[-1][-1]
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(true)
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def _cider(pairs: Sequence[tuple[Counter[Any], Counter[Any]]]) -> float:
    documents = Counter(gram for _, true in pairs for gram in true)
    log_size = math.log(len(pairs))
    values = []
    for said, true in pairs:
        (a, norm_a, size_a), (b, norm_b, size_b) = (_weighted(grams, documents, log_size) for grams in (said, true))
        sums = [0.0] * 4
        for n in range(4):
            for gram, weight in a[n].items():
                sums[n] += min(weight, b[n].get(gram, 0.0)) * b[n].get(gram, 0.0)
            if norm_a[n] and norm_b[n]:
                sums[n] /= norm_a[n] * norm_b[n]
            sums[n] *= math.exp(-((size_a - size_b) ** 2) / 72)
        values.append(10 * sum(sums) / 4)
    return float(np.mean(values))


def _weighted(grams: Counter[Any], documents: Counter[Any], log_size: float) -> tuple[Any, Any, int]:
    vectors: list[dict[Any, float]] = [{} for _ in range(4)]
    norms, size = [0.0] * 4, 0
    for gram, count in grams.items():
        n = len(gram) - 1
        vectors[n][gram] = count * (log_size - math.log(max(1.0, documents[gram])))
        norms[n] += vectors[n][gram] ** 2
        size += count if n == 1 else 0
    return vectors, [math.sqrt(norm) for norm in norms], size


class PlainMeteor:
    """METEOR as pycocoevalcap runs it: its command, each pair asked for and awaited, then one question for scores."""

    def __init__(self, jar: Path) -> None:
        command = ["java", "-jar", "-Xmx2G", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")

    def scores(self, pairs: Sequence[tuple[str, str]]) -> tuple[float, list[float]]:
        """The score of (hypothesis, reference) pairs as one corpus, and that of each."""
        statistics = []
        for said, true in pairs:
            self._ask(f"SCORE ||| {true} ||| {said}")
            statistics.append(self._answer())
        self._ask(" ||| ".join(["EVAL", *statistics]))
        each = [float(self._answer()) for _ in pairs]
        return float(self._answer()), each

    def close(self) -> None:
        """End the program and wait for it."""
        self._process.communicate()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def soda_c(meteor: PlainMeteor, truth: Sequence[Sequence[Any]], told: Sequence[Any]) -> float:
    """SODA_c of lists of (start, end, caption) by video, the best of a video's references: SODA's loops.

    One question per true event; every pair is asked for, the true caption as the hypothesis.
    """
    total = 0.0
    for references, said in zip(truth, told, strict=True):
        best = 0.0
        for true in references:
            values = [[_iou(event, other) for other in said] for event in true]
            for row, event in zip(values, true, strict=True):
                scores = meteor.scores([(event[2], other[2]) for other in said])[1]
                row[:] = [iou * score for iou, score in zip(row, scores, strict=True)]
            matched = _best_sum(values)
            precision, recall = matched / len(said), matched / len(true)
            best = max(best, 2 * precision * recall / (precision + recall) if matched else 0.0)
        total += best
    return 100 * total / len(truth)


def _best_sum(values: Sequence[Sequence[float]]) -> float:
    table = [[0.0] * (len(values[0]) + 1) for _ in range(len(values) + 1)]
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            table[i + 1][j + 1] = max(table[i][j + 1], table[i + 1][j], table[i][j] + value)
    return table[-1][-1]


def dense_meteor(meteor: PlainMeteor, truth: Sequence[Any], told: Sequence[Any]) -> dict[str, float]:
    """METEOR of pairs of events per video and threshold, of paragraphs, and SODA_c: the YouCook2 script's loops.

    Its F1 and CIDEr are left out.
    """
    values = []
    for threshold in (0.3, 0.5, 0.7, 0.9):
        for true, said in zip(truth, told, strict=True):
            pairs = []
            for event in said:
                close = [(event[2], other[2]) for other in true if _iou(event, other) >= threshold]
                pairs += close or [(event[2], "nobodysaysthis")]
            values.append(meteor.scores(pairs)[0])
    texts = [[" ".join(event[2] for event in events) for events in side] for side in (told, truth)]
    return {
        "meteor": 100 * float(np.mean(values)),
        "paragraph_meteor": 100 * meteor.scores(list(zip(*texts, strict=True)))[0],
        "soda_c": soda_c(meteor, [[true] for true in truth], told),
    }
