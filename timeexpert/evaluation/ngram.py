"""CIDEr-D, BLEU and ROUGE-L of tokenised captions, equal to pycocoevalcap 1.2.

Texts are tokens joined by blanks, as :func:`timeexpert.evaluation.ptb.tokenize` gives them. Definitions: CIDEr-D
from Vedantam et al. 2015 as in ``cider/cider_scorer.py`` (where a caption's length is its number of bigrams),
BLEU from Papineni et al. 2002 as in ``bleu/bleu_scorer.py`` (closest reference length), ROUGE-L from Lin 2004 as
in ``rouge/rouge.py`` (the best precision and the best recall may come from two references).

I items, D documents (distinct sets of references), T distinct texts, N n-grams of one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import require_same_length

ORDERS = 4
BLEU_COLUMNS = 2 * ORDERS + 2
_SIGMA = 6.0
_BETA = 1.2
_PAIRS_AT_ONCE = 50_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def cider(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """CIDEr-D of each item, float64 [I], 0 to 10; the corpus figure is their mean.

    Document frequencies are counted over the references of all items, or, where ``groups`` (integers, [I]) is
    given, over the items of the same group: one call then scores many small corpora, such as videos. A corpus
    of one item scores 0, because every n-gram is in every document.
    Raises :class:`EvaluationError` where the lengths differ.
    """
    items = _Items.of(hypotheses, references, groups)
    scores = np.zeros((len(hypotheses), ORDERS))
    if not len(hypotheses):
        return scores.sum(axis=1)
    item_P, text_P = items.pairs()
    bigrams = np.maximum(items.lengths - 1, 0)
    penalty_P = np.exp(-((bigrams[items.hypothesis[item_P]] - bigrams[text_P]) ** 2) / (2 * _SIGMA**2))
    for order, table in enumerate(items.tables):
        weigh = _Weights(items, table)
        norm_I = np.sqrt(weigh.squares(items.hypothesis, items.group))
        for begin in range(0, len(item_P), _PAIRS_AT_ONCE):
            item, text = item_P[begin : begin + _PAIRS_AT_ONCE], text_P[begin : begin + _PAIRS_AT_ONCE]
            group = items.group[item]
            norm = norm_I[item] * np.sqrt(weigh.squares(text, group))
            value = weigh.products(items.hypothesis[item], text, group) / np.where(norm > 0, norm, 1.0)
            value *= penalty_P[begin : begin + _PAIRS_AT_ONCE]
            scores[:, order] += np.bincount(item, value, len(scores))
    return 10.0 * scores.sum(axis=1) / ORDERS / items.references_I


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """What BLEU is made of, float64 [I, 10]: matches of 1 to 4 words, n-grams of 1 to 4 words, both lengths.

    The reference length is that of the reference closest in length, the shorter of equals. Sums of rows are the
    statistics of a corpus. Raises :class:`EvaluationError` where the lengths differ.
    """
    items = _Items.of(hypotheses, references, None)
    statistics = np.zeros((len(hypotheses), BLEU_COLUMNS))
    if not len(hypotheses):
        return statistics
    length_I = items.lengths[items.hypothesis]
    for order, table in enumerate(items.tables):
        statistics[:, order] = items.clipped_matches(table)
    statistics[:, ORDERS : 2 * ORDERS] = np.maximum(length_I[:, None] - np.arange(ORDERS), 0)
    statistics[:, -2] = length_I
    item_P, text_P = items.pairs()
    reference_P = items.lengths[text_P]
    order_P = np.lexsort((reference_P, np.abs(reference_P - length_I[item_P]), item_P))
    statistics[:, -1] = reference_P[order_P[items.first_pairs()]]
    return statistics


def bleu(statistics: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4, 0 to 1, [..., 4], of statistics (or sums of them) [..., 10]."""
    tiny, small = 1e-15, 1e-9  # as published: no match gives nearly 0, and no 0/0 arises
    correct, guessed = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    precision = np.cumprod((correct + tiny) / (guessed + small), axis=-1) ** (1.0 / np.arange(1, ORDERS + 1))
    ratio = (statistics[..., -2] + tiny) / (statistics[..., -1] + small)
    brevity = np.exp(1.0 - 1.0 / np.minimum(ratio, 1.0))
    return np.asarray(precision * brevity[..., None], dtype=np.float64)


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """ROUGE-L F of each item (beta 1.2), 0 to 1, float64 [I]; the corpus figure is their mean.

    Raises :class:`EvaluationError` where the lengths differ.
    """
    _check(hypotheses, references)
    known: dict[tuple[str, str], int] = {}
    scores = np.zeros(len(hypotheses))
    for i, (hypothesis, texts) in enumerate(zip(hypotheses, references, strict=True)):
        words = hypothesis.split(" ")  # as published: an empty text is one empty word
        precision = recall = 0.0
        for text in texts:
            others = text.split(" ")
            common = known.get((hypothesis, text))
            if common is None:
                common = known[hypothesis, text] = _common_subsequence(words, others)
            precision, recall = max(precision, common / len(words)), max(recall, common / len(others))
        if precision and recall:
            scores[i] = (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)
    return scores


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time in the bits of one integer."""
    if a == b:
        return len(a)
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | (1 << i)
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & everything
    return len(a) - row.bit_count()


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    require_same_length(references, hypotheses)
    if not all(references):
        raise ValueError("every item needs at least one reference text.")


@dataclass(frozen=True, eq=False)
class _Table:
    """N-grams of one order: rows (text, gram, times), by text and then gram; row ``starts[t]`` begins text t."""

    text: Ints
    gram: Ints
    times: Floats
    starts: Ints  # [T + 1]
    grams: int

    def rows_of(self, texts: Ints) -> tuple[Ints, Ints]:
        """(position in ``texts``, row) of every n-gram of every text of ``texts``."""
        counts = self.starts[texts + 1] - self.starts[texts]
        position = np.repeat(np.arange(len(texts)), counts)
        within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
        return position, self.starts[texts][position] + within


@dataclass(frozen=True, eq=False)
class _Items:
    """Texts as numbers: each distinct text once, each distinct set of references once."""

    hypothesis: Ints  # [I] text
    document: Ints  # [I] document
    group: Ints  # [I]
    texts_of: tuple[Ints, ...]  # per document: its reference texts, repeats kept
    lengths: Ints  # [T] words
    tables: tuple[_Table, ...]  # orders 1 to 4

    @classmethod
    def of(cls, hypotheses: Sequence[str], references: Sequence[Sequence[str]], groups: ArrayLike | None) -> _Items:
        """Number the texts. Raises ``ValueError`` where there is not one list, not empty, and one group for each."""
        _check(hypotheses, references)
        texts: dict[str, int] = {}
        documents: dict[tuple[str, ...], int] = {}
        hypothesis = [texts.setdefault(text, len(texts)) for text in hypotheses]
        document = [documents.setdefault(tuple(group), len(documents)) for group in references]
        texts_of = tuple(np.array([texts.setdefault(t, len(texts)) for t in d], dtype=np.int64) for d in documents)
        numbers = np.zeros(len(hypotheses), dtype=np.int64)
        if groups is not None:
            numbers = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
            require_same_length(list(numbers), hypotheses)
        words = [text.split() for text in texts]
        lengths = np.array([len(w) for w in words], dtype=np.int64)
        tables = _tables(words, lengths)
        return cls(np.array(hypothesis, np.int64), np.array(document, np.int64), numbers, texts_of, lengths, tables)

    @property
    def references_I(self) -> Ints:
        return np.array([len(texts) for texts in self.texts_of], dtype=np.int64)[self.document]

    def first_pairs(self) -> Ints:
        """Where the pairs of each item begin, [I]."""
        counts = self.references_I
        return np.cumsum(counts) - counts

    def pairs(self) -> tuple[Ints, Ints]:
        """(item, reference text) of every pair, item by item."""
        counts = self.references_I
        item = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum([0, *(len(texts) for texts in self.texts_of)])
        within = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        return item, np.concatenate(self.texts_of)[starts[self.document[item]] + within]

    def grams_of_documents(self, table: _Table) -> tuple[Ints, Ints, Floats]:
        """(document, gram, most times in one of its texts), by document and then gram."""
        owner = np.repeat(np.arange(len(self.texts_of)), [len(texts) for texts in self.texts_of])
        position, row = table.rows_of(np.concatenate(self.texts_of))
        key = owner[position] * max(table.grams, 1) + table.gram[row]
        distinct, place = np.unique(key, return_inverse=True)
        most = np.zeros(len(distinct))
        np.maximum.at(most, place, table.times[row])
        return distinct // max(table.grams, 1), distinct % max(table.grams, 1), most

    def clipped_matches(self, table: _Table) -> Floats:
        """Of each hypothesis's n-grams those in its references, no more often than in one of them, [I]."""
        document, gram, most = self.grams_of_documents(table)
        keys = document * max(table.grams, 1) + gram
        matches = np.zeros(len(self.hypothesis))
        for begin in range(0, len(matches), _PAIRS_AT_ONCE):
            part = slice(begin, begin + _PAIRS_AT_ONCE)
            position, row = table.rows_of(self.hypothesis[part])
            wanted = self.document[part][position] * max(table.grams, 1) + table.gram[row]
            place = _find(keys, wanted)
            found = place >= 0
            clipped = np.minimum(table.times[row][found], most[place[found]])
            matches[part] = np.bincount(position[found], clipped, len(matches[part]))
        return matches


