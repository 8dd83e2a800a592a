"""What a family says: its settings (:class:`ModelSettings`) and everything else (:class:`Family`)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from timeexpert.config import ConfigError
from timeexpert.data.records import Sample
from timeexpert.errors import did_you_mean

if TYPE_CHECKING:  # a run's config is read without them
    from timeexpert.data.collate import RowWriter
    from timeexpert.model.answering import Answering
    from timeexpert.model.tower import Tower
    from timeexpert.tokenization.text import TextTokenizer


@dataclass(frozen=True, kw_only=True)
class ModelSettings(ABC):
    """``model:`` of a run's config. ``family`` says which class reads it; ``timeexpert`` where it is left out.

    ``pretrained``: a model folder of the same family, whose weights the run starts from. ``attention``: of transformers
    (``sdpa``, ``eager``, ``flash_attention_2``); ``auto`` takes flash-attn where it is installed and can be used.
    ``PARTS``: names of what a stage may train; ``KINDS``: what each kind of stage trains.
    """

    PARTS: ClassVar[tuple[str, ...]] = ()
    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {}

    family: str = "timeexpert"
    attention: str = "auto"
    pretrained: str | None = None

    @staticmethod
    def variant(tree: dict[str, Any]) -> type[ModelSettings]:
        """The class that reads ``tree``. Raises :class:`ConfigError` for a family that is not there."""
        from timeexpert.families import FAMILIES, settings_of

        name = tree.get("family", FAMILIES[0])
        if name not in FAMILIES:
            raise ConfigError(f"family ({name!r}) must be one of {', '.join(FAMILIES)}.{did_you_mean(name, FAMILIES)}")
        return settings_of(name)

    @property
    @abstractmethod
    def frame_size(self) -> int:
        """Side of the square frames that the model takes, in pixels."""

    @property
    def answers_in_words(self) -> bool:
        """Whether an answer is free text, so that it can hold a thinking."""
        return False

    @property
    def has_experts(self) -> bool:
        """Whether its layers have experts behind gates."""
        return False

    @property
    def expert_slots(self) -> int:
        """Expert slots of a layer; 1 where there are no experts to spread."""
        return 1

    @property
    @abstractmethod
    def shortest_answer(self) -> int:
        """Tokens of the shortest answer with an event."""

    @property
    def suspects(self) -> str:
        """The settings to look at where a model cannot be built from them."""
        return f"the sizes under model and model.attention ({self.attention!r})"

    @abstractmethod
    def most_frames(self, tokens: int, per_video: int) -> int:
        """The most frames that a batch of ``tokens`` tokens and ``per_video`` frames a video can have."""

    def check_frames(self, where: str, num_frames: int) -> None:
        """Raises :class:`ConfigError` for more frames of a video than the model can take; any number by default."""
        return None

    def check_stage(self, where: str, kind: str, trains: tuple[str, ...] | None, num_frames: tuple[int, ...]) -> None:
        """Raises :class:`ConfigError` for a stage that this model cannot have; ``where`` is the stage's key path."""
        if kind not in self.KINDS:
            near = did_you_mean(kind, self.KINDS)
            raise ConfigError(f"{where}.kind ({kind!r}) must be one of {', '.join(self.KINDS)}.{near}")
        for part in trains or ():
            if part not in self.PARTS:
                raise ConfigError(f"{where}.trains: {part!r} is not one of {', '.join(self.PARTS)}.")
        self.check_frames(f"{where}.num_frames", max(num_frames))


class Family(ABC):
    """One family: its classes, and the few things that stages and the predictor ask of them.

    ``config_class`` and ``model_class`` are of transformers. The model class offers what
    :class:`timeexpert.model.protocol.VideoLLM` lists. ``draws_masks``: whether its answers may have tracks
    (:meth:`Answering.tracks`), for which a clip's frames are kept until it is answered. ``prefixes`` of parameter
    names, the first that fits counting, and the part that each belongs to; ``matrices``: prefixes of those of layers.
    ``tower_prefix``: of the parameters of the vision tower whose features may be kept; None where there is none.
    """

    draws_masks: bool = False
    config_class: type[Any]
    model_class: type[Any]
    prefixes: Mapping[str, str]
    matrices: tuple[str, ...] = ()
    tower_prefix: str | None = None

    @abstractmethod
    def config(self, settings: Any, text: TextTokenizer, attention: str) -> Any:
        """The transformers config that ``settings`` and a vocabulary describe."""

    def new(self, config: Any, settings: Any, text: TextTokenizer) -> Any:
        """A model of new weights, in float32; those that ``settings`` take from published folders are filled in."""
        return self.model_class(config)

    def tower(self, config: Any) -> Tower | None:
        """The vision tower alone, of new weights; None where there is no ``tower_prefix``."""
        return None

    @abstractmethod
    def differing(self, found: Any, wanted: Any) -> Iterator[str]:
        """How the config of a folder that a run starts from differs in what shapes weights or tokens, in words."""

    def part_of(self, name: str) -> str:
        """The part, one of the settings' PARTS, that a parameter belongs to; "" for none."""
        if ".lora_" in name:
            return "lora"
        return next((part for prefix, part in self.prefixes.items() if name.startswith(prefix)), "")

    def is_matrix(self, name: str) -> bool:
        """Whether ``optimizer: muon`` may take this parameter, if it has two dimensions."""
        return name.startswith(self.matrices) and ".lora_" not in name

    @abstractmethod
    def writer(self, config: Any, text: TextTokenizer) -> RowWriter:
        """How rows of ids are written, for training and prediction."""

    @abstractmethod
    def answering(self, model: Any, text: TextTokenizer) -> Answering:
        """How a model is asked."""

    def texts(self, sample: Sample, settings: Any) -> list[str]:
        """What a vocabulary that is trained on a sample must be able to write; ``settings``: those of the model."""
        return [text for text in (sample.prompt, *(event.text for event in sample.events)) if text]


def differences(section: str, names: tuple[str, ...], a: Any, b: Any) -> Iterator[str]:
    """What differs between two configs, by ``names``, in words.

    They are compared as they stand in config.json: a list that was read from there may be a tuple in a new config.
    """
    for name in names:
        old, new = getattr(a, name, None), getattr(b, name, None)
        if json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            yield f"{section}{name} is {old!r} there, {new!r} here"
