"""The model: token counts and layout, the state of [SEG], losses, answers, published weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import InternVLForConditionalGeneration, Sam2VideoModel

from timeexpert.data.collate import Shown
from timeexpert.data.records import Sample
from timeexpert.errors import UserError
from timeexpert.families.video_loom.answer_forms import AnswerForms
from timeexpert.families.video_loom.answering import LoomAnswering
from timeexpert.families.video_loom.batch import LoomWriter
from timeexpert.families.video_loom.family import FAMILY
from timeexpert.families.video_loom.mask_head import normalised
from timeexpert.families.video_loom.model import VideoLoom
from timeexpert.families.video_loom.settings import LoraConfig, ModelConfig
from timeexpert.families.video_loom.visual import pool_tokens, random_keyframes, spread_keyframes
from timeexpert.families.video_loom.weights import load_published
from timeexpert.model.decoding import Sampler, Writing
from timeexpert.model.weights import WeightsError
from timeexpert.predict import Clip, InferenceConfig, Predictor, Request, load_model
from timeexpert.stages.config import StageConfig
from timeexpert.stages.optim import freeze
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.text import SentencePieceText

from .loom import TINY, make, noise, row, sample, settings, times_s, writer_of


def test_a_video_at_full_size_has_3328_visual_tokens() -> None:
    text: Any = type("Pieces", (), {"vocab_size": 151674, "pad_id": 0, "eos_id": 2})
    text.prompt, text.encode = (lambda said: ([5], [6])), (lambda said: [7] * 9)
    own = replace(ModelConfig(), lora=LoraConfig(rank=0))
    with torch.device("meta"):
        model = VideoLoom(FAMILY.config(own, text, "sdpa"))
        frames = torch.empty(128, 3, 448, 448)
        tokens = model.look(frames)
        assert tokens.shape == (128, 256, 3584)
        assert model.fast(tokens).shape == (128, 16, 3584)
        assert model.mask_head.decode(model.mask_head.features(torch.empty(2, 3, 1024, 1024)), torch.empty(2, 256))[
            0
        ].shape == (2, 256, 256)
    writer = LoomWriter.of(model.config, text)
    ids = writer.video([float(i) for i in range(128)])
    fast, slow = ids.count(model.config.fast_token_id), ids.count(model.config.slow_token_id)
    assert (fast, slow, fast + slow) == (128 * 16, 5 * 256, 3328)
    assert writer.video_length(128) == len(ids) == 1 + 3328 + 128 * 9


def test_frame_ids_stand_behind_their_frames_and_keyframes_behind_all(words: SentencePieceText) -> None:
    writer = writer_of(make(words), words)
    c = make(words).config
    lead = words.prompt("")[0]
    wanted = [*lead]
    for i in range(3):
        wanted += [c.fast_token_id] * 4 + words.encode(f"This sampled frame id is {i}")
    assert writer.video([0.0, 1.0, 2.0]) == [*wanted, *[c.slow_token_id] * (2 * 16)]


@pytest.mark.parametrize(
    ("visual", "task", "fast", "slow"),
    [
        ("slow", "moment_retrieval", 0, 32),
        ("fast", "referring_segmentation", 20, 0),
        ("slowfast", None, 20, 32),
        ("per_task", "moment_retrieval", 20, 0),
        ("per_task", "referring_segmentation", 0, 32),
        ("per_task", "general", 0, 32),
        ("per_task", None, 20, 32),
    ],
)
def test_switches_say_which_tokens_a_question_reads(
    visual: str, task: str | None, fast: int, slow: int, words: SentencePieceText
) -> None:
    model = make(words, visual=visual)
    shown = times_s(5)
    ids = [*writer_of(model, words).video(shown), *writer_of(model, words).question("The box?", shown, task)]
    assert ids.count(model.config.fast_token_id) == fast and ids.count(model.config.slow_token_id) == slow


def test_fast_tokens_are_means_samples_or_bilinear() -> None:
    tokens = torch.arange(16.0).view(1, 16, 1)  # 4 x 4
    assert pool_tokens(tokens, 4, 2, "average").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_tokens(tokens, 4, 2, "subsample").flatten().tolist() == [0, 2, 8, 10]
    assert pool_tokens(tokens, 4, 2, "interpolate").flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_tokens(tokens, 4, 4, "interpolate").flatten().tolist() == [7.5]


def test_keyframes_are_spread_in_inference_and_random_in_training() -> None:
    assert spread_keyframes(64, 5) == [6, 19, 32, 44, 57]
    assert spread_keyframes(2, 5) == [0, 0, 1, 1, 1]
    drawn = [random_keyframes(64, 5, np.random.default_rng(i)) for i in range(50)]
    assert all(d == sorted(set(d)) and len(d) == 5 for d in drawn) and len({tuple(d) for d in drawn}) > 45
    assert random_keyframes(64, 5, np.random.default_rng(3)) == drawn[3]
    assert len(random_keyframes(2, 5, np.random.default_rng(0))) == 5


def test_frames_become_tokens_as_in_transformers_internvl(words: SentencePieceText, tmp_path: Path) -> None:
    model = make(words)
    torch.manual_seed(5)
    theirs = InternVLForConditionalGeneration(model.config.mllm_config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    load_published(model, str(tmp_path), None)
    batch = writer_of(model, words).batch([row(writer_of(model, words), 5, sample("moment_retrieval", 5))])
    with torch.inference_mode():
        wanted = theirs.model.get_image_features(pixel_values=normalised(batch.pixel_values, torch.float32))
        assert_close(model.look(batch.pixel_values), wanted.pooler_output, atol=1e-5, rtol=1e-5)
        ids = torch.tensor([words.encode("When does the circle grow?")])
        assert_close(model.logits(model.read(ids)[0])[..., :-1], theirs(ids).logits, atol=1e-5, rtol=1e-5)
    mean = theirs.get_input_embeddings().weight.mean(0, keepdim=True)
    assert_close(model.seg_embedding.data, mean)


def test_sam2s_weights_are_loaded_and_wrong_folders_are_named(words: SentencePieceText, tmp_path: Path) -> None:
    model = make(words)
    theirs = Sam2VideoModel(model.config.sam_config)
    theirs.save_pretrained(tmp_path / "sam")
    loaded = load_published(model, None, str(tmp_path / "sam")).loaded
    assert {n.removeprefix("mask_head.sam.") for n in loaded} == set(model.mask_head.sam.state_dict())
    for name, value in theirs.state_dict().items():
        assert model.mask_head.sam.state_dict()[name].equal(value), name
    with pytest.raises(WeightsError, match=r"has no value for mllm\..* one in transformers' form, whose name ends in"):
        load_published(model, str(tmp_path / "sam"), None)
    larger = make(words, sam=replace(TINY["sam"], mlp_dim=32))
    with pytest.raises(WeightsError, match=r"has shape \[16.*this model's \[32.*Set the sizes under model"):
        load_published(larger, None, str(tmp_path / "sam"))


def test_lora_stands_beside_published_matrices_and_only_the_papers_parts_train(
    words: SentencePieceText, tmp_path: Path
) -> None:
    plain = make(words)
    InternVLForConditionalGeneration(plain.config.mllm_config).save_pretrained(tmp_path)
    model = make(words, lora=LoraConfig(rank=2, dropout=0.0))
    load_published(model, str(tmp_path), None)
    load_published(plain, str(tmp_path), None)
    ids = torch.tensor([words.encode("When?")])
    assert_close(model.read(ids)[0], plain.read(ids)[0])  # new updates are zero
    stage = StageConfig(name="s", kind="joint_tuning", steps=1, mix={"a": 1})
    trained = freeze(model, stage)
    heads = {
        n.split(".")[0] if n.startswith("seg_") else ".".join(n.split(".")[:3]) for n in trained if "lora" not in n
    }
    assert heads == {
        "seg_embedding",
        "seg_output",
        "mllm.model.language_model",
        "mllm.lm_head.weight",
        "mask_head.projection.0",
        "mask_head.projection.2",
        "mask_head.sam.mask_decoder",
    }
    words_only = [n for n in trained if "language_model" in n and "lora" not in n]
    assert words_only == ["mllm.model.language_model.embed_tokens.weight"]
    writer = writer_of(model, words)
    batch = writer.batch([row(writer, 4, sample("referring_segmentation", 4, 1))])
    model.train()
    model.training_step(batch, model.label_counts(batch)).loss.backward()
    without = {n for n, p in model.named_parameters() if n in trained and p.grad is None}
    # the heads of predicted IoU and of the object's presence have no loss in the paper
    assert all("iou_prediction_head" in n or "pred_obj_score_head" in n for n in without), without


@pytest.fixture(scope="module", params=["slowfast", "per_task"])
def predictor(request: pytest.FixtureRequest, words: SentencePieceText) -> Predictor:
    model = make(words, seed=3, visual=request.param)
    return Predictor(model, words, InferenceConfig(num_frames=9, max_new_tokens=8))


def request_of(frames: int, task: str | None = None) -> Request:
    return Request(Clip(noise(frames, frames), np.array(times_s(frames)), frames * 1.5), "When? " * frames, task)


def shown(predictor: Predictor, request: Request, *parts: str | int) -> Writing:
    """An answer to ``request`` that says ``parts``: words, and ids."""
    with torch.inference_mode():
        answer = predictor.begin(request, predictor.encode(request.clip))
    answer.tokens = []
    for part in parts:
        answer.tokens += predictor.text.encode(part) if isinstance(part, str) else [part]
    return answer


def test_answers_are_the_same_alone_and_in_company(predictor: Predictor) -> None:
    tasks = [None, "moment_retrieval", "referring_segmentation", "general"]
    requests = [request_of(frames, tasks[frames % 4]) for frames in (1, 2, 7, 9, 12, 3, 4, 5, 6)]
    together = predictor.answer(requests)
    for one, answer in zip(requests, together, strict=True):
        assert predictor.answer([one])[0] == answer
    assert len({answer.text for answer in together}) > 1
    assert together[0].frame_times_s == (0.75,)


def test_a_drawn_answer_reads_its_question_and_the_tokens_of_its_task(predictor: Predictor) -> None:
    requests = [request_of(5, "referring_segmentation"), request_of(7, "moment_retrieval"), request_of(4)]
    likeliest = dict(predictor.written(requests))
    samplers = [[Sampler(1e-4, np.random.default_rng(i)) for i in range(2)] for _ in requests]
    for i, group in enumerate(predictor.draw(requests, samplers)):
        assert [answer.tokens for answer in group] == [likeliest[i].tokens] * 2
        assert all(answer.prompt_ids == predictor.prompt_ids(requests[i])[0] for answer in group)


def test_an_answer_is_read_one_step_past_seg(predictor: Predictor) -> None:
    seg, model = predictor.text.vocab_size, predictor.model
    request = request_of(5, "referring_segmentation")
    cut = shown(predictor, request, "It is", seg)  # the budget ended with [SEG], which no step has read
    whole = shown(predictor, request, "It is", seg, ".", predictor.text.eos_id)
    ids, _ = predictor.prompt_ids(request)
    with torch.inference_mode():
        hidden, _ = model.read(torch.tensor([[*ids, *cut.tokens]]), predictor.visual_tokens(request.clip))
        for answer in (cut, whole):
            assert_close(predictor.answering.states(answer), hidden[0, -1:], atol=1e-5, rtol=1e-5)
        assert (hidden[0, -1] - hidden[0, -2]).abs().max() > 0.01
        tracks = predictor.answering.tracks(request, whole)
    assert [t.object_id for t in tracks] == ["0"] and tracks[0].times_s == tuple(times_s(5))
    assert tracks[0].size == (64, 64) and any(tracks[0].rles)
    assert predictor.prediction(request, whole).tracks == tracks
    assert predictor.prediction(replace(request, masks=False), whole).tracks == ()


def test_each_seg_has_a_track_of_its_own(predictor: Predictor) -> None:
    seg = predictor.text.vocab_size
    answer = shown(predictor, request_of(4), "They are", seg, ",", seg, ".", predictor.text.eos_id)
    told = predictor.prediction(request_of(4), answer)
    assert told.text == "They are [SEG], [SEG]." and len(told.tracks) == 2 and told.problems == []


def test_an_answer_that_names_too_many_objects_has_masks_of_the_first_ones(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.model.config, "max_objects", 1)
    answer = shown(predictor, request_of(2), *[predictor.text.vocab_size] * 3, predictor.text.eos_id)
    told = predictor.prediction(request_of(2, "referring_segmentation"), answer)
    assert [t.object_id for t in told.tracks] == ["0"]
    (problem,) = told.problems
    assert problem.reason == "the answer names 3 objects; masks are drawn of the first 1 (max_objects)"


def test_frame_ids_are_told_in_seconds(predictor: Predictor) -> None:
    answer = shown(predictor, request_of(6), "The given query happens from 2 to 4.", predictor.text.eos_id)
    told = predictor.prediction(request_of(6), answer)
    assert told.events == EventSequence((Event(3.0, 7.5),))
    answer = shown(predictor, request_of(6), "The given query happens from 2 to 6.")
    assert [p.reason for p in predictor.prediction(request_of(6, "moment_retrieval"), answer).problems] == [
        "from 2 to 6: frames go from 0 to 5, and no end is before",
        "the answer has no end of sequence",
    ]


def test_a_model_folder_answers_as_the_model_it_was_saved_from(predictor: Predictor, tmp_path: Path) -> None:
    predictor.model.save_pretrained(tmp_path)
    again = Predictor(load_model(tmp_path).eval(), predictor.text, predictor.config)
    assert again.answer([request_of(9)]) == predictor.answer([request_of(9)])
    seg = predictor.text.vocab_size
    tracks = [p.prediction(request_of(5), shown(p, request_of(5), seg)).tracks for p in (again, predictor)]
    assert tracks[0] == tracks[1]


def test_an_answer_reads_back_from_its_tokens(words: SentencePieceText) -> None:
    writer = writer_of(make(words), words)
    said = {
        "referring_segmentation": "They are [SEG], [SEG].",
        "moment_retrieval": "The given query happens from 1 to 2.",
        "dense_captioning": "From 1 to 2, a dog [SEG].",  # letters of a caption are no token
    }
    for task, text in said.items():
        objects = 2 if task == "referring_segmentation" else 0
        event = Event(3, 9, text="" if objects else "a dog [SEG]")
        ids = writer.answer(task, EventSequence((event,)), objects, Shown(10, 30.0))
        assert ids[-1] == words.eos_id and ids.count(writer.seg_id) == objects
        assert writer.said(ids) == text
    with pytest.raises(UserError, match="duration_s is not known, and this model answers with frame ids"):
        writer.answer("moment_retrieval", EventSequence((Event(3, 9),)), 0, Shown(10, None))


def test_a_model_keeps_the_words_of_its_answers(words: SentencePieceText, tmp_path: Path) -> None:
    model = make(words, answers=AnswerForms(moments="Look at {spans}.", span="{first} until {last}"))
    model.save_pretrained(tmp_path)
    writer = writer_of(VideoLoom.from_pretrained(tmp_path), words)
    ids = writer.answer("moment_retrieval", EventSequence((Event(3, 9),)), 0, Shown(10, 30.0))
    assert writer.said(ids) == "Look at 1 until 2."
    told, problems, _ = LoomAnswering(model, words).told(ids, "moment_retrieval", request_of(10).clip)
    assert len(told) == 1 and problems == []


def test_a_vocabulary_is_trained_on_the_models_own_wordings() -> None:
    answers = AnswerForms(moments="{spans}!", span="{first} .. {last}")
    own = settings(max_frames=4, id_text="nr {id}", answers=answers, task_hints=False)
    when = Sample(
        id="a",
        video="a.mp4",
        duration_s=8.0,
        task="moment_retrieval",
        prompt="When?",
        events=EventSequence((Event(2, 6),)),
    )
    assert FAMILY.texts(when, own) == ["When?", "1 .. 2!", "nr 0", "nr 1", "nr 2", "nr 3"]


def test_a_question_says_what_its_answer_holds(words: SentencePieceText) -> None:
    shown_ = times_s(3)
    asked = words.decode(writer_of(make(words), words).question("The box?", shown_, "referring_segmentation"))
    assert asked.strip() == "The box? Please segment."
    second = writer_of(make(words), words).question("The box? Please segment.", shown_, "referring_segmentation")
    assert words.decode(second) == asked  # as LoomBench asks a combined question for its masks
    plain = writer_of(make(words, task_hints=False), words)
    assert words.decode(plain.question("The box?", shown_, "referring_segmentation")).strip() == "The box?"


def test_more_frames_than_the_model_takes_are_refused(predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"13 frames: this model takes 1 to 12 \(max_frames\)"):
        predictor.answer([request_of(13)])


@pytest.mark.parametrize(
    ("changes", "words_"),
    [
        ({"fast_pool": 3}, r"fast_pool \(3\) does not divide the 4 tokens of a frame's side"),
        ({"id_text": "frame"}, r"id_text \('frame'\) must have one \{id\}"),
        ({"id_text": "{id} {x}"}, r"id_text \('\{id\} \{x\}'\) cannot be filled in: KeyError\('x'\)"),
        ({"keyframes": 0}, r"keyframes \(0\) must be 1 or more"),
        ({"max_objects": 0}, r"max_objects \(0\) must be 1 or more"),
    ],
)
def test_settings_that_make_no_model_are_refused(changes: dict[str, Any], words_: str) -> None:
    with pytest.raises(UserError, match=words_):
        settings(**changes)


@pytest.mark.parametrize(
    ("part", "changes", "words_"),
    [
        ("vision", {"image_size": 36}, r"image_size \(36\) must be a multiple of twice patch_size \(4\)"),
        ("sam", {"image_size": 48}, r"image_size \(48\) must be a multiple of 32"),
        ("sam", {"hidden_size": 96, "decoder_heads": 4}, r"hidden_size \(96\) must be a multiple of 64"),
        ("sam", {"blocks": (1, 1)}, r"blocks \(\[1, 1\]\) and windows"),
        ("lora", {"targets": ("qkv",)}, "targets: 'qkv' is not one of q_proj"),
        ("mask_loss", {"importance": 2.0}, r"importance \(2.0\) must be between 0 and 1"),
    ],
)
def test_sizes_that_make_no_part_are_refused(part: str, changes: dict[str, Any], words_: str) -> None:
    with pytest.raises(UserError, match=words_):
        replace(TINY[part], **changes)
