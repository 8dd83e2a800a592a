"""The config system on a small tree of dataclasses: what it merges, and what it refuses in which words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from timeexpert.config import ConfigError, dump, load, to_tree
from timeexpert.paths import config_path


@dataclass(frozen=True, kw_only=True)
class Moe:
    num_experts: int = 64
    router: Literal["topk", "topany"] = "topany"
    lambdas: tuple[float, ...] = (0.01, 0.001)

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ConfigError(f"num_experts ({self.num_experts}) must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class Run:
    seed: int = 0
    learning_rate: float = 1e-3
    compile: bool = False
    note: str = ""
    resume: str | None = None
    time_digits: tuple[int, int] = (4, 1)
    weights: dict[str, float] = field(default_factory=dict)
    moe: Moe = field(default_factory=Moe)
    stages: tuple[Stage, ...] = ()


def yaml_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_then_yaml_then_overrides(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "seed: 1\nmoe: {num_experts: 8, router: topk}\n")
    run = load(Run, path, ["moe.num_experts=4", "note=hello"])
    assert (run.learning_rate, run.seed) == (1e-3, 1)
    assert run.moe == Moe(num_experts=4, router="topk")
    assert run.note == "hello"


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(Run, yaml_file(tmp_path, "")) == Run()


def test_a_dumped_config_loads_to_an_equal_one(tmp_path: Path) -> None:
    run = Run(
        learning_rate=3e-5,
        note="naïve: 'yes'",
        weights={"no": 0.5},
        moe=Moe(lambdas=(1.0,)),
        stages=(Stage(name="sft"),),
    )
    assert load(Run, yaml_file(tmp_path, dump(run))) == run
    assert to_tree(run)["stages"] == [{"name": "sft", "steps": 10}]


def test_a_list_item_is_reached_by_its_name_or_its_position(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "stages: [{name: pre}, {name: sft}]\n")
    assert [s.steps for s in load(Run, path, ["stages.sft.steps=3", "stages.0.steps=2"]).stages] == [2, 3]
    with pytest.raises(ConfigError, match=r"no item 'rl'; there are \['pre', 'sft'\]"):
        load(Run, path, ["stages.rl.steps=3"])


def test_exponents_without_a_point_are_numbers_although_yaml_reads_them_as_text() -> None:
    assert load(Run, overrides=["learning_rate=1e-4"]).learning_rate == 1e-4


def test_none_is_written_null_where_it_is_allowed() -> None:
    assert load(Run, overrides=["resume=null"]).resume is None
    with pytest.raises(ConfigError, match="note is empty; it must be text"):
        load(Run, overrides=["note=null"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sead=1", r"unknown key 'sead'. Did you mean 'seed'\?"),
        ("moe.num_expert=1", r"unknown key 'moe.num_expert'. Did you mean 'moe.num_experts'\?"),
        ("zzz=1", "unknown key 'zzz'. Known keys: seed, learning_rate"),
        ("seed=1.5", r"seed \(1.5\) must be of type int, not float"),
        ("seed=true", r"seed \(True\) must be of type int, not bool"),
        ("compile=1", r"compile \(1\) must be of type bool, not int"),
        ("learning_rate=fast", r"learning_rate \('fast'\) must be of type float, not str"),
        ("learning_rate=.nan", r"learning_rate \(nan\) must be a finite number"),
        ("learning_rate=.inf", r"learning_rate \(inf\) must be a finite number"),
        ("learning_rate=1" + "0" * 400, r"learning_rate \(10+\) must be a finite number"),
        ("moe.router=topkk", r"moe.router \('topkk'\) must be one of topk, topany. Did you mean 'topk'\?"),
        ("moe=3", r"moe \(3\) must be a mapping with num_experts, router"),
        ("moe.lambdas=0.1", r"moe.lambdas \(0.1\) must be a list"),
        ("moe.lambdas=[0.1, x]", r"moe.lambdas\[1\] \('x'\) must be of type float"),
        ("time_digits=[4]", r"time_digits \(\[4\]\) must have 2 items"),
        ("weights=[1]", r"weights \(\[1\]\) must be a mapping"),
        ("stages=[{steps: 3}]", r"key 'stages\[0\].name' is missing; it has no default"),
        ("moe.num_experts=0", r"moe: num_experts \(0\) must be at least 1"),
        ("seed", r"override 'seed' must look like key.path=value"),
        ("=1", r"override '=1' must look like key.path=value"),
        ("note=[", "override 'note=\\[': the value is not YAML"),
    ],
)
def test_a_mistake_is_refused_by_key_value_and_rule(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(Run, overrides=[override])


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = yaml_file(tmp_path, "moe: {num_experts: many}\n")
    with pytest.raises(ConfigError, match=r"run.yaml: moe.num_experts \('many'\) must be of type int"):
        load(Run, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: [1\n", "run.yaml: not YAML: .*line 2, column 1"),
        ("- seed\n", "run.yaml: a config must be a mapping of keys, not list"),
        ("seed: 1\nmoe: {}\nseed: 2\n", "run.yaml: not YAML: key 'seed' is there twice\n.*line 3"),
        ("!!python/object/apply:os.getcwd []\n", "run.yaml: not YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        load(Run, yaml_file(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00note")
    with pytest.raises(ConfigError, match="run.yaml: not YAML"):
        load(Run, tmp_path / "run.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.yaml: no such file. Give the path of a YAML config"):
        load(Run, tmp_path / "absent.yaml")


def test_an_override_below_a_value_does_not_replace_the_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"override 'moe.num_experts=4': moe is 3, not a mapping"):
        load(Run, yaml_file(tmp_path, "moe: 3\n"), ["moe.num_experts=4"])


def files(folder: Path, **texts: str) -> Path:
    """Configs by name; returns that of the first."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(texts))}.yaml"


