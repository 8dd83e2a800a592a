"""Where files that belong to the package lie, in a checkout and in an installed copy alike."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import timeexpert
from timeexpert.errors import UserError


def configs_folder() -> Path:
    """The folder of the configs that come with the package: ``timeexpert/configs`` or, in a checkout, ``configs``."""
    for entry in timeexpert.__path__:
        folder = Path(entry) / "configs"
        if folder.is_dir():
            return folder
    raise UserError(f"no folder 'configs' in {', '.join(timeexpert.__path__)}: the install is broken; install again.")


def config_path(name: str | Path) -> Path:
    """The config file that ``name`` means: a path to a file, or the name of a config that comes with the package.

    An existing file wins; otherwise ``tiny`` and ``tiny.yaml`` both mean ``configs/tiny.yaml`` of the package.
    Raises :class:`UserError` with the nearest name.
    """
    given = Path(name)
    if given.is_file():
        return given
    if len(given.parts) > 1:
        raise UserError(f"config {str(name)!r}: no such file.")
    known = {path.stem: path for path in sorted(configs_folder().glob("*.yaml"))}
    stem = given.name.removesuffix(".yaml")
    if stem in known:
        return known[stem]
    match = get_close_matches(stem, known, n=1)
    near = f" Did you mean {match[0]!r}?" if match else ""
    raise UserError(
        f"config {str(name)!r}: neither a file nor a config that comes with the package "
        f"({', '.join(known) or 'there is none'}).{near}"
    )
