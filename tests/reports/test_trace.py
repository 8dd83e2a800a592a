from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from timeexpert.data.collate import EventWriter
from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.model import TimeExpert, TimeExpertConfig
from timeexpert.predict import Predictor, Request
from timeexpert.reports import ReportError
from timeexpert.reports.trace import DRAWN_LAYERS, ExpertTrace, choose_layers, shares, trace, words
from timeexpert.tokenization import Event, EventCodec, TokenType

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor.from_pretrained(ROOT / "checkpoints" / "tiny", device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "scene.mp4"
    settings = SynthConfig(seed=3, min_duration_s=20.0, max_duration_s=24.0, min_event_s=6.0, max_event_s=9.0)
    encode(make_scene(settings, 0), path)
    return path


@pytest.fixture(scope="module")
def asked(shipped: Predictor, video: Path) -> Request:
    return Request(shipped.clip(video), "What happens, and when?", "dense_captioning")


@pytest.fixture(scope="module")
def traced(shipped: Predictor, asked: Request) -> ExpertTrace:
    return trace(shipped, asked)


def with_moe(predictor: Predictor, **moe: object) -> Predictor:
    """Another untrained model like this one, but for these MoE settings."""
    config = predictor.model.config
    changed = TimeExpertConfig.from_dict({**config.to_dict(), "moe": {**config.moe, **moe}})
    torch.manual_seed(0)
    model = TimeExpert(changed).eval()
    return Predictor(model, predictor.text, predictor.config, reader=predictor.reader)


def hooks(model: TimeExpert) -> Iterator[int]:
    for module in model.modules():
        yield len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_generation_step_by_step_and_one_pass_over_the_whole_answer_use_the_same_experts(
    shipped: Predictor, asked: Request, traced: ExpertTrace
) -> None:
    prompt, _ = shipped.prompt_ids(asked)
    answer = shipped.answering.codec.encode(traced.prediction.events, end=False, pairs=True)
    ids = torch.tensor([prompt + answer])
    model = shipped.model
    with torch.inference_mode():
        frames = torch.from_numpy(asked.clip.frames).permute(0, 3, 1, 2).contiguous()
        _, routings = model.decoder(model.embed(ids, frames), model.token_types(ids))
    assert len(traced.tokens) == len(answer) > 10
    for layer, routing in enumerate(routings):
        for place, token in enumerate(traced.tokens, len(prompt)):
            assert token.experts[layer] == tuple(routing.mask_TE[place].nonzero()[:, 0].tolist())
            assert token.fell_back[layer] == bool(routing.fallback_T[place])
        kinds = model.token_types(ids)[0]
        vision = routing.mask_TE[kinds == TokenType.VISION].double().reshape(len(traced.frames), -1, 6).mean(1)
        assert np.array_equal(np.stack([frame.vision[layer] for frame in traced.frames]), vision.numpy())
    assert len({t.experts for t in traced.tokens}) > 1  # the routing is no constant
    assert {t.fell_back[3] for t in traced.tokens} == {True, False}


def test_tracing_changes_no_answer_and_leaves_no_hook(shipped: Predictor, asked: Request, traced: ExpertTrace) -> None:
    before = sum(hooks(shipped.model))
    again = trace(shipped, asked)
    assert sum(hooks(shipped.model)) == before
    assert again.prediction == shipped.answer([asked])[0] == traced.prediction
    broken = Predictor(shipped.model, shipped.text, shipped.config)
    narrow = EventCodec(shipped.text, shipped.answering.codec.score_format)
    broken.answering.writer = EventWriter(narrow, shipped.text)  # cannot write these frame times
    with pytest.raises(ValueError, match="is"):
        trace(broken, asked)
    assert sum(hooks(shipped.model)) == before


def test_experts_of_an_answer_do_not_depend_on_what_was_asked_before(
    shipped: Predictor, video: Path, asked: Request, traced: ExpertTrace
) -> None:
    trace(shipped, Request(shipped.clip(video, num_frames=3), "Which colours are there?", "general"))
    again = trace(shipped, asked)
    assert again.tokens == traced.tokens
    assert all(np.array_equal(a.vision, b.vision) for a, b in zip(again.frames, traced.frames, strict=True))


def test_tokens_are_those_of_the_answer_without_its_end(shipped: Predictor, traced: ExpertTrace) -> None:
    assert len(traced.tokens) == traced.prediction.completion_tokens - 1
    text = "".join(t.text for t in traced.tokens if t.type == "text")
    said = "".join(event.text.replace(" ", "") for event in traced.prediction.events)
    assert text == said
    assert [t.text for t in traced.tokens].count("\u25b8") == len(traced.prediction.events)
    assert all(1 <= len(experts) <= 6 for token in traced.tokens for experts in token.experts)


def test_shares_of_a_frame_are_of_its_own_tokens(traced: ExpertTrace) -> None:
    assert [f.time_s for f in traced.frames] == list(traced.prediction.frame_times_s)
    for frame in traced.frames:
        assert frame.vision.shape == frame.frame_time.shape == (4, 6)
        for share, tokens in ((frame.vision, 8), (frame.frame_time, 6)):
            assert np.allclose(share * tokens, (share * tokens).round())  # eighths and sixths
            assert (share.sum(1) >= 1 - 1e-9).all()  # every token has an expert: fallback top1
    assert shares(np.array([0.0, 0.25, 1.0, 0.25])) == {2: 1.0, 1: 0.25, 3: 0.25}


def test_words_of_an_answer(shipped: Predictor) -> None:
    codec = shipped.answering.codec
    ids = codec.encode([Event(3.0, 11.5, (4.5,), "a red square moves"), Event(text="left")], end=False)
    joined: dict[int, str] = {}
    for text, word in words(codec, ids):
        joined[word] = joined.get(word, "") + text
    expected = ["\u25b8", "0003.0,", "0011.5;", "4.5;", "a", "red", "square", "moves", "\u25b8", ";", ";", "left"]
    assert list(joined.values()) == expected
    assert list(joined) == list(range(len(expected)))


def test_characters_made_of_several_byte_tokens_are_written(shipped: Predictor) -> None:
    ids = shipped.answering.codec.encode([Event(text="é 漢 red")], end=False)
    written = words(shipped.answering.codec, ids)
    assert len(written) == len(ids) > 8
    joined: dict[int, str] = {}
    for text, word in written:
        joined[word] = joined.get(word, "") + text
    assert list(joined.values()) == ["\u25b8", ";", ";", "é", "漢", "red"]


def test_json_holds_the_layers_that_were_asked_for(traced: ExpertTrace) -> None:
    row = json.loads(json.dumps(traced.to_json([1, 3]), allow_nan=False))
    assert row["layers"] == [1, 3] and row["active"] == [[0, 1, 2, 3, 4, 5]] * 2
    assert row["tokens"][0]["experts"] == [list(traced.tokens[0].experts[1]), list(traced.tokens[0].experts[3])]
    assert len(row["frames"]) == 16 and set(row["frames"][0]) == {"time_s", "vision", "frame_time"}
    assert row["events"] == traced.prediction.events.to_json()


def test_experts_in_use_are_those_of_the_chosen_layers(traced: ExpertTrace) -> None:
    for layers in ([0], [3], [0, 1, 2, 3]):
        found = {e for t in traced.tokens for layer in layers for e in t.experts[layer]}
        found |= {e for f in traced.frames for layer in layers for e in shares(f.vision[layer] + f.frame_time[layer])}
        assert traced.used(layers) == sorted(found)


def test_a_topk_model_is_traced_with_exactly_k_experts(shipped: Predictor, asked: Request) -> None:
    found = trace(with_moe(shipped, router="topk", top_k=3), asked)
    assert found.router == "topk"
    assert {len(experts) for token in found.tokens for experts in token.experts} == {3}
    assert not any(any(token.fell_back) for token in found.tokens)


def test_tokens_without_any_expert_are_shown_as_such(shipped: Predictor, asked: Request) -> None:
    predictor = with_moe(shipped, fallback="skip")
    with torch.no_grad():
        for gate in predictor.model.gates:
            gate.threshold.fill_(1e3)  # no expert accepts anything
    found = trace(predictor, asked)
    assert {experts for token in found.tokens for experts in token.experts} == {()}
    assert all(all(token.fell_back) for token in found.tokens)
    assert found.used([0, 1, 2, 3]) == []


def test_a_model_of_single_experts_is_refused(shipped: Predictor, asked: Request) -> None:
    with pytest.raises(ReportError, match="each layer of this model has one expert, .*: there is nothing to trace"):
        trace(with_moe(shipped, num_experts=1, top_k=1), asked)


def test_layers_are_those_asked_for_or_a_few_evenly_chosen() -> None:
    assert choose_layers(4, []) == [0, 1, 2, 3]
    assert choose_layers(28, []) == [0, 9, 18, 27]
    assert len(choose_layers(28, [])) == DRAWN_LAYERS
    assert choose_layers(1, []) == [0]
    assert choose_layers(28, [5, 2, 5]) == [2, 5]
    for layer in (4, -1):
        with pytest.raises(ReportError, match=rf"--layer {layer}: the model has 4 layers, 0 to 3."):
            choose_layers(4, [layer])
