"""One step over several videos: a bad one is refused with its reason, and the others go on."""

from types import SimpleNamespace

import numpy as np
import pytest

from timeexpert.data.video import VideoError
from timeexpert.loomdata import steps
from timeexpert.loomdata.asking import Refused
from timeexpert.loomdata.steps import Context, find_shots
from timeexpert.loomdata.store import VideoState

from .people import settings, write_shots

pytest.importorskip("scenedetect")


class Features:
    """In place of a vision model."""

    def __init__(self, model, device):
        pass

    def of(self, media, video, times_s):
        if video == "gone.mp4":
            raise VideoError("gone.mp4: no such file.")
        return np.full((len(times_s), 4), np.nan if video == "nan.mp4" else 0.5, np.float32)


def test_a_video_that_the_model_of_kts_cannot_describe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "VisionFeatures", Features)
    names = ["gone.mp4", "nan.mp4", "good.mp4"]
    for name in names:
        write_shots(tmp_path / name, [(2, True)])
    config = settings("http://localhost:1/v1", "shots.kts_model=some/model")
    context = Context(tmp_path, config, SimpleNamespace(), 1, 60.0)
    found = [seen for _, seen in find_shots(context, [VideoState(name, tmp_path, "x") for name in names])]
    assert found[0] == Refused("no features", "gone.mp4: no such file.")
    assert found[1].kind == "no features" and "must be a table of finite numbers" in found[1].reason
    assert found[2].result["shots"] == [[0.0, 2.0]]
