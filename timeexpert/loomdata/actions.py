"""What the person does and when: numbered frames to an endpoint, ranges of frame ids back, ids to seconds.

Frame ids count from 0 at the start of the stretch, ``fps`` of them a second: id j stands at ``start_s + j / fps``. A
range "from a to b" begins there for a and ends where id b + 1 stands, or at the end of the stretch: ranges that follow
each other touch. That is what the paper's example shows (VideoLoom, Fig. 8: "6.0s - 19.0s", then "19.0s - 48.5s").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from timeexpert.data.endpoint import Message
from timeexpert.data.mask_tracks import SEG

from .asking import Fault
from .config import ActionsConfig
from .marking import image_part

MAX_ANSWER, MAX_TEXT = 200_000, 2000  # characters
_LINE = re.compile(r"from +(\d{1,6}) +to +(\d{1,6}) *: *(.*\S)", re.IGNORECASE)

PROMPT = """You see a piece of a video as a row of frames, in order. The red number in the lower left corner of a \
frame is its id. In each frame the person in question has a bright outline and a bright mark "1" in the middle; where \
neither is drawn, the person is not in view.

Say what this person does, from the first frame to the last one.
- Divide the frames into ranges that follow each other: every frame is in one range and no frame is in two.
- Begin a new range where the person's action or movement changes, not after a fixed number of frames. A range has at \
least {min_frames} frames.
- Describe in a range what the person does, how they move, what they do with things and with others, and what changes \
in how they look. Use at most 5 sentences, and make ranges differ from each other.
- Write of this person alone: nothing about background, setting, camera, mood or feelings, and no mention of the mark \
or of the frame ids. Write "the person", "he" or "she" as fits.

Reply with one line for each range, and nothing else, in this form:
from 0 to 20: The person opens a cupboard and takes out two cups, one in each hand.
from 21 to {example_end}: The person puts the cups on a table and turns to the left.

The last frame id is {max_id}: the first range begins at 0, the last one ends at {max_id}."""


@dataclass(frozen=True)
class Stretch:
    """Shots beside each other that all have a tracklet: ``shots`` are their numbers."""

    start_s: float
    end_s: float
    shots: tuple[int, ...]

    def num_frames(self, fps: float) -> int:
        """How many numbered frames it has: those that stand before its end."""
        return max(1, ceil((self.end_s - self.start_s) * fps - 1e-6))

    def frame_time_s(self, i: int, fps: float) -> float:
        """Where id ``i`` stands."""
        return self.start_s + i / fps

    def seconds(self, first: int, last: int, fps: float) -> tuple[float, float]:
        """Start and end of the range of ids ``first`` to ``last``, rounded to milliseconds."""
        end_s = min(self.frame_time_s(last + 1, fps), self.end_s)
        return round(self.frame_time_s(first, fps), 3), round(end_s, 3)


@dataclass(frozen=True)
class Range:
    """What is done from frame id ``first`` to ``last``, both included."""

    first: int
    last: int
    text: str


@dataclass(frozen=True, eq=False)
class ActionQuestion:
    """Asks what happens in a stretch. ``pictures()`` gives its marked frames as JPEG, in order of their ids."""

    num_frames: int
    pictures: Callable[[], Sequence[bytes]]
    config: ActionsConfig

    def messages(self) -> list[Message]:
        """One user message: the words, then every frame."""
        max_id = self.num_frames - 1
        text = PROMPT.format(min_frames=self.config.min_frames, max_id=max_id, example_end=max(max_id, 40))
        parts = [image_part(jpeg) for jpeg in self.pictures()]
        return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]

    def read(self, text: str) -> list[Range] | Fault:
        """The ranges, held to the rules: form, order, coverage, overlap, length and the last id."""
        return read_ranges(text, self.num_frames, self.config.min_frames)


def read_ranges(text: str, num_frames: int, min_frames: int) -> list[Range] | Fault:
    """The lines of an answer about frames 0 to ``num_frames - 1``, or the first rule that they break."""
    if len(text) > MAX_ANSWER:
        return Fault(f"it has more than {MAX_ANSWER} characters.")
    ranges: list[Range] = []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), 1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            return Fault(f'line {number} ({line.strip()[:60]!r}) must be like "from 0 to 20: what the person does".')
        said = Range(int(match[1]), int(match[2]), match[3])
        broken = _broken(said, ranges, num_frames, min_frames)
        if broken:
            return Fault(f"line {number} (from {said.first} to {said.last}) {broken}")
        ranges.append(said)
    if not ranges:
        return Fault("it has no line.")
    if ranges[-1].last != num_frames - 1:
        return Fault(
            f"it ends at frame {ranges[-1].last}; frames {ranges[-1].last + 1} to {num_frames - 1} are missing."
        )
    return ranges


def _broken(said: Range, before: Sequence[Range], num_frames: int, min_frames: int) -> str:
    due = before[-1].last + 1 if before else 0
    least = min(min_frames, num_frames)
    if said.last >= num_frames:
        return f"names frame {said.last}; the last one is {num_frames - 1}."
    if said.first < due:
        return f"overlaps the line before it: it must begin at {due}."
    if said.first > due:
        return f"leaves out frames {due} to {said.first - 1}: it must begin at {due}."
    if said.last - said.first + 1 < least:
        return f"has {max(0, said.last - said.first + 1)} frames; a range has at least {least}."
    if SEG in said.text:
        return f"has {SEG} in its text, which stands for a mask: write words alone."
    return f"has a text of more than {MAX_TEXT} characters." if len(said.text) > MAX_TEXT else ""
