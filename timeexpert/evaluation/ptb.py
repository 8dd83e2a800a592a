"""Penn Treebank tokens of captions, lower-cased and without punctuation, as caption metrics are fed with.

Behaves as pycocoevalcap's tokenizer (Stanford's PTBTokenizer 3.4.1 with ``-preserveLines -lowerCase``, then a list
of punctuation removed) without Java. The rules are those of the Penn Treebank (contractions and possessives split,
brackets written as ``-lrb-``, abbreviations keep their full stop), in the forms that program gives them, found by
asking it. ``docs/evaluation-captions.md`` says how often both agree and where they differ.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache

NAME = "PTB tokens in Python, after Stanford PTBTokenizer 3.4.1"
PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn asst atty attys aug ave bancorp bhd bldg blvd brig bros calif capt cf cie cmdr
co col colo conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon
inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr
mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd rep reps rev
rt sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs tue tues univ va vs vt wed wis wisc wm
wyo
""".split()
_CAPITALISED = "ark az del ill la mass miss ore pa tex wash".split()  # words unless written with a capital
_BEFORE_NUMBERS = "art ca figs fig nos no op pp prop".split()
_SPLIT_WORDS = (("can", "not"), ("gon", "na"), ("wan", "na"), ("got", "ta"), ("gim", "me"), ("lem", "me"))
_KEPT = "\u0080\u0091\u0092\u0093\u0094\u0096\u0097\u00ad"  # quotes and dashes of Windows-1252, the soft hyphen
# After a single letter and a full stop these begin a sentence: the stop is then not the letter's.
_SENTENCE_STARTS = """
A About According After An As At But Earlier He Her Here However If In It Last Many More Now Once One Other Our She
Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()
# What spans blanks: tags, fractions and telephone numbers, "no. 5".
_SPANS_BLANKS = re.compile(r"<[A-Za-z/!?]|\d\)?\s\(?\d|\)\s\d|\.\s+\d|\b[A-Za-z]\.\s+[A-Z]")
_SPELLED = {
    "\u00a2": "cents", "\u00a3": "#", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$", "\u0080": "$",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "&amp;": "&", "&lt;": "<", "&gt;": ">",
}  # fmt: skip
_DROPPED = re.compile(
    r"[\"'`.,:;\-?!\u2018-\u201b\u201c\u201d\u2039\u203a\u00ab\u00bb\u2026\u2010-\u2015\u0091-\u0097\u00ad]"
    r"|''|``|--+|\.{3,5}|&(?:quot|apos|nbsp|[mn]dash|hellip);",
    re.IGNORECASE,
)


def tokenize(texts: Iterable[str]) -> list[str]:
    """Tokens of each text, joined by blanks."""
    return [_line(text) for text in texts]


@lru_cache(maxsize=65536)
def _line(text: str) -> str:
    if _SPANS_BLANKS.search(text):
        return " ".join(_tokens(text))
    return " ".join(" ".join(tokens) for word in text.split() if (tokens := _word(word)))


@lru_cache(maxsize=65536)
def _word(word: str) -> tuple[str, ...]:
    return tuple(_tokens(word))


def _tokens(text: str) -> Iterator[str]:
    """The longest match of any rule is the next token; of equally long ones the first rule's."""
    skip, rules = _rules()
    place = 0
    while place < len(text):
        if blank := skip.match(text, place):
            place = blank.end()
            continue
        best = max((m for rule in rules if (m := rule.match(text, place))), key=re.Match.end, default=None)
        if best is None:
            place += 1
            continue
        token = best["token"]
        place += max(len(token), 1)
        if not _DROPPED.fullmatch(token):
            yield _spelled(token)


def _spelled(token: str) -> str:
    if token in _SPELLED:
        return _SPELLED[token]
    return token.translate(_INSIDE).replace("(", "-lrb-").replace(")", "-rrb-").lower()


_INSIDE = str.maketrans({"\u2019": "'", "\u0092": "'", "\u00ad": "", " ": "\u00a0", "\t": "\u00a0"})