class _Weights:
    """Inverse document frequencies of one order, per group."""

    def __init__(self, items: _Items, table: _Table) -> None:
        self._table = table
        self._grams = max(table.grams, 1)
        documents = len(items.texts_of)
        both, times = np.unique(items.group * documents + items.document, return_counts=True)
        owner, gram, _ = items.grams_of_documents(table)
        starts = np.searchsorted(owner, np.arange(documents + 1))
        counts = (starts[1:] - starts[:-1])[both % documents]
        place = np.repeat(np.arange(len(both)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        key = (both // documents)[place] * self._grams + gram[starts[(both % documents)[place]] + within]
        self._keys, inverse = np.unique(key, return_inverse=True)
        self._log_frequency = np.log(np.bincount(inverse, times[place], len(self._keys)))
        self._log_size = np.log(np.bincount(items.group))

    def _inverse(self, group: Ints, gram: Ints) -> Floats:
        place = _find(self._keys, group * self._grams + gram)
        known = np.append(self._log_frequency, 0.0)  # what no document has counts as in one
        return self._log_size[group] - known[place]

    def squares(self, texts: Ints, groups: Ints) -> Floats:
        """Squared length of each text's vector of weighted n-grams, in its group."""
        position, row = self._table.rows_of(texts)
        weight = self._table.times[row] * self._inverse(groups[position], self._table.gram[row])
        return _summed(position, weight**2, len(texts))

    def products(self, hypotheses: Ints, texts: Ints, groups: Ints) -> Floats:
        """Product of each hypothesis's and text's vectors, the hypothesis clipped to the text."""
        table = self._table
        position, row = table.rows_of(hypotheses)
        rows_of_text = table.text * self._grams + table.gram
        other = _find(rows_of_text, texts[position] * self._grams + table.gram[row])
        found = other >= 0
        position, row, other = position[found], row[found], other[found]
        times = np.minimum(table.times[row], table.times[other]) * table.times[other]
        weight = times * self._inverse(groups[position], table.gram[row]) ** 2
        return _summed(position, weight, len(hypotheses))


def _tables(words: Sequence[Sequence[str]], lengths: Ints) -> tuple[_Table, ...]:
    vocabulary: dict[str, int] = {}
    flat = np.array([vocabulary.setdefault(w, len(vocabulary)) for text in words for w in text], dtype=np.int64)
    text = np.repeat(np.arange(len(lengths)), lengths)
    ends = np.cumsum(lengths)[text] if len(text) else text
    gram, place = flat, np.arange(len(flat))
    tables = []
    for order in range(1, ORDERS + 1):
        if order > 1:
            whole = place + order - 1 < ends[place]
            place, gram = place[whole], gram[whole]
            code = gram * max(len(vocabulary), 1) + flat[place + order - 1]
            gram = np.unique(code, return_inverse=True)[1].astype(np.int64)
        grams = int(gram.max()) + 1 if len(gram) else 0
        distinct, times = np.unique(text[place] * max(grams, 1) + gram, return_counts=True)
        owner = distinct // max(grams, 1)
        starts = np.searchsorted(owner, np.arange(len(lengths) + 1))
        tables.append(_Table(owner, distinct % max(grams, 1), times.astype(np.float64), starts, grams))
    return tuple(tables)


def _summed(place: Ints, values: Floats, places: int) -> Floats:
    return np.asarray(np.bincount(place, values, places), dtype=np.float64)


def _find(keys: Ints, wanted: Ints) -> Ints:
    """Place of each wanted number in sorted ``keys``; -1 where it is not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)
