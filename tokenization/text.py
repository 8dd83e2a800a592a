"""Text as tokens: a SentencePiece model of our own, or the tokenizer of any Hugging Face model.

Both know where the video stands in a prompt and where the answer begins, and neither lets a user's text become
a control piece: ``</s>`` or ``<|im_end|>`` in a caption is written as its letters.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from timeexpert.errors import UserError

from .events import TextCodec
from .number_format import DIGITS, POINT

MODEL_FILE = "sentencepiece.model"
SETTINGS_FILE = "timeexpert_text.json"
MAX_MODEL_BYTES = 64 << 20  # the largest published vocabularies (256k pieces) take 5 MB
ANSWER = "<answer>"  # our turn marker: a control piece, so no text can write it
_VIDEO, _TEXT = "[[video stands here]]", "[[text stands here]]"  # found again in a rendered prompt, never tokenized
PROMPT_FORMATS = ("aria", "chat_template")
# one user turn as ARIA's released model was trained on it: <fim_prefix> and <fim_suffix> enclose the visual tokens
_ARIA = f"<|im_start|>user\n<fim_prefix>{_VIDEO}<fim_suffix>{_TEXT}<|im_end|>\n<|im_start|>assistant\n"
_ARIA_PIECES = ("<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>")


class TextError(UserError):
    """A tokenizer that cannot be loaded, or text that it cannot write."""


class TextTokenizer(TextCodec, Protocol):
    """A text vocabulary. ``special_ids`` are the pieces that may not be generated inside text (``eos_id`` too)."""

    pad_id: int

    def prompt(self, user_text: str) -> tuple[list[int], list[int]]:
        """Ids before the video, and ids after it up to where the answer begins."""
        ...

    def digit_ids(self) -> list[int]:
        """The ids of '0' to '9': the number encoders start from their embeddings."""
        ...

    def point_id(self) -> int:
        """The id of '.'."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write what :func:`load_text` needs into ``folder``."""
        ...


def load_text(folder_or_name: str | Path) -> TextTokenizer:
    """The tokenizer that ``save`` wrote into a folder; else a Hugging Face folder or the name of a model."""
    if (Path(folder_or_name) / MODEL_FILE).is_file():
        return SentencePieceText.load(folder_or_name)
    return HuggingFaceText.load(folder_or_name)


