from __future__ import annotations

import re

from timeexpert.reports.palette import FAINT, expert_colour, opacity
from timeexpert.reports.trace_page import trace_page

from .fake_run import frames
from .fake_trace import EVIL, make_trace
from .pages import is_alone, tags_of, text_of

STRIP = re.compile(r'<svg class="strip by-l (l\d)"[^>]*aria-label="([^"]*)">.*?</svg>', re.DOTALL)


def page_of(layers: tuple[int, ...] = (0, 1), **changes: object) -> str:
    trace = make_trace(**changes)  # type: ignore[arg-type]
    return trace_page(trace, layers, frames(2), video="clip.mp4", model="tiny")


def test_every_frame_and_token_has_a_strip_per_layer_that_says_who_computed_it() -> None:
    strips = {words: (layer, svg) for svg, layer, words in ((m[0], m[1], m[2]) for m in STRIP.finditer(page_of()))}
    assert len(strips) == 2 * (2 + 4)  # layers x (frames + tokens)
    layer, svg = strips["layer 0, frame at 3.0 s: visual tokens 2 (75 %), 1 (25 %); time tokens 2 (100 %)"]
    assert layer == "l0"
    cells = re.findall(r'<rect x="(\d)" y="(\d)" [^>]*fill="(#\w+)" fill-opacity="([\d.]+)"/>', svg)
    assert cells == [
        ("0", "2", expert_colour(2), f"{opacity(0.75):.2f}"),
        ("0", "1", expert_colour(1), f"{opacity(0.25):.2f}"),
        ("1", "2", expert_colour(2), "1.00"),
    ]
    assert "layer 0, text token red: experts 0, 3" in strips
    assert "layer 1, text token red: no routed expert" in strips


def test_a_token_that_fell_back_is_faint_and_said_to_be() -> None:
    page = page_of()
    _, words = next(m.groups() for m in STRIP.finditer(page) if "sync token" in m[0])
    assert words == "layer 0, sync token \u25b8: expert 0, by fallback"
    assert f'fill="{expert_colour(0)}" fill-opacity="{opacity(FAINT):.2f}"' in page


def test_one_layer_alone_needs_no_choice_and_others_are_chosen_without_a_script() -> None:
    assert is_alone(page_of())
    assert 'name="trace-layer" class="l-1"' in page_of()
    one = page_of(layers=(1,))
    assert is_alone(one) and "fieldset" not in tags_of(one)
    assert "layers 1 of 2; --layer chooses others" in text_of(one)
    assert not [m for m in STRIP.finditer(one) if "layer 0" in m[2]]


def test_the_same_stands_in_a_table_for_those_who_cannot_see_pictures() -> None:
    text = text_of(page_of())
    assert "3 red text experts 0, 3 no routed expert" in text
    assert "3.0 s 2 (75 %), 1 (25 %)" in text
    assert "1.0 s 1.0 s \u2013 red" in text  # the event


def test_frames_are_inside_the_page_with_their_times() -> None:
    page = page_of()
    assert len(re.findall(r'<img alt="frame at (1|3).0 s" src="data:image/jpeg;base64,/9j/', page)) == 2


def test_text_of_users_and_models_is_escaped() -> None:
    page = page_of(text=EVIL, prompt=EVIL)
    assert is_alone(page) and "&lt;script&gt;" in page
    assert f"did not parse at token 7: odd {EVIL}" in text_of(page).replace("&lt;", "<").replace("&gt;", ">").replace(
        "&quot;", '"'
    )
