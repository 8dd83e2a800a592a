"""The dual encoder as a scorer, with a tiny random CLIP made from a config."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.data.media import question, read_rows, write_lines
from timeexpert.config import load
from timeexpert.data.filters import FilterConfig, run_filters
from timeexpert.data.filters.config import AlignmentConfig
from timeexpert.data.filters.encoder import EncoderScorer
from timeexpert.errors import UserError

CAPTION = "a red square"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "a", "red", "blue", "square", "[EOS]"])}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 8, "eos_token_id": 6, "pad_token_id": 0}
    vision = {**small, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]").save_pretrained(folder)
    side = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=side).save_pretrained(folder)
    return folder


RED, BLUE = (220, 30, 20), (20, 30, 220)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """12 s at 4 frames per second: blue.mp4 is red, but blue from 6 to 8 s; red.mp4 the other way round."""
    folder = tmp_path_factory.mktemp("media")
    for name, inside, outside in (("blue", BLUE, RED), ("red", RED, BLUE)):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=4)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(48):
                image = np.full((48, 64, 3), inside if 24 <= i < 32 else outside, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
    return folder


def config(model, **fields):
    return AlignmentConfig(scorer="encoder", model=str(model), **fields)


def run(model, media, tmp_path, *rows):
    samples = write_lines(tmp_path / "s.jsonl", list(rows))
    settings = load(FilterConfig, None, ["filters=[alignment]", "alignment.scorer=encoder", f"alignment.model={model}"])
    return run_filters(samples, media, tmp_path / "out", settings)


def test_vectors_have_length_one_and_repeat(model):
    scorer = EncoderScorer(config(model))
    frames = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    vectors = scorer.embed_frames(frames)
    assert vectors.shape == (40, 8) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors[33:], scorer.embed_frames(frames[33:]), atol=1e-5)


def test_a_caption_at_the_place_that_fits_it_passes_and_the_same_one_elsewhere_is_dropped(model, media, tmp_path):
    # Which colour a random model likes better for the caption is asked of the model itself.
    scorer = EncoderScorer(config(model))
    colours = np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in (RED, BLUE)])
    red, blue = scorer.embed_frames(colours) @ scorer._embed_text(CAPTION)
    liked, other = ("red", "blue") if red > blue else ("blue", "red")
    rows = [question(name, f"{name}.mp4", 6.0, 7.9) for name in ("red", "blue")]
    report = run(model, media, tmp_path, *rows)
    dropped = {row["id"]: row for row in read_rows(tmp_path / "out" / "dropped-alignment.jsonl")}
    assert set(dropped) == {other} and report.curves["alignment"].values == 2
    assert dropped[other]["value"] == 0 and "100% of the other windows fit" in dropped[other]["reason"]
    assert [row["id"] for row in read_rows(tmp_path / "out" / "kept.jsonl")] == [liked]


def test_vectors_are_kept_for_the_next_run_and_belong_to_their_model(model, media, tmp_path):
    row = question("q", "blue.mp4", 6.0, 8.0)
    assert run(model, media, tmp_path, row).decoded_now == 1
    assert run(model, media, tmp_path, row).decoded_now == 0
    assert EncoderScorer(config(model)).fingerprint == EncoderScorer(config(model)).fingerprint


def test_a_clip_with_too_few_windows_is_not_judged(model, media, tmp_path):
    report = run(model, media, tmp_path, question("q", "blue.mp4", 0.5, 11.5))
    assert report.stages["alignment"].unmeasured == {"nothing to see at the events' places": 1}


def test_a_folder_without_a_model_and_weights_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config.json in it. Give a local folder"):
        EncoderScorer(config(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match=r"no .safetensors file in it; other weights are not read"):
        EncoderScorer(config(tmp_path))
    with pytest.raises(UserError, match="needs model, the folder of a CLIP-like model"):
        AlignmentConfig(scorer="encoder")
