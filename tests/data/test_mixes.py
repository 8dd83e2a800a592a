"""Mix files: what the shipped ones hold, what is refused, and how a stage of a run refers to one."""

import pytest

from timeexpert.config import ConfigError, dump, load
from timeexpert.data.formats import FORMATS
from timeexpert.data.mixes import load_mix
from timeexpert.paths import config_path
from timeexpert.stages.config import RunConfig

# Section 2 of the supplement. VTG-IT stands for its parts.
VTG_IT = {"vtg_it_dvc", "vtg_it_mr", "vtg_it_vhd", "hirest_step", "hirest_grounding", "coin", "queryd", "didemo"}
STAGES = {
    "stage1": {"valley", "llava_image", "textvr", "sharegpt4video"} | VTG_IT,
    "stage2": {"valley", "textvr", "sharegpt4video", "activitynet_captions", "videochatgpt", "internvid", "nextqa"}
    | VTG_IT,
    "stage3": {"moment10m", "egoqa", "star", "llava_video_178k"},
}
TASKS = {
    "general": {"llava_image", "valley", "textvr", "sharegpt4video", "videochatgpt", "nextqa"},
    "dense_captioning": {"hirest_step", "coin", "activitynet_captions", "vtg_it_dvc", "internvid"},
    "moment_retrieval": {"hirest_grounding", "queryd", "didemo", "vtg_it_mr", "internvid"},
    "highlight_detection": {"vtg_it_vhd"},
}

