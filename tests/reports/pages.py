"""Reads pages: well-formed HTML, the text of it, pictures inside it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
from PIL import Image

PNG_LINK = re.compile(r'href="data:image/png;base64,([^"]+)"')
ELSEWHERE = re.compile(r"(src|href)=\"(?!data:image/(png|jpeg);base64,)|url\(|https?:|@import")


class _Balance(HTMLParser):
    """Fails on a tag that is closed out of turn or not at all."""

    VOID = {"meta", "img", "input", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.labels: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag in ("svg", "img"):
            self.labels.append(dict(attrs).get("aria-label" if tag == "svg" else "alt"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags_of(page: str) -> list[str]:
    """Every tag of a page whose tags are balanced and whose pictures all say in words what they show."""
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(parser.labels), "a picture without words"
    return parser.seen


def text_of(page: str) -> str:
    """What a reader reads, without the words of pictures."""
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def is_alone(page: str) -> bool:
    """Whether a page runs nothing and fetches nothing."""
    active = {"script", "link", "iframe", "object", "form"} & set(tags_of(page))
    return not active and not ELSEWHERE.search(page) and "default-src 'none'" in page


def pixels_of(svg: str) -> np.ndarray:
    """RGBA [rows, columns, 4] of the one picture inside an SVG."""
    (data,) = PNG_LINK.findall(svg)
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGBA"))