@cache
def _rules() -> tuple[re.Pattern[str], tuple[re.Pattern[str], ...]]:
    """What is skipped, and the rules. What follows the group ``token`` in a rule counts for its length only."""
    marks = _ranges(
        lambda c, kind: kind[0] == "L" or kind in ("Mn", "Mc") and c < "\ufe00" or kind == "Nd" and c > "\x7f"
    )
    letter, word = f"[{marks}]", f"[{marks}0-9]"
    quote = r"['\u2019\u0092]"
    end = f"(?!{letter})"
    clitic = rf"{quote}(?:[sSmMdD]|[lL][lL]|[rR][eE]|[vV][eE]){end}"
    negation = rf"[nN]{quote}[tT]{end}"
    number = r"(?:[0-9]*(?:[.:,][0-9]+)+|[0-9]+)"
    slashed = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    hyphen = r"[-\u2010\u2011\u058a]"
    apostrophes = "c'mon o'clock g'day 'em 'cause 'til 'till s'mores ev'ry li'l nat'l e'er cont'd".replace("'", quote)
    patterns = [
        # tags, entities, addresses
        r"</?[A-Za-z][\w:.-]*(?:\s+[A-Za-z][\w:.-]*(?:=(?:'[^']*'|\"[^\"]*\"|[^\s<>'\"]+))?)*\s*/?>|<[!?][A-Za-z-][^<>]*>",
        r"&(?i:amp|lt|gt|quot|apos|nbsp|[mn]dash|hellip|#[0-9]+);",
        r"https?://[^\s\"<>|()]+[^\s\"<>|.!?,;:'()-]",
        r"(?:[^\s\"`'<>|.!?(){},/$-][^\s\"`'<>|.!?(){},/$]*\.)+(?:com|net|org|edu)(?:/[^\s\"<>|()]*[^\s\"<>|.!?,;:'()-])?",
        r"(?:mailto:)?[A-Za-z0-9][^\s\"<>|()@,;:]*@(?:[^\s\"<>|().@,;:'!?-]+\.)*[A-Za-z0-9]+",
        rf"#{letter}{word}*|@[A-Za-z_]\w*",
        # words with an apostrophe, words that are two
        rf"(?P<token>{letter}+){clitic}",
        rf"(?P<token>{letter}+?){negation}",
        negation,
        clitic,
        rf"(?P<token>{quote}[tT])(?:[iI][sS]|[wW][aA][sS]){end}",
        *(rf"(?P<token>(?i:{first}))(?i:{second}){end}" for first, second in _SPLIT_WORDS),
        rf"(?i:{'|'.join(apostrophes.split())}){end}|[yY]{quote}|(?i:ol|somethin){quote}|{quote}[nN](?:{quote}|{end})",
        rf"[dDoOlLjJ]{quote}{letter}{word}*|{letter}+[aeiouyAEIOUY]{quote}[aeiouA-Z]{letter}*",
        rf"{quote}[0-9]{{2}}(?:s(?!{word})|(?!\S))",
        # abbreviations
        rf"(?i:{'|'.join(_ABBREVIATIONS)})\.",
        rf"(?:{'|'.join([*map(str.capitalize, _CAPITALISED), *map(str.upper, _CAPITALISED)])})\.",
        rf"(?P<token>(?i:{'|'.join(_BEFORE_NUMBERS)})\.)\s*[0-9]",
        rf"[A-Za-z]\.(?!\s+(?:{'|'.join(_SENTENCE_STARTS)})(?![\w']))",
        r"(?:[A-Za-z]\.){2,}|[Pp][Hh]\.[Dd]\.",
        # numbers
        rf"[-+]?{number}",
        r"(?:[0-9]{1,4}[- ])?[0-9]{1,4}/[0-9]{1,4}",
        r"(?:\([0-9]{2,3}\) ?|(?:\+\+?)?(?:[0-9]{2,4}[- ])?[0-9]{2,4}[- ])[0-9]{3,4}[- ]?[0-9]{3,5}",
        # words
        rf"{letter}{word}*(?:[.!?]{letter}{word}*)*|{word}+",
        rf"{word}(?:{word}|[.,])*(?:{hyphen}(?:{word}+|(?:[A-Za-z]\.)+))+|{word}+(?:[-_]{word}+)+",
        rf"{slashed}(?:\\?/{slashed}){{1,2}}",
        r"[A-Z]+(?:(?:&amp;|[&+])[A-Z]+)+|[cC]\+\+|[cCfF]#",
        # signs
        r"(?:US|HK|NZ|NT|[ACMSRZ])?\$",
        r"[<>]?[:;=]['o*-]?[()\[\]{DPdpO\\](?![A-Za-z0-9])|[\^x=~<>]\.[\^x=~<>]|[-^x=~<>']_[-^x=~<>']",
        r"[?!]+|\*+|#+|_+|@+|--+|\.{3,5}|''|``|<<|>>|-[LRlr][CRScrs][Bb]-",
        r"\S",
    ]
    named = (pattern if "(?P<token>" in pattern else f"(?P<token>{pattern})" for pattern in patterns)
    skipped = _ranges(lambda c, kind: kind in ("Cc", "Cf", "Co", "Cn", "Cs", "Nl", "Zs", "Mn", "Me") and c not in _KEPT)
    return re.compile(rf"[\s{skipped}\U00010000-\U0010ffff]+"), tuple(map(re.compile, named))


def _ranges(wanted: Callable[[str, str], bool]) -> str:
    """Inside of a character class: the characters of the basic plane for which ``wanted(character, category)``."""
    places = [i for i in range(0x10000) if wanted(chr(i), unicodedata.category(chr(i)))]
    starts = [i for i, before in zip(places, [-2, *places], strict=False) if i != before + 1]
    ends = [i for i, after in zip(places, [*places[1:], -2], strict=True) if i + 1 != after]
    return "".join(f"\\u{a:04x}-\\u{b:04x}" for a, b in zip(starts, ends, strict=True))
