"""What the doctor says about a sound install, and about each way in which one can be unsound."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from timeexpert import doctor
from timeexpert.commands import doctor as command
from timeexpert.requirements import REQUIRED


def test_this_environment_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(argparse.Namespace(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    names = [finding["name"] for finding in report["findings"] if finding["topic"] == "required"]
    assert len(names) == len(REQUIRED) and {"torch", "transformers", "av"} <= set(names)


def test_a_missing_part_is_named_with_the_way_to_install_it() -> None:
    finding = doctor.check_required("no-such-part>=2")
    assert (finding.status, finding.found) == ("bad", "not installed")
    assert finding.advice == "pip install 'no-such-part>=2'"


def test_a_part_out_of_range_is_named_with_the_range() -> None:
    finding = doctor.check_required("numpy>=999")
    assert finding.status == "bad"
    assert finding.advice == "needs >=999: pip install 'numpy>=999'"


def test_a_part_that_is_installed_but_broken_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpart.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    (tmp_path / "brokenpart-1.0.dist-info").mkdir()
    (tmp_path / "brokenpart-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: brokenpart\nVersion: 1.0"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.check_required("brokenpart>=1")
    assert finding.status == "bad"
    assert "1.0, but its import fails: OSError: libcudart.so.13: cannot open" in finding.found


def test_an_old_python_is_refused_with_the_way_out() -> None:
    finding = doctor.check_python("3.10.13")
    assert finding.status == "bad"
    assert "needs >=3.11" in finding.advice


def test_a_local_build_and_a_prerelease_count_as_their_version() -> None:
    assert doctor._in_range("2.13.0+cpu", ">=2.11") is True
    assert doctor._in_range("2.12.0a0+git1234", ">=2.11") is True
    assert doctor._in_range("6.0.0", ">=5.17,<6") is False


def test_an_absent_extra_is_a_note_and_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "serve", ["no-such-server>=1", "numpy>=999"])
    absent, old = doctor.check_extra("serve")
    assert (absent.status, absent.advice) == ("note", "pip install -e '.[serve]'")
    assert (old.status, old.advice) == ("note", "needs >=999: pip install -e '.[serve]'")


def test_an_installed_copy_is_told_to_install_extras_by_the_packages_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "serve", ["no-such-server>=1"])
    monkeypatch.setattr(doctor, "_checkout", lambda: None)
    [finding] = doctor.check_extra("serve")
    assert finding.advice == "pip install 'timeexpert[serve]'"


def test_cpu_units_are_read_from_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx2 avx512f amx_bf16\n")
    units = [f.found for f in doctor.check_cpu(tmp_path / "cpuinfo") if f.name == "cpu units"]
    assert units == ["avx2, avx512f, amx_bf16"]


def test_each_gpu_is_shown_with_its_capability() -> None:
    device = SimpleNamespace(name="H100", major=9, minor=0, total_memory=80 * 2**30)
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_properties=lambda i: device)
    found = [(f.name, f.found) for f in doctor.check_gpus(SimpleNamespace(cuda=cuda))]
    assert found == [("gpu 0", "H100, capability 9.0, 80.0 GiB"), ("gpu 1", "H100, capability 9.0, 80.0 GiB")]


def test_the_codecs_that_videos_need_are_offered_by_pyav() -> None:
    import av

    decode, encode = doctor.check_codecs(av)
    assert "h264" in decode.found
    assert "mpeg4" in encode.found


def test_a_missing_codec_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(doctor, "ENCODERS", ("mpeg4", "libnosuch"))
    _, encode = doctor.check_codecs(av)
    assert (encode.status, encode.found) == ("note", "mpeg4")
    assert encode.advice.startswith("without libnosuch: pip install --force-reinstall av")


def test_a_foreign_package_with_a_name_of_ours_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "moe").mkdir()
    (tmp_path / "moe" / "__init__.py").write_text("")
    [finding] = doctor.check_names([str(doctor._checkout()), str(tmp_path)])
    assert (finding.name, finding.status) == ("moe", "note")
    assert str(tmp_path / "moe") in finding.found
    assert "ours is timeexpert.moe" in finding.advice


def test_a_second_copy_of_the_package_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "timeexpert").mkdir()
    (tmp_path / "timeexpert" / "__init__.py").write_text("")
    [finding] = doctor.check_names([str(tmp_path)])
    assert finding.found == f"a second copy: {tmp_path / 'timeexpert' / '__init__.py'}"


def test_little_disk_space_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1.2e9))
    finding = doctor.check_disk(tmp_path)
    assert (finding.status, finding.found) == ("note", "1.2 GB free")


def test_one_bad_finding_makes_the_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ["no-such-part>=2", "numpy>=2"])
    assert command.run(argparse.Namespace(json=False)) == 1
    out = capsys.readouterr().out
    assert "BAD  no-such-part             not installed  -> pip install 'no-such-part>=2'" in out
    assert " 1 failed, " in out