OWN = """
name: own
mix: {a: 0.25, b: 0.75, c: 0}
datasets:
  - &a {name: a, tasks: [general], licence: mine, page: "https://example.org", get: it, format: llava,
        annotations: [a.json], videos: a}
  - {<<: *a, name: b}
  - {<<: *a, name: c}
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path / "own.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_draws_from_the_data_sets_that_the_supplement_names(stage):
    mix = load_mix(f"data/{stage}")
    used = list(mix.used())
    assert {dataset.name for dataset, _ in used} == STAGES[stage]
    assert sum(share for _, share in used) == pytest.approx(1)
    for dataset, share in used:
        assert share > 0 and dataset.format in FORMATS and dataset.licence and dataset.get


@pytest.mark.parametrize("task", TASKS)
def test_the_task_types_are_those_of_the_supplement(task):
    datasets = {d.name: d for stage in ("stage1", "stage2") for d, _ in load_mix(f"data/{stage}").used()}
    assert {name for name, d in datasets.items() if task in d.tasks} == TASKS[task]


def test_shares_are_fractions_of_the_whole_and_weight_0_leaves_a_data_set_out(own):
    assert [(dataset.name, share) for dataset, share in load_mix(own).used()] == [("a", 0.25), ("b", 0.75)]


def test_a_mix_of_ones_own_extends_a_shipped_one(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "extends: data/stage3\nname: mine\nmix_by: samples\nmix: {egoqa: 0, star: 0.5}\n"
        "datasets:\n  - {name: star, videos: charades_480}\n"
    )
    mix = load_mix(tmp_path / "mine.yaml")
    used = {dataset.name: dataset for dataset, _ in mix.used()}
    assert set(used) == {"moment10m", "star", "llava_video_178k"} and mix.mix_by == "samples"
    assert used["star"].videos == "charades_480" and used["star"].format == "star"


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("{a: 0.25", "{aa: 0.25", r"own\.yaml: mix names 'aa', which datasets lacks \(a, b, c\)\. Did you mean 'a'\?"),
        ("mix: {a: 0.25", "mixx: {a: 0.25", r"unknown key 'mixx'\. Did you mean 'mix'\?"),
        ("mix: {a: 0.25", "mix: {a: -1", r"mix\.a \(-1\.0\) must be 0 or more"),
        ("a: 0.25, b: 0.75", "a: 0, b: 0", "all its weights are 0"),
        ("name: own", "name: own\nmix_by: token", r"mix_by \('token'\) must be one of .*Did you mean 'tokens'\?"),
        ("tasks: [general]", "tasks: [generall]", r"datasets\[0\]: tasks: 'generall' .* Did you mean 'general'\?"),
        ("tasks: [general]", "tasks: []", r"datasets\[0\]: tasks is empty"),
        ("format: llava,", "format: lava,", r"datasets\[0\]: format \('lava'\).*Did you mean 'llava'\?"),
        ("licence: mine", "license: mine", r"unknown key 'datasets\[0\]\.license'\. Did you mean .*\.licence'\?"),
        ("annotations: [a.json]", "annotations: [../a.json]", r"path \('\.\./a\.json'\) must be relative"),
        ("videos: a}", "videos: /a}", r"path \('/a'\) must be relative"),
        ("https://example.org", "example.org", r"page \('example\.org'\) must be the address"),
        ("{<<: *a, name: b}", "{<<: *a, name: a}", "the name 'a' occurs twice"),
        ("{<<: *a, name: b}", "{<<: *a, name: b/c}", r"name \('b/c'\) must be letters"),
        ("videos: a}", "videos: a, video_template: x}", r"video template \('x'\) must hold"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_mix_is_named_with_its_place_and_the_nearest_right_name(own, was, now, words):
    assert was in OWN
    own.write_text(OWN.replace(was, now))
    with pytest.raises(ConfigError, match=words):
        load_mix(own)


def test_an_unknown_mix_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"Did you mean 'data/stage1'\?"):
        load_mix("data/stage11")


def test_a_stage_names_a_mix_file_and_the_saved_config_has_it_written_out(own, tmp_path):
    run = load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}", "data.train.b=elsewhere/b"])
    stage = run.stages[2]
    assert (dict(stage.mix), stage.mix_by) == ({"a": 0.25, "b": 0.75}, "samples")
    assert {name: run.data.train[name] for name in "ab"} == {"a": "a", "b": "elsewhere/b"}
    assert "c" not in run.data.train  # weight 0: its shards need not be there
    (tmp_path / "config.yaml").write_text(dump(run))
    own.unlink()
    assert load(RunConfig, tmp_path / "config.yaml") == run


def test_the_shipped_mixes_fit_the_stages_of_the_paper_config():
    named = {"task_modules": "stage1", "moe_pretraining": "stage2", "sft": "stage3"}
    run = load(RunConfig, config_path("aria"), [f"stages.{stage}.mix=data/{mix}" for stage, mix in named.items()])
    for stage in run.stages:
        assert set(stage.mix) == STAGES[named[stage.name]]
    assert [stage.mix_by for stage in run.stages] == ["samples", "samples", "tokens"]


def test_a_stage_may_count_otherwise_than_its_mix(own):
    run = load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}", "stages.sft.mix_by=tokens"])
    assert run.stages[2].mix_by == "tokens"


def test_a_mix_that_cannot_be_is_refused_with_both_files(own):
    own.write_text(OWN.replace("b: 0.75", "bb: 0.75"))
    with pytest.raises(ConfigError, match=r"aria\.yaml: .*own\.yaml: mix names 'bb'"):
        load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}"])


def test_temporal_vlms_mix_is_timeit_without_yt_temporal_and_valley_with_our_questions():
    used = {dataset.name: (dataset, share) for dataset, share in load_mix("data/temporal_vlm").used()}
    timeit = sum(share for name, (_, share) in used.items() if name.startswith("timeit"))
    assert timeit == pytest.approx(72.8 / 145.8, abs=0.001)
    assert not [name for name in used if "temporal" in name]
    for name, (dataset, _) in used.items():
        assert (dataset.options().instructions is None) == (name == "valley_instruct")
    ((asm, share),) = load_mix("data/industry_asm").used()
    assert (asm.format, asm.tasks, share) == ("industry_asm", ("action_segmentation",), 1)


def test_instructions_of_a_data_set_are_read_with_its_mix(tmp_path):
    (tmp_path / "questions.yaml").write_text("extends: data/instructions\ngeneral: []\n")
    own = OWN.replace("videos: a}", f"videos: a, instructions: {tmp_path / 'questions.yaml'}}}")
    (tmp_path / "own.yaml").write_text(own)
    with pytest.raises(ConfigError, match=r"own\.yaml: .*questions\.yaml.*general is empty"):
        load_mix(tmp_path / "own.yaml")


def test_videolooms_mix_sums_to_the_samples_of_table_9():
    mix = load_mix("data/video_loom")
    assert sum(mix.weights.values()) == pytest.approx(1315.4)  # thousands: items x repeats
    assert (mix.weights["refcocog"], mix.weights["mevis"], mix.weights["llava_665k"]) == (68, 19.2, 665)
    masked = {d.name for d, _ in mix.used() if d.tasks == ("referring_segmentation",)}
    assert masked == {
        "refcoco", "refcoco_plus", "refcocog", "grand_f_auto", "grand_f_human", "loomdata_refvos", "ref_youtube_vos",
        "mevis", "revos",
    }  # fmt: skip
    assert mix.weights.keys() == {d.name for d in mix.datasets}
    frames = {d.name: d.num_frames for d, _ in mix.used()}
    assert (frames["charades"], frames["youcook2"], frames["qvhighlights"], frames["mevis"]) == (64, 128, 75, 64)
    assert {d.options().split for d, _ in mix.used() if d.format == "refcoco"} == {"train"}


def test_a_stage_reads_each_data_set_of_a_mix_with_its_own_numbers(own):
    own.write_text(OWN.replace("annotations: [a.json], videos: a}", "annotations: [a.json], videos: a, num_frames: 8}"))
    run = load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}", "stages.sft.questions_of={b: 3}"])
    stage = run.stages[2]
    assert (stage.frames_of, stage.questions_of) == ({"a": 8, "b": 8}, {"b": 3})
    assert stage.frames("a") == (8,)
    with pytest.raises(ConfigError, match=r"frames_of.a of stage 'sft' \(8\) is more than its num_frames \(4\)"):
        load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}", "stages.sft.num_frames=[4]"])
    with pytest.raises(ConfigError, match="questions_of of stage 'sft' names 'z', which its mix lacks"):
        load(RunConfig, config_path("aria"), [f"stages.sft.mix={own}", "stages.sft.questions_of={z: 3}"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("repeats: {aa: 2}", "repeats names 'aa', which mix lacks. Did you mean 'a'"),
        ("repeats: {a: 0}", r"repeats.a \(0.*\) must be more than 0"),
    ],
)
def test_repeats_are_checked_and_counted(own, line, words):
    own.write_text(OWN + line + "\n")
    with pytest.raises(ConfigError, match=words):
        load_mix(own)
    own.write_text(OWN + "repeats: {a: 3}\n")
    assert load_mix(own).weights == {"a": 0.75, "b": 0.75}