BASE = "seed: 1\nnote: base\nmoe: {num_experts: 8, lambdas: [1, 2]}\nstages: [{name: pre, steps: 5}, {name: sft}]\n"


def test_a_config_extends_another_one_key_by_key_and_stages_by_name(tmp_path: Path) -> None:
    changes = "extends: base\nseed: 2\nmoe: {lambdas: [3]}\nstages: [{name: sft, steps: 7}, {name: rl}]\n"
    run = load(Run, files(tmp_path, top=changes, base=BASE), ["note=typed"])
    assert (run.seed, run.note) == (2, "typed")
    assert run.moe == Moe(num_experts=8, lambdas=(3.0,))
    assert run.stages == (Stage(name="pre", steps=5), Stage(name="sft", steps=7), Stage(name="rl", steps=10))


def test_the_nearest_of_three_files_wins(tmp_path: Path) -> None:
    top = files(tmp_path, top="extends: mid.yaml\nseed: 3\n", mid="extends: base\nseed: 2\nnote: mid\n", base=BASE)
    run = load(Run, top)
    assert (run.seed, run.note, run.moe.num_experts) == (3, "mid", 8)


def test_a_file_beside_is_extended_from_any_folder_and_wins_over_the_packages_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert load(Run, files(tmp_path, top="extends: tiny\n", tiny="seed: 9\n")).seed == 9


def test_the_packages_configs_can_be_extended_by_name(tmp_path: Path) -> None:
    from timeexpert.stages.config import RunConfig

    ours, theirs = (
        load(RunConfig, files(tmp_path, top="extends: tiny\nname: mine\n")),
        load(RunConfig, config_path("tiny")),
    )
    assert ours == replace(theirs, name="mine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("extends: top\n", r"top.yaml: extends makes a circle: \S*top.yaml extends \S*top.yaml"),
        ("extends: [base]\n", r"top.yaml: extends \(\['base'\]\) must be the name of one config"),
        ("extends: tinny\n", r"top.yaml: extends: config 'tinny': neither a file .*Did you mean 'tiny'\?"),
        ("extends: x/y/z\n", r"top.yaml: extends: config 'x/y/z': no such file"),
        ("extends: base\nmoe: 3\n", r"top.yaml, which extends \S*base.yaml: moe \(3\) must be a mapping"),
        ("extends: base\nsead: 3\n", r"top.yaml, which extends \S*base.yaml: unknown key 'sead'"),
        ("extends: base\nstages: [{steps: 3}]\n", r"top.yaml: stages: each item needs a name of its own"),
        ("extends: base\nstages: [{name: a}, {name: a}]\n", r"top.yaml: stages: each item needs a name of its own"),
        ("extends: broken\n", r"broken.yaml: not YAML"),
        ("extends: circle\n", r"circle.yaml: extends makes a circle: \S*top.yaml extends \S*circle.yaml extends"),
    ],
)
def test_a_mistake_in_extending_names_the_file_and_the_key(changes: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load(Run, files(tmp_path, top=changes, base=BASE, broken="a: [\n", circle="extends: top\n"))
