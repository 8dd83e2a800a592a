"""The model: InstructBLIP's wiring, masks, the paper's sizes, its loss and its answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, LlamaForCausalLM

from timeexpert.data.collate import Reading, Row, build_row
from timeexpert.data.records import Sample
from timeexpert.errors import UserError
from timeexpert.families.temporal_vlm.aggregators import Aggregator
from timeexpert.families.temporal_vlm.frame_encoder import PIXEL_MEAN, PIXEL_STD
from timeexpert.families.temporal_vlm.model import TemporalVLM
from timeexpert.families.temporal_vlm.settings import ModelConfig
from timeexpert.families.temporal_vlm.weights import load_published
from timeexpert.model.weights import WeightsError
from timeexpert.predict import Clip, InferenceConfig, Predictor, Request, load_model
from timeexpert.tokenization import Event, EventSequence
from timeexpert.tokenization.text import SentencePieceText

from .conftest import FAMILY, make, noise, settings, writer_of


def row(model: TemporalVLM, text: SentencePieceText, frames: int, questions: int = 1) -> Row:
    """A row about ``frames`` frames of noise, one every 1.5 s."""
    writer = writer_of(model, text)
    samples = [
        Sample(
            id=f"q{i}",
            video="v.mp4",
            task="action_segmentation",
            prompt="When? " * (i + 1),
            events=EventSequence((Event(0.5, 1.5 + i, text="place the part"),) * (i + 1)),
            duration_s=60.0,
        )
        for i in range(questions)
    ]
    times_s = writer.shown_s(np.arange(frames) * 1.5 + 0.1)
    made, dropped = build_row(writer, samples, noise(frames, frames), times_s, Reading((frames,)))
    assert not dropped
    return made


def see(model: TemporalVLM, text: SentencePieceText, *frames: int) -> torch.Tensor:
    """Video tokens of a batch of videos with so many frames each."""
    batch = writer_of(model, text).batch([row(model, text, n) for n in frames])
    with torch.inference_mode():
        return model.see(batch.pixel_values, batch.frame_clips, batch.stamp_ids, batch.stamp_mask, len(frames))


def test_frames_are_encoded_as_by_transformers_instructblip(words: SentencePieceText, tmp_path: Path) -> None:
    model = make(words)
    config = InstructBlipConfig(
        vision_config=model.config.vision_config.to_dict(),
        qformer_config=model.config.qformer_config.to_dict(),
        text_config={"model_type": "opt", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "ffn_dim": 8,
                     "num_attention_heads": 1, "word_embed_proj_dim": 8},
        num_query_tokens=2,
    )  # fmt: skip
    torch.manual_seed(5)
    theirs = InstructBlipForConditionalGeneration(config).eval()
    torch.nn.init.normal_(dict(theirs.named_parameters())[_named(theirs, "query_tokens")])
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    done = load_published(model, str(tmp_path), None)
    # the time's sentence is written in the language model's words: the table of those stays new
    assert done.missing == ("frame_encoder.qformer.embeddings.word_embeddings.weight",)
    words_table = model.frame_encoder.qformer.embeddings.word_embeddings.weight
    words_table.data.copy_(dict(theirs.named_parameters())[_named(theirs, "word_embeddings.weight", "qformer")])
    frames = torch.from_numpy(noise(4)).permute(0, 3, 1, 2)
    ids, mask = writer_of(model, words).stamps([0.5, 12.5, 1.5, 112.0])
    assert not bool(mask.all())  # sentences of different lengths
    ours, _ = model.frame_encoder(frames, ids, mask)
    mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
    inner = getattr(theirs, "model", theirs)
    seen = inner.vision_model(pixel_values=(frames / 255 - mean) / std).last_hidden_state
    queries = inner.query_tokens.expand(4, -1, -1)
    wanted = inner.qformer(
        input_ids=ids,
        attention_mask=torch.cat([torch.ones(4, 2), mask], 1).long(),
        query_embeds=queries,
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
    ).last_hidden_state[:, :2]
    assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


def _named(model: torch.nn.Module, end: str, within: str = "") -> str:
    return next(name for name, _ in model.named_parameters() if name.endswith(end) and within in name)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"clip_tokens": "all", "sequence_projection": "pool"},
    {"clip_tokens": "non_overlapping", "window": 4, "overlap": 2, "aggregator": "lstm2"},
    {"clip_tokens": "overlap_add", "aggregator": "transformer", "fusion_residual": True},
    {"aggregator": "linear", "fusion": False, "overlap": 0},
    {"aggregator": "average_pool", "sequence_projection": "none", "llm_tokens": 4},
    {"aggregator": "local_and_pooled", "timestamps": False},
    {"aggregator": "none", "slice_query_tokens": False},
    {"aggregator": "lstm1", "partial_windows": "timechat"},
]


@pytest.mark.parametrize("changes", SWITCHES, ids=lambda changes: ",".join(changes) or "paper")
def test_padding_changes_nothing(changes: dict[str, Any], words: SentencePieceText) -> None:
    model = make(words, **changes)
    counts = (15, 4, 1, 9)  # full clips, one window short of frames, fewer frames than clips, clips of 3
    together = see(model, words, *counts)
    assert together.shape == (4, model.config.llm_tokens, 32)
    for tokens, frames in zip(together, counts, strict=True):
        assert_close(tokens, see(model, words, frames)[0], atol=1e-6, rtol=1e-6)
    assert (together[0] - together[3]).abs().max() > 3e-5


def test_clips_that_are_not_there_are_zero_where_the_sequence_is_not_projected(words: SentencePieceText) -> None:
    model = make(words, sequence_projection="none", llm_tokens=12)
    (tokens,) = see(model, words, 2)  # two of three clips, four tokens each
    assert not tokens[8:].any() and tokens[:8].any(1).all()


def test_a_model_whose_sequence_is_pooled_continues_with_another_number_of_clips(words: SentencePieceText) -> None:
    def config(**changes: Any) -> Any:
        return make(words, **changes).config

    pool, more = (config(sequence_projection="pool", clips=clips) for clips in (3, 5))
    assert list(FAMILY.differing(pool, more)) == []
    assert list(FAMILY.differing(config(), config(clips=5))) == ["clips is 3 there, 5 here"]


def test_times_are_absolute_seconds_and_change_what_is_seen(words: SentencePieceText) -> None:
    model = make(words)
    writer, frames = writer_of(model, words), noise(9)
    clips = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    seen = [model.see(pixels, clips, *writer.stamps([t + start for t in range(9)]), videos=1) for start in (0, 0, 100)]
    assert seen[0].equal(seen[1]) and (seen[0] - seen[2]).abs().max() > 3e-5
    first = "This frame is sampled at 100.0 second."
    assert writer.stamps([100.0])[0].tolist() == [words.encode(first)]


def test_the_bilstm_reads_real_tokens_only_for_any_number_of_clips(words: SentencePieceText) -> None:
    aggregator = Aggregator(make(words).config).eval()
    tokens = torch.randn(2, 3, 4, 16)
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 1:] = False  # one clip
    mask[0, 2, 2:] = False  # a short last clip
    out, there = aggregator(tokens * mask[..., None] + 9.0 * ~mask[..., None], mask)
    assert aggregator.rnn is not None and there.equal(mask.flatten(1))
    for i, length in enumerate((10, 4)):
        alone, _ = aggregator.rnn(tokens[i].flatten(0, 1)[None, :length])
        assert_close(out[i, :length], alone[0], atol=1e-6, rtol=1e-6)
        assert not out[i, length:].any()


def test_a_video_that_says_nothing_of_a_clip_adds_nothing_to_the_sums_over_the_sequence(
    words: SentencePieceText,
) -> None:
    model = make(words)
    assert model.sequence_projection is not None
    two_clips = see(model, words, 2)
    model.sequence_projection.weight.data[:, 8:] = 7.0  # the columns of the third clip
    assert see(model, words, 2).equal(two_clips)
    assert not see(model, words, 3).equal(two_clips)


@pytest.mark.parametrize(("name", "published"), [("temporal_vlm", 255), ("timechat", 241), ("longvlm", 244)])
def test_trainable_parameters_are_the_papers(name: str, published: int) -> None:
    """Table 10, within 2 %. Counted: the frame Q-Former with BERT's 30,523 words and its 32 queries, the clip encoder,
    the aggregator, both projections, and LoRA of rank 32 on q, k, v and o of 32 layers, whose matrices are 4096 x 4096.
    Not counted: vision tower and LLaMA."""
    baseline = {"overlap": 0, "fusion": False}
    changes: dict[str, Any] = {
        "temporal_vlm": {},
        "timechat": {**baseline, "clips": 1, "aggregator": "none", "sequence_projection": "none"},
        "longvlm": {**baseline, "aggregator": "local_and_pooled"},
    }[name]
    own = ModelConfig(**changes)
    own = replace(own, lora=replace(own.lora, rank=0))
    text: Any = type("Pieces", (), {"vocab_size": 30523, "pad_id": 0, "eos_id": 2})
    with torch.device("meta"):
        model = TemporalVLM(FAMILY.config(own, text, "sdpa"))
    lora = 4 * 32 * 32 * (4096 + 4096)
    trained = [p for n, p in model.named_parameters() if FAMILY.part_of(n) not in ("vision_tower", "llm")]
    millions = (sum(p.numel() for p in trained) + lora) / 1e6
    assert abs(millions - published) < 0.02 * published, millions
    if name == "temporal_vlm":  # a clip of 96 tokens, 576 in all, a BiLSTM of 768 each way, 96 tokens for LLaMA
        shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
        assert shapes["aggregator.rnn.weight_ih_l0"] == (4 * 768, 768)
        assert shapes["projection.weight"] == (4096, 2 * 768) and shapes["sequence_projection.weight"] == (96, 576)


def test_lora_changes_nothing_at_first_and_is_a_part_of_its_own(words: SentencePieceText) -> None:
    pytest.importorskip("peft", reason="PEFT is not installed: pip install -e '.[peft]'")
    lora = replace(settings().lora, rank=2, dropout=0.0)
    plain, model = make(words), make(words, lora=lora)
    names = [n for n, _ in model.named_parameters() if FAMILY.part_of(n) == "lora"]
    assert len(names) == 2 * 4 * 2 and all(".self_attn." in n for n in names)  # A and B, q to o, two layers
    state = {n.replace(".base_layer", ""): p for n, p in model.state_dict().items() if ".lora_" not in n}
    plain.load_state_dict(state)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            assert not parameter.any()
    ids = torch.tensor([[5, 6, 7]])
    assert_close(model.logits(model.read(ids)[0]), plain.logits(plain.read(ids)[0]))


def test_llama_weights_of_transformers_fit_and_others_are_refused(words: SentencePieceText, tmp_path: Path) -> None:
    model = make(words)
    torch.manual_seed(9)
    theirs = LlamaForCausalLM(model.config.text_config)
    theirs.save_pretrained(tmp_path / "llama", max_shard_size="30KB")
    load_published(model, None, str(tmp_path / "llama"))
    for name, value in theirs.state_dict().items():
        assert model.llm.state_dict()[name].equal(value)
    with pytest.raises(
        WeightsError, match="llama: has no value for frame_encoder.qformer.embeddings.layernorm.bias, .* more"
    ):
        load_published(model, str(tmp_path / "llama"), None)
    wider = make(words, llm=replace(settings().llm, hidden_size=64))
    with pytest.raises(WeightsError, match=r"has shape \[.*\], this model's \[.*\]. Set the sizes"):
        load_published(wider, None, str(tmp_path / "llama"))


def test_micro_batches_add_up_to_the_gradient_of_one_batch(words: SentencePieceText) -> None:
    model = make(words)
    writer = writer_of(model, words)
    rows = [row(model, words, 15), row(model, words, 4, 2)]
    whole = writer.batch(rows)
    counts = model.label_counts(whole)
    model.training_step(whole, counts).loss.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) == len(list(model.parameters()))
    model.zero_grad()
    parts = [writer.batch([r]) for r in rows]
    assert counts["text"] == sum(model.label_counts(part)["text"] for part in parts)
    for part in parts:
        model.training_step(part, counts).loss.backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4)


def test_recomputing_layers_changes_no_gradient(words: SentencePieceText) -> None:
    model = make(words).train()
    batch = writer_of(model, words).batch([row(model, words, 7)])
    gradients = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        model.training_step(batch, model.label_counts(batch)).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(gradients[1][name].equal(value) for name, value in gradients[0].items())


def test_questions_packed_behind_one_video_cost_what_they_cost_apart(words: SentencePieceText) -> None:
    model = make(words)
    writer = writer_of(model, words)
    packed = writer.batch([row(model, words, 6, 3)])
    counts = model.label_counts(packed)
    apart = []
    for i in range(3):
        one = row(model, words, 6, 3)
        keep = [place for place, turn in enumerate(one.turns) if turn in (0, i + 1)]
        for name in ("ids", "labels", "turns", "positions"):
            setattr(one, name, [getattr(one, name)[place] for place in keep])
        one.turns, one.sample_ids = [min(turn, 1) for turn in one.turns], one.sample_ids[i : i + 1]
        apart.append(one)
    assert packed.turns is not None
    loss = model.training_step(packed, counts).loss
    assert_close(loss, model.training_step(writer.batch(apart), counts).loss, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def predictor(words: SentencePieceText) -> Predictor:
    return Predictor(make(words, seed=3), words, InferenceConfig(num_frames=9, max_new_tokens=10))


def request(frames: int) -> Request:
    times_s = np.arange(frames) * 1.5 + 0.1
    return Request(Clip(noise(frames, frames), times_s, frames * 1.5), "When? " * frames, None)


def test_answers_are_the_same_alone_and_in_company_and_those_of_generate(predictor: Predictor) -> None:
    requests = [request(frames) for frames in (1, 2, 7, 9, 15, 3, 4, 5, 6, 8)]  # more than one step has rows
    together = predictor.answer(requests)
    for one, answer in zip(requests, together, strict=True):
        assert predictor.answer([one])[0] == answer
    model = predictor.model
    for one, answer in zip(requests[:3], together, strict=False):
        ids = torch.tensor([predictor.prompt_ids(one)[0]])
        embeds = model.embed(ids, predictor.visual_tokens(one.clip))
        model.llm.generation_config.pad_token_id = 0
        mask = torch.ones(ids.shape, dtype=torch.long)
        banned = [[i] for i in sorted(predictor.text.special_ids - {predictor.text.eos_id})]
        said = model.llm.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=10, do_sample=False, bad_words_ids=banned
        )[0].tolist()
        eos = predictor.text.eos_id
        assert predictor.text.decode([i for i in said if i != eos]) == answer.text
    assert len({answer.text for answer in together}) > 1


def test_a_model_folder_answers_as_the_model_it_was_saved_from(predictor: Predictor, tmp_path: Path) -> None:
    predictor.model.save_pretrained(tmp_path)
    again = Predictor(load_model(tmp_path).eval(), predictor.text, predictor.config)
    assert again.answer([request(9)]) == predictor.answer([request(9)])


def test_events_are_read_from_the_text_while_it_is_written(predictor: Predictor) -> None:
    text, answering = predictor.text, predictor.answering
    said = "0.5 - 12.5 seconds, place the part.\n13.0 - 15.5 seconds, place the circle."
    tokens = [*text.encode(said), text.eos_id]
    events, problems, written = answering.told(tokens, "action_segmentation")
    assert [(e.start_s, e.end_s, e.text) for e in events] == [
        (0.5, 12.5, "place the part"),
        (13.0, 15.5, "place the circle"),
    ]
    assert (problems, written) == ([], said)
    so_far = [len(answering.events_so_far(tokens[:n], "action_segmentation")) for n in range(len(tokens))]
    assert so_far[0] == 0 and so_far[-1] == 1 and sorted(so_far) == so_far  # the last line may still grow
    events, problems, _ = answering.told(text.encode("no idea"), "action_segmentation")
    assert len(events) == 0
    assert [p.reason for p in problems] == ["no times were read from the text", "the answer has no end of sequence"]


def test_more_frames_than_positions_are_refused_and_fewer_than_clips_are_not(predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"16 frames: this model takes 1 to 15 \(clips 3, frames_per_clip 5\)"):
        predictor.answer([request(16)])
    assert predictor.answer([request(1)])[0].frame_times_s == (0.1,)


@pytest.mark.parametrize(
    ("changes", "words_"),
    [
        ({"overlap": 3}, r"overlap \(3\) must be less than window \(3\), both in frames"),
        ({"sequence_projection": "none"}, r"sequence_projection none needs .* \(12\) as llm_tokens \(6\)"),
        ({"fusion_heads": 3}, r"fusion_heads \(3\) does not divide qformer.hidden_size \(16\)"),
        ({"clips": 0}, r"clips \(0\) must be 1 or more"),
        ({"clip_tokens": "overlap_add", "video_queries": 2}, r"overlap_add needs window \(3\) to be a multiple"),
        ({"clip_tokens": "non_overlapping"}, r"window \(3\) must be a multiple of the step between windows \(2\)"),
    ],
)
def test_settings_that_make_no_model_are_refused(changes: dict[str, Any], words_: str) -> None:
    with pytest.raises(UserError, match=words_):
        settings(**changes)


def test_clip_times_stand_in_the_prompt_where_they_are_asked_for(words: SentencePieceText) -> None:
    writer = writer_of(make(words, prompt_times="clips"), words)
    said = words.decode(writer.question("When?", (0.5, 1.5, 2.5, 3.5)))
    assert said.strip() == "The video has 3 clips, sampled at 0.5 - 1.5, 2.5 - 2.5, 3.5 - 3.5 seconds. When?"


def test_the_time_may_be_written_in_the_qformers_own_tokenizer(words: SentencePieceText, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = ["[UNK]", "This", "frame", "is", "sampled", "at", "second", ".", "1", "5"]
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    own.save(str(tmp_path / "tokenizer.json"))
    model = make(words, qformer=replace(settings().qformer, tokenizer=str(tmp_path)))
    assert model.frame_encoder.qformer.embeddings.word_embeddings.num_embeddings == len(vocabulary)
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model")  # the folder holds the tokenizer
    ids, mask = writer_of(again, words).stamps([1.5, 15.5])
    assert ids.tolist() == [[1, 2, 3, 4, 5, 8, 7, 9, 6, 7, 0], [1, 2, 3, 4, 5, 8, 9, 7, 9, 6, 7]]
    assert mask.sum(1).tolist() == [10, 11]
    with pytest.raises(UserError, match=r"model.qformer.tokenizer \(.*nowhere\): .*tokenizer.json cannot be read: "):
        make(words, qformer=replace(settings().qformer, tokenizer=str(tmp_path / "nowhere")))
