"""Answers that are no text, and questions whose video cannot be read: asked anew or refused, the others go on."""

import json

from tests.data.chat_server import completion, serving
from timeexpert.data.endpoint import Endpoint, EndpointConfig
from timeexpert.data.video import VideoError
from timeexpert.loomdata.asking import Fault, Refused, ask_all

HALF = "a man \ud83d in red"


class Named:
    """Asks for a phrase that begins with ``name``; None stands for a video that does not open."""

    def __init__(self, name):
        self.name = name

    def messages(self):
        if self.name is None:
            raise VideoError("b.mp4: no such file.")
        return [{"role": "user", "content": self.name}]

    def read(self, text):
        return text if text.lower().startswith(self.name) else Fault("it is another phrase.")


def asked(chat, folder, names, attempts=2):
    config = EndpointConfig(base_url=chat.base_url, model="m", backoff_s=0, retries=0, concurrency=1)
    with Endpoint(config, folder / "answers.jsonl") as endpoint:
        return dict(ask_all(endpoint, [Named(name) for name in names], attempts))


def test_half_a_surrogate_pair_is_a_fault_that_goes_back_as_text(tmp_path):
    def reply(number, request):
        return completion(HALF if len(request["messages"]) == 1 else "a man in red")

    with serving(reply) as chat:
        assert asked(chat, tmp_path, ["a man"], attempts=1) == {
            0: Refused(
                "not the form asked for",
                "asked once; the last answer: character 7 is half of a surrogate pair, which is no text.",
            )
        }
        assert asked(chat, tmp_path, ["a man"]) == {0: "a man in red"}  # nothing was kept of the bad answer
        _, said, again = chat.requests[-1]["messages"]
    assert said["content"] == "a man ? in red" and "character 7 is half of a surrogate pair" in again["content"]


def test_a_question_whose_video_cannot_be_read_is_refused_and_the_others_are_answered(tmp_path):
    def reply(number, request):
        words = [message["content"] for message in request["messages"]]
        return completion("?" if words == ["c"] else words[0].upper())

    with serving(reply) as chat:
        said = asked(chat, tmp_path, [None, "a", None, "c", "d"])
    unreadable = Refused("unreadable video", "b.mp4: no such file.")
    assert said == {0: unreadable, 1: "A", 2: unreadable, 3: "C", 4: "D"}
    kept = [json.loads(line)["text"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert kept == ["A", "D", "C"]
