"""Where files that belong to the package lie, in a checkout and in an installed copy alike."""

from __future__ import annotations

from pathlib import Path

import timeexpert
from timeexpert.errors import UserError, did_you_mean


def configs_folder() -> Path:
    """The folder of the configs that come with the package: ``timeexpert/configs`` or, in a checkout, ``configs``."""
    for entry in timeexpert.__path__:
        folder = Path(entry) / "configs"
        if folder.is_dir():
            return folder
    raise UserError(f"no folder 'configs' in {', '.join(timeexpert.__path__)}: the install is broken; install again.")


def config_path(name: str | Path) -> Path:
    """The config file that ``name`` means: a path to a file, or else the name of a config of the package."""
    given = Path(name)
    return given if given.is_file() else packaged_config(name)


def packaged_config(name: str | Path) -> Path:
    """``tiny`` and ``tiny.yaml`` mean ``configs/tiny.yaml`` of the package, ``ablations/topk2`` a file in a folder.

    Raises :class:`UserError` with the nearest name.
    """
    folder = configs_folder()
    known = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    stem = Path(name).as_posix().removesuffix(".yaml")
    if stem in known:
        return known[stem]
    near = did_you_mean(stem, known)
    if "/" in stem and not near:
        raise UserError(f"config {str(name)!r}: no such file.")
    raise UserError(
        f"config {str(name)!r}: neither a file nor a config that comes with the package "
        f"({', '.join(known) or 'there is none'}).{near}"
    )
