"""lmms-eval runs our task definitions against a served model and reports the figures that we compute ourselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from timeexpert.data.records import Sample, write_samples
from timeexpert.data.scene_questions import questions
from timeexpert.data.scenes import SynthConfig, make_scene
from timeexpert.data.synthetic import encode
from timeexpert.evaluation.lmms_tasks import utils
from timeexpert.evaluation.records import Told
from timeexpert.evaluation.tasks import TASKS, score_task
from timeexpert.tokenization import Event, EventSequence

from ..served import served

ROOT = Path(__file__).resolve().parent.parent.parent
TASK_FILES = sorted(Path(utils.__file__).parent.glob("*.yaml"))
# lmms-eval asks for PyAV below 16 and this project for 18: it lives in an environment of its own.
PYTHON = os.environ.get("TIMEEXPERT_LMMS_PYTHON") or (sys.executable if find_spec("lmms_eval") else None)


class _Tasks(yaml.SafeLoader):
    """Reads ``!function utils.name`` as that function, as lmms-eval does."""


_Tasks.add_constructor(
    "!function", lambda loader, node: getattr(utils, loader.construct_scalar(node).removeprefix("utils."))
)


def sample(task: str, *events: Event) -> Sample:
    return Sample(id="q", video="v.mp4", task=task, prompt="When?", events=EventSequence(events), duration_s=10.0)


@pytest.mark.parametrize("file", TASK_FILES, ids=lambda file: file.stem)
def test_every_figure_of_a_task_file_is_one_of_our_metric(file: Path) -> None:
    task = yaml.load(file.read_text(encoding="utf-8"), _Tasks)
    ours = TASKS[task["process_results"].__name__.removeprefix("process_")]
    question = sample(ours.asks, Event(2.0, 6.0, (), "a dog jumps"))
    rows = task["process_results"](question.to_json(), ["2.0 - 6.0 s: a dog jumps"])
    assert list(rows) == [metric["metric"] for metric in task["metric_list"]]
    for metric in task["metric_list"]:
        assert metric["aggregation"]([rows[metric["metric"]]]) == pytest.approx(100.0)
        assert (
            metric["aggregation"]([task["process_results"](question.to_json(), ["no idea"])[metric["metric"]]]) == 0.0
        )


def test_a_request_that_failed_is_a_missing_answer_and_not_a_span() -> None:
    text = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Error code: 500 - 0.0 - 500.0"
    rows = utils.process_moments(sample("moment_retrieval", Event(0.0, 10.0)).to_json(), [text])
    assert utils.miou([rows["miou"]]) == 0.0


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """A folder with media/ and annotations/ of two videos."""
    root = tmp_path_factory.mktemp("lmms")
    (root / "media").mkdir()
    (root / "annotations").mkdir()
    config = SynthConfig(videos=2, seed=77, max_duration_s=32.0, min_event_s=6.0, max_event_s=12.0)
    samples: list[Sample] = []
    for i in range(config.videos):
        scene = make_scene(config, i)
        samples += (own := questions(scene, config))
        encode(scene, root / "media" / own[0].video)
    for name, task in (("charades_sta", "moment_retrieval"), ("youcook2", "dense_captioning")):
        write_samples(root / "annotations" / f"{name}.jsonl", [s for s in samples if s.task == task])
    return root, samples


@pytest.fixture(scope="module")
def server(asked: tuple[Path, list[Sample]]) -> Iterator[str]:
    """The address of checkpoints/tiny, served; file:// may name the media folder."""
    with served("--allowed-local-media-path", str(asked[0] / "media")) as url:
        yield url


@pytest.mark.skipif(
    PYTHON is None, reason="lmms-eval is not installed; TIMEEXPERT_LMMS_PYTHON may name a Python with it"
)
def test_lmms_eval_reports_what_we_compute_from_the_same_answers(
    asked: tuple[Path, list[Sample]], server: str, tmp_path: Path
) -> None:
    root, samples = asked
    done = subprocess.run(
        [
            *(str(PYTHON), "-m", "lmms_eval", "--model", "openai"),
            *("--model_args", f"model=tiny,base_url={server}/v1,api_key=EMPTY,pass_video_url=True,max_frames_num=32"),
            *("--include_path", str(TASK_FILES[0].parent)),
            *("--tasks", "timeexpert_charades_sta,timeexpert_youcook2_captions"),
            *("--batch_size", "1", "--output_path", str(tmp_path), "--log_samples"),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), utils.MEDIA: str(root / "media"), "HF_HOME": str(tmp_path / "hf"),
             "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (file,) = tmp_path.rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    for name, task, figures in (
        ("charades_sta", "moment_retrieval", utils.MOMENTS),
        ("youcook2_captions", "dense_captioning", utils.CAPTIONS),
    ):
        (log,) = tmp_path.rglob(f"*samples_timeexpert_{name}.jsonl")
        answers = {
            json.loads(line)["doc_id"]: json.loads(line)["filtered_resps"] for line in log.read_text().splitlines()
        }
        own = [s for s in samples if s.task == task]
        texts = [answer if isinstance(answer, str) else answer[0] for _, answer in sorted(answers.items())]
        assert len(texts) == len(own) and all(" s: " in text for text in texts)
        expected = score_task(TASKS[task], own, [Told(text=text, from_text=True) for text in texts]).figures()
        for figure in figures:
            assert results[f"timeexpert_{name}"][f"{figure},none"] == pytest.approx(expected[figure], abs=1e-6)
    assert results["timeexpert_youcook2_captions"]["f1,none"] > 50  # frames are seen in their order and times
