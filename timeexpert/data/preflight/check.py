"""What worker processes run: one clip opened, decoded once from start to end, and measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import Any

from timeexpert.data.media import MediaError, is_features, resolve_media

from .stretches import SIZE, Stretch, StretchConfig, StretchFinder, gaps

PICTURE_HEIGHT = 72  # pixels, on the page


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decoding a clip told, besides the fields of :class:`~timeexpert.data.video.VideoInfo` of the same name.

    ``last_frame_s`` is the time of the last frame that decodes; ``time_base`` a fraction ("1/90000"). ``damage``
    says what is wrong inside the file, ``cut_short`` how much of its end is missing. ``features`` says what a file of
    features holds; its ``duration_s``, times and frames are the clip's, it has no pictures, and what follows from those
    is 0 or empty.
    """

    duration_s: float
    last_frame_s: float
    num_frames: int
    fps: float
    variable_frame_rate: bool
    time_base: str
    first_pts_s: float
    rotation: int
    width: int
    height: int
    pixel_aspect: float
    codec: str
    pix_fmt: str
    cut_short: str | None
    damage: str | None
    black: tuple[Stretch, ...] = ()
    frozen: tuple[Stretch, ...] = ()
    gaps: tuple[Stretch, ...] = ()
    features: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields of this class."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> Facts:
        """The facts of :meth:`to_json`. Raises ``ValueError`` or ``TypeError`` on anything else."""
        values = dict(row)
        for field in fields(cls):
            value = values[field.name] if field.name in values else None
            kind = str(field.type)
            if kind.startswith("tuple"):
                values[field.name] = tuple(Stretch(_number(a), _number(b), bool(cut)) for a, b, cut in value or ())
            elif kind in ("int", "float"):
                _number(value)
            elif kind.startswith("str") and not (isinstance(value, str) or (value is None and "None" in kind)):
                raise TypeError(f"{field.name} ({value!r}) must be text")
        return cls(**values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise TypeError(f"{value!r} must be a finite number")
    return value


@dataclass(frozen=True)
class Place:
    """Where a clip's bytes are: a file in a media folder, or video ``number`` of a shard folder."""

    folder: Path
    video: str
    number: int | None = None

    def open(self) -> Any:
        """The open :class:`~timeexpert.data.video.Video`. Raises :class:`UserError` with the name and the reason."""
        from timeexpert.data.video import Video

        try:
            return Video.open(self._source(), name=self.video)
        except OSError as error:
            raise MediaError(f"{self.video}: cannot be read: {error.strerror or error}.") from None

    def open_features(self) -> Any:
        """The :class:`~timeexpert.data.features.FeatureFile`. Raises :class:`UserError` as :meth:`open`."""
        from timeexpert.data.features import FeatureFile  # which needs torch

        return FeatureFile(self._source(), self.video)

    def _source(self) -> Path | bytes:
        """The file, or bytes of a shard, which are checked against their sum."""
        if self.number is None:
            return resolve_media(self.folder, self.video)
        data: bytes = _shards(self.folder).video_media(self.number)[0]
        return data


@lru_cache(maxsize=1)
def _shards(folder: Path) -> Any:
    from timeexpert.data.shards import ShardDataset

    return ShardDataset(folder)


def check_clip(place: Place, config: StretchConfig) -> Facts:
    """Decode every frame of a clip once, or read all of its features. Raises :class:`UserError` where it is bad."""
    if is_features(place.video):
        return _check_features(place)
    finder = StretchFinder(config)
    with place.open() as video:
        for gray, time_s in video.gray_frames(SIZE):
            finder.add(gray, time_s)
        info, times_s = video.info, video.frame_times_s
        finder.finish(info.duration_s)
        parts = info.damage.split("; ") if info.damage else []
        return Facts(
            **{name: getattr(info, name) for name in _SHARED},
            last_frame_s=float(times_s[-1]),
            time_base=str(video.time_base),
            cut_short=parts.pop(0).removeprefix("cut short: ") if video.cut_short else None,
            damage="; ".join(parts) or None,
            black=tuple(finder.black),
            frozen=tuple(finder.frozen),
            gaps=tuple(gaps(times_s, info.duration_s, config)),
        )


_SHARED = ("duration_s", "num_frames", "fps", "variable_frame_rate", "first_pts_s", "rotation", "width", "height") + (
    "pixel_aspect",
    "codec",
    "pix_fmt",
)


def _check_features(place: Place) -> Facts:
    file = place.open_features()
    info = file.info(check=True)
    return Facts(
        duration_s=file.duration_s,
        last_frame_s=float(file.frame_times_s[-1]),
        num_frames=info["num_frames"],
        fps=info["num_frames"] / file.duration_s,
        variable_frame_rate=False,
        time_base="",
        first_pts_s=0.0,
        rotation=0,
        width=0,
        height=0,
        pixel_aspect=1.0,
        codec="features",
        pix_fmt=file.kind["dtype"],
        cut_short=None,
        damage=None,
        features=file.summary,
    )


def pictures(place: Place, count: int) -> list[tuple[float, bytes]]:
    """``count`` small pictures of a clip, evenly over its time: (seconds of the frame shown, JPEG)."""
    from PIL import Image

    with place.open() as video:
        info = video.info
        width = min(max(round(PICTURE_HEIGHT * info.width * info.pixel_aspect / info.height), 16), 256)
        times_s = [(i + 0.5) * info.duration_s / count for i in range(count)]
        frames, shown_s = video.frames_at(times_s, size=(PICTURE_HEIGHT, width))
    out = []
    for frame, time_s in zip(frames, shown_s.tolist(), strict=True):
        jpeg = BytesIO()
        Image.fromarray(frame).save(jpeg, "JPEG", quality=70)
        out.append((time_s, jpeg.getvalue()))
    return out
