"""Configs are found by name in a checkout and in an installed copy, and by path everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import timeexpert
from timeexpert.errors import UserError
from timeexpert.paths import config_path


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose configs are ``tiny`` and ``aria``; the working folder is empty."""
    (tmp_path / "package" / "configs").mkdir(parents=True)
    for name in ("tiny", "aria"):
        (tmp_path / "package" / "configs" / f"{name}.yaml").write_text("seed: 1\n")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(timeexpert, "__path__", [str(tmp_path / "package")])
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "package" / "configs"


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml"])
def test_a_name_means_the_packages_config(name: str, configs: Path) -> None:
    assert config_path(name) == configs / "tiny.yaml"


def test_a_file_that_is_there_wins_over_a_name(configs: Path) -> None:
    Path("tiny.yaml").write_text("seed: 2\n")
    assert config_path("tiny.yaml") == Path("tiny.yaml")
    assert config_path("tiny") == configs / "tiny.yaml"


def test_a_config_in_a_folder_of_the_package_is_found_by_folder_and_name(configs: Path) -> None:
    (configs / "ablations").mkdir()
    (configs / "ablations" / "topk2.yaml").write_text("seed: 3\n")
    assert config_path("ablations/topk2") == configs / "ablations" / "topk2.yaml"
    with pytest.raises(UserError, match=r"config 'ablations/topk3': .* Did you mean 'ablations/topk2'\?"):
        config_path("ablations/topk3")


def test_a_path_is_taken_as_it_is(configs: Path) -> None:
    assert config_path(configs / "aria.yaml") == configs / "aria.yaml"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tinny", r"config 'tinny': neither a file nor .* \(aria, tiny\). Did you mean 'tiny'\?"),
        ("runs/x/config.yaml", "config 'runs/x/config.yaml': no such file"),
        ("../configs/tiny", "config '../configs/tiny': no such file"),
    ],
)
def test_a_config_that_is_not_there_is_refused(name: str, words: str, configs: Path) -> None:
    with pytest.raises(UserError, match=words):
        config_path(name)


def test_a_package_without_its_configs_says_that_the_install_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeexpert, "__path__", [str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no folder 'configs' in .*: the install is broken"):
        config_path("tiny")