class SentencePieceText:
    """A unigram SentencePiece model in which any text round-trips: digits one by one, unseen characters as bytes.

    The one loss: U+2581, SentencePiece's own sign for a blank, is read back as a blank.
    """

    def __init__(self, model: bytes, source: str = "the given bytes") -> None:
        import sentencepiece

        wrong = f"{source}: not a tokenizer made by SentencePieceText.train: "
        if not model:
            raise TextError(f"{wrong}it is empty.")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise TextError(f"{wrong}it is no SentencePiece model. Train it again, or copy it again.") from None
        processor = self._processor
        for piece in ("<pad>", "<s>", "</s>", ANSWER, *DIGITS, POINT):
            if processor.id_to_piece(processor.piece_to_id(piece)) != piece:
                raise TextError(f"{wrong}it has no piece {piece!r}.")
        self.vocab_size: int = processor.vocab_size()
        self.pad_id: int = processor.piece_to_id("<pad>")
        self.eos_id: int = processor.piece_to_id("</s>")
        self.special_ids: frozenset[int] = frozenset(
            i for i in range(self.vocab_size) if processor.is_control(i) or processor.is_unknown(i)
        )

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, path: str | Path, pieces: Literal["unigram", "bpe"] = "unigram"
    ) -> SentencePieceText:
        """Train on ``texts`` and write the model to ``path`` (a ``.model`` file, or a folder for one).

        The same texts give the same bytes. ``vocab_size`` is an upper bound: few texts yield fewer pieces.
        """
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                model_type=pieces,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                split_digits=True,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=1 << 20,  # longer lines are left out by the trainer
                num_threads=1,
                pad_id=0,
                bos_id=1,
                eos_id=2,
                unk_id=3,
                control_symbols=[ANSWER],
                user_defined_symbols=[*DIGITS, POINT],
                minloglevel=2,
            )
        except RuntimeError as error:
            detail = str(error).rpartition("] ")[2].strip() or "there is no text to learn from"
            raise TextError(
                f"vocab_size ({vocab_size}): SentencePiece cannot be trained: {detail}. Give more text, and room for "
                "256 bytes, 11 number symbols, 5 control pieces and every letter."
            ) from None
        tokenizer = cls(model.getvalue())
        file = _model_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(model.getvalue())
        return tokenizer

    @classmethod
    def load(cls, path: str | Path) -> SentencePieceText:
        """Read a ``.model`` file, or the one in a folder. Raises :class:`TextError` where it is absent or broken."""
        file = _model_file(path)
        if not file.is_file():
            raise TextError(f"{file}: no such file. Give the folder of a run, or a model that was trained.")
        if file.stat().st_size > MAX_MODEL_BYTES:
            raise TextError(f"{file}: {file.stat().st_size} bytes; a tokenizer has at most {MAX_MODEL_BYTES}.")
        return cls(file.read_bytes(), str(file))

    def save(self, folder: str | Path) -> None:
        """Write ``sentencepiece.model`` into ``folder``."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / MODEL_FILE).write_bytes(self._processor.serialized_model_proto())

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without control pieces. Raises :class:`TextError` for half a surrogate pair."""
        _refuse_surrogates(text)
        return list(self._processor.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; control pieces are left out and bytes that are not UTF-8 become U+FFFD."""
        return str(self._processor.decode([i for i in map(int, ids) if i not in self.special_ids]))

    def prompt(self, user_text: str) -> tuple[list[int], list[int]]:
        """``<s>`` VIDEO text ``<answer>``."""
        processor = self._processor
        return [processor.piece_to_id("<s>")], [*self.encode(user_text), processor.piece_to_id(ANSWER)]

    def digit_ids(self) -> list[int]:
        """The ids of '0' to '9'."""
        return [self._processor.piece_to_id(digit) for digit in DIGITS]

    def point_id(self) -> int:
        """The id of '.'."""
        return int(self._processor.piece_to_id(POINT))


class HuggingFaceText:
    """Any fast tokenizer of transformers.

    ``prompt_format``: 'aria' (the released model's turns, end of sequence ``<|im_end|>``) or 'chat_template' (the
    tokenizer's own); absent: 'aria' where the vocabulary has ARIA's four turn pieces. ``vocab_size``: rows of
    the model's embedding where it is larger than the vocabulary; the ids between are never generated.
    """

    def __init__(
        self, tokenizer: Any, prompt_format: str | None = None, vocab_size: int | None = None, source: str = "tokenizer"
    ) -> None:
        pieces: dict[str, int] = tokenizer.get_vocab()
        is_aria = all(piece in pieces for piece in _ARIA_PIECES)
        self.prompt_format = prompt_format or ("aria" if is_aria else "chat_template")
        self._tokenizer, self._source = tokenizer, source
        if self.prompt_format not in PROMPT_FORMATS:
            raise TextError(f"{source}: prompt_format ({prompt_format!r}) must be one of {', '.join(PROMPT_FORMATS)}.")
        if not getattr(tokenizer, "is_fast", False):
            raise TextError(f"{source}: {type(tokenizer).__name__} is not a fast tokenizer (no tokenizer.json).")
        if self.prompt_format == "aria" and not is_aria:
            missing = next(piece for piece in _ARIA_PIECES if piece not in pieces)
            raise TextError(f"{source}: no piece {missing!r}, which prompt_format 'aria' needs. Use 'chat_template'.")
        eos_id = pieces["<|im_end|>"] if self.prompt_format == "aria" else tokenizer.eos_token_id
        if eos_id is None:
            raise TextError(f"{source}: the tokenizer names no eos_token, so no answer could end.")
        least = max(pieces.values()) + 1
        if vocab_size is not None and vocab_size < least:
            raise TextError(f"{source}: vocab_size ({vocab_size}) is less than the tokenizer's own ({least}).")
        self.vocab_size: int = vocab_size or least
        self.eos_id: int = eos_id
        self.pad_id: int = eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= {*tokenizer.all_special_ids, self.eos_id, self.pad_id}
        special |= set(range(self.vocab_size)) - set(pieces.values())
        self.special_ids: frozenset[int] = frozenset(special)
        self._special_pieces = [piece for piece, i in pieces.items() if i in special]
        self._lead, self._middle, self._tail = self._template()

    @classmethod
    def load(cls, name: str | Path, prompt_format: str | None = None, vocab_size: int | None = None) -> HuggingFaceText:
        """From a local folder or the name of a model. What :meth:`save` noted there holds unless given here."""
        from transformers import AutoTokenizer

        folder = Path(name)
        if not folder.is_dir() and (folder.is_absolute() or str(name).startswith((".", "~")) or len(folder.parts) > 2):
            raise TextError(f"{name}: no such folder. Give the folder of a run or of a Hugging Face tokenizer.")
        settings = _settings(folder / SETTINGS_FILE)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
        except Exception as error:  # whatever a broken file makes transformers raise
            reason = str(error).strip().split("\n")[0]
            raise TextError(f"{name}: transformers cannot load a tokenizer from it: {reason}") from error
        return cls(
            tokenizer,
            prompt_format or settings.get("prompt_format"),
            vocab_size or settings.get("vocab_size"),
            str(name),
        )

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer's files and ``timeexpert_text.json`` (prompt format, vocabulary size)."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._tokenizer.save_pretrained(str(folder))
        settings = {"prompt_format": self.prompt_format, "vocab_size": self.vocab_size}
        (Path(folder) / SETTINGS_FILE).write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without control pieces.

        Raises :class:`TextError` where the vocabulary lacks a character: the answer would not read back.
        """
        ids = self._ids(text, literal=True)
        for i in ids:
            if i in self.special_ids:
                piece = self._tokenizer.convert_ids_to_tokens(i)
                raise TextError(
                    f"{self._source}: text {text[:80]!r} gives the control piece {piece!r}: the vocabulary cannot "
                    "write it. Use a tokenizer with byte fallback, or remove the character."
                )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``; control pieces are left out."""
        plain = [i for i in map(int, ids) if i not in self.special_ids]
        return str(self._tokenizer.decode(plain, clean_up_tokenization_spaces=False))

    def prompt(self, user_text: str) -> tuple[list[int], list[int]]:
        """The user's turn in ``prompt_format``, split where the video stands."""
        before = self._ids(self._lead, literal=False)
        if any(piece in user_text for piece in self._special_pieces):  # written as letters, not obeyed
            parts = (self._middle, False), (user_text, True), (self._tail, False)
            after = [i for part, literal in parts for i in self._ids(part, literal=literal)]
        else:  # in one go, as the model saw it in its training: pieces may span the borders
            after = self._ids(self._middle + user_text + self._tail, literal=False)
        return before, after

    def digit_ids(self) -> list[int]:
        """The ids of '0' to '9'."""
        return [self.encode(digit)[-1] for digit in DIGITS]

    def point_id(self) -> int:
        """The id of '.'."""
        return self.encode(POINT)[-1]

    def _ids(self, text: str, *, literal: bool) -> list[int]:
        _refuse_surrogates(text)
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=literal, verbose=False)
        return list(encoded["input_ids"])

    def _template(self) -> tuple[str, str, str]:
        """The prompt before the video, between video and text, and after the text."""
        rendered = _ARIA
        if self.prompt_format == "chat_template":
            turns = [{"role": "user", "content": _VIDEO + _TEXT}]
            try:
                rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # a template is a program: it may raise anything
                raise TextError(f"{self._source}: its chat template cannot be used: {error}") from error
        lead, _, rest = rendered.partition(_VIDEO)
        middle, found, tail = rest.partition(_TEXT)
        if not found or _VIDEO in rest or _TEXT in tail:
            raise TextError(f"{self._source}: its chat template must write the user's text once: {rendered[:200]!r}")
        return lead, middle, tail


def _model_file(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".model") else Path(path) / MODEL_FILE


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        _refuse_surrogates(text)
        yield from (line for line in text.splitlines() if line.strip())


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"text {text[:80]!r}: character {error.start} is half a surrogate pair and cannot be written as UTF-8. "
            "Correct the text where it comes from."
        ) from None


def _settings(file: Path) -> dict[str, Any]:
    """What :meth:`HuggingFaceText.save` noted; empty where there is no such file."""
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if settings["prompt_format"] in PROMPT_FORMATS and type(settings["vocab_size"]) is int:
            return {name: settings[name] for name in ("prompt_format", "vocab_size")}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise TextError(f"{file}: must be an object with prompt_format ({' or '.join(PROMPT_FORMATS)}) and vocab_size.")
