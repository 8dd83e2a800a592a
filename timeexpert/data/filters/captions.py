"""Generic captions, by rules: too short, no word that says anything, or the same one all over a data set.

The rules read English. A caption with letters of another script passes, counted as not measured.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from timeexpert.data.records import Sample

from .config import CaptionsConfig
from .verdict import PASS, Verdict, unseen

CAPTION_TASKS = ("dense_captioning", "moment_retrieval")

# Words of grammar.
STOP_WORDS = frozenset(
    """a an the this that these those it its he she they we you i his her their our your him them us me who whom whose
    which what when where why how there here is are was were be been being am do does did done doing have has had
    having can could will would shall should may might must not no nor and or but if then so than as at by for from in
    into of off on onto out over to up down with without within about after before again during while until through
    between both each few more most other some such only own same too very just also around along across behind near
    next back away together one two three s t another any all it's and/or""".split()
)
# Words that fit nearly every clip, so that a caption made of them alone says nothing about its event.
EMPTY_WORDS = frozenset(
    """video videos clip clips footage film scene scenes shot shots frame frames segment part section moment moments
    time screen camera view background content sequence recording person people someone somebody anyone everyone
    individual individuals human humans man men woman women guy lady boy girl kid kids child children character
    characters subject subjects something anything everything nothing thing things stuff object objects item
    items activity activities action actions event events task place area various different several many certain
    happen happens happening happened occur occurs occurring going continue continues continuing continued start
    starts starting started begin begins beginning began end ends ending ended finish finishes show shows
    showing shown see sees seeing seen display displays displayed takes perform performs performing performed
    make makes making made do does doing keep keeps still now first last short brief following unknown unclear
    nice good interesting visible present way kind type describe describes description caption random special
    typical usual usually normal regular common main important general specific particular particularly new
    unidentified unusual ordinary simple basic whole entire similar great cool amazing funny strange busy lot
    lots bunch movement movements motion change changes changing changed situation process behavior behaviour
    interaction interactions setting environment location locations detail details information story plot
    narrative topic proceed proceeds proceeding exist exists existing involve involves involved involving
    contain contains include includes feature features featured depict depicts depicted capture captures
    captured watch viewer viewers we're there's that's really actually basically simply maybe perhaps probably
    somehow somewhere sometimes often always everywhere""".split()
)
_GOES_ON = re.compile(r"\b(?:go|goes|going|went|carry|carries|keep|keeps)\s+on\b", re.IGNORECASE)
# Words of questions, which say nothing about the moment that is asked for.
QUESTION_WORDS = frozenset(
    """find locate give tell identify retrieve ground query localize determine return answer question sentence
    match matches matching described describing span timestamp timestamps period interval window seconds second times
    output exact relevant please given corresponding report""".split()
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def content_words(text: str, generic: frozenset[str] = EMPTY_WORDS) -> list[str]:
    """Words that say something: neither grammar nor generic, numbers alone neither."""
    text = _GOES_ON.sub(" ", text)
    return [w for w in words(text) if w not in STOP_WORDS and w not in generic and not w.isdigit()]


def is_latin(text: str) -> bool:
    """Whether all letters are Latin ones, as the rules need."""
    return all(c < "\u0250" for c in text if c.isalpha())


def captions_of(sample: Sample) -> list[str]:
    """What a sample says about its events; the prompt, where a moment's answer is times alone."""
    texts = [event.text.strip() for event in sample.events]
    if sample.task == "moment_retrieval":
        distinct = [text for text in dict.fromkeys(texts) if text]
        return distinct or [sample.prompt]
    return texts


class CaptionFilter:
    """See :class:`CaptionsConfig`. ``counts`` comes from :func:`count_captions` over the whole data set."""

    name = "captions"

    def __init__(self, config: CaptionsConfig, counts: Counter[bytes]) -> None:
        self.config, self.counts, self.total = config, counts, counts.total()
        self.generic = EMPTY_WORDS | {w for entry in config.extra_generic for w in words(entry)}

    def judge(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Drops a sample for its first caption that breaks a rule."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        if sample.task not in CAPTION_TASKS:
            return unseen("task without captions")
        captions = captions_of(sample)
        for number, caption in enumerate(captions):
            verdict = self._judge_caption(sample, caption, number)
            if verdict.fault is not None:
                return verdict
        if not all(is_latin(caption) for caption in captions):
            return unseen("not in Latin letters")
        return PASS

    def _judge_caption(self, sample: Sample, caption: str, number: int) -> Verdict:
        config, detail = self.config, {"event": number, "caption": caption}
        if not caption:
            return Verdict(fault="empty", reason=f"events[{number}] has no caption.", detail=detail)
        if not is_latin(caption):
            return PASS
        is_prompt = caption is sample.prompt
        generic = self.generic | QUESTION_WORDS if is_prompt else self.generic
        count = len(words(caption))
        if count < config.min_words and sample.task == "dense_captioning":  # a query may be an action's name
            return Verdict(
                fault="too short",
                reason=f"the caption {caption!r} has {count} word{'s' * (count != 1)}, fewer than {config.min_words}.",
                value=count,
                threshold=config.min_words,
                detail=detail,
            )
        if not content_words(caption, generic):
            where = "the question asks for" if is_prompt else "the caption says"
            return Verdict(
                fault="no content",
                reason=f"{where} nothing that belongs to one event: {caption!r} has no content word.",
                value=0,
                threshold=1,
                detail=detail,
            )
        same = self.counts[_digest(caption)]
        if same >= config.min_repeats and same > config.max_share * self.total:
            return Verdict(
                fault="repeated",
                reason=f"{caption!r} is {same} of {self.total} captions, more than {config.max_share:.1%}.",
                value=same / self.total,
                threshold=config.max_share,
                detail=detail,
            )
        return PASS


def count_captions(samples: Iterable[Sample]) -> Counter[bytes]:
    """How often each caption stands in a data set, once per sample; keys are short hashes, to be small."""
    return Counter(digest for sample in samples for digest in _digests(sample))


def _digests(sample: Sample) -> Iterator[bytes]:
    if sample.task in CAPTION_TASKS:
        yield from {_digest(c) for c in captions_of(sample) if c and c is not sample.prompt}


def _digest(caption: str) -> bytes:
    return hashlib.sha256(" ".join(words(caption)).encode()).digest()[:12]
