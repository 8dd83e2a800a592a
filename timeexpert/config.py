"""The one config system: frozen dataclasses, then YAML, then ``key.path=value`` from the command line.

A YAML file may start from another one: ``extends: tiny`` (see :func:`read_tree`). Every mistake is a
:class:`ConfigError` that names the key, the value, the rule and the nearest right name. The merged result is saved
with each run and can be loaded again.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml

from timeexpert.errors import UserError
from timeexpert.paths import packaged_config

T = TypeVar("T")


class ConfigError(UserError):
    """A config that cannot be used: unknown key, wrong type, impossible combination."""


def at_least(least: int, config: object, *names: str) -> None:
    """Raises :class:`ConfigError` unless each named field of ``config`` is ``least`` or more."""
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} ({getattr(config, name)}) must be {least} or more.")


def divisible(config: object, name: str, by: str) -> None:
    """Raises :class:`ConfigError` unless field ``name`` of ``config`` is a multiple of field ``by``."""
    if getattr(config, name) % getattr(config, by):
        raise ConfigError(f"{name} ({getattr(config, name)}) is not divisible by {by} ({getattr(config, by)}).")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which keeps the last of two equal keys without a word: here that is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is there twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


def load(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Build config ``cls`` from its defaults, a YAML file and ``key.path=value`` overrides, in that order.

    A class may have a ``prepare(tree)`` that returns the merged tree with short forms written out.
    """
    tree, files = read_tree(path) if path is not None else ({}, [])
    for override in overrides:
        _apply_override(tree, override)
    prepare = getattr(cls, "prepare", lambda tree: tree)
    try:
        return from_tree(cls, prepare(tree))
    except ConfigError as error:
        where = f"{files[0]}{''.join(f', which extends {file}' for file in files[1:])}: " if files else ""
        raise ConfigError(f"{where}{error}") from None


def read_tree(path: str | Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], list[Path]]:
    """The keys of a YAML file over those of the file it ``extends``, and the files, this one first.

    ``extends`` names a file beside this one, or a config that comes with the package; ``.yaml`` may be left out.
    Mappings are merged key by key, lists of mappings with a ``name`` item by item (new names come last); anything
    else is replaced. ``above``: the files that extend this one. Raises :class:`ConfigError`.
    """
    file = Path(path)
    if file.resolve() in [other.resolve() for other in above]:
        chain = " extends ".join(map(str, [*above, file]))
        raise ConfigError(f"{above[-1]}: extends makes a circle: {chain}. Name another file.")
    tree = _read_yaml(file)
    if "extends" not in tree:
        return tree, [file]
    base, files = read_tree(_base(tree.pop("extends"), file), (*above, file))
    try:
        return _merge(base, tree, ""), [file, *files]
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{file}: no such file. Give the path of a YAML config, for example configs/tiny.yaml.")
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: a config must be a mapping of keys, not {type(tree).__name__}.")
    return tree


def _base(name: Any, file: Path) -> Path:
    """The file that ``extends: name`` in ``file`` means."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{file}: extends ({name!r}) must be the name of one config, for example tiny.")
    beside = file.parent / f"{name.removesuffix('.yaml')}.yaml"
    try:
        return beside if beside.is_file() else packaged_config(name)
    except UserError as error:
        raise ConfigError(f"{file}: extends: {error}") from None


def _merge(base: Any, over: Any, where: str) -> Any:
    """``over`` laid on ``base``; ``where`` is the key path so far."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {k: _merge(base[k], v, _join(where, str(k))) if k in base else v for k, v in over.items()}
    if not (isinstance(base, list) and isinstance(over, list) and _named(base)):
        return over
    if not _named(over):
        raise ConfigError(f"{where}: each item needs a name of its own: it is laid over the base's item of that name.")
    merged = {item["name"]: item for item in base}
    for item in over:
        name = item["name"]
        merged[name] = _merge(merged[name], item, _join(where, name)) if name in merged else item
    return list(merged.values())


def _named(items: list[Any]) -> bool:
    """Whether all items are mappings, each with a name of its own."""
    names = {item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)}
    return bool(items) and len(names) == len(items)


def to_tree(config: Any) -> Any:
    """A config as plain dicts, lists and scalars: what is written to YAML."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_tree(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [to_tree(item) for item in config]
    if isinstance(config, dict):
        return {key: to_tree(value) for key, value in config.items()}
    return config


def dump(config: Any) -> str:
    """A config as YAML text that :func:`load` reads back to an equal object."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def from_tree(cls: type[T], tree: Any, where: str = "") -> T:
    """Build dataclass ``cls`` from a mapping, checking names and types. ``where`` is the key path so far.

    A class may have a static method ``variant(tree)`` that returns the class to build in its place.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{where or 'config'} ({tree!r}) must be a mapping with {_names(cls)}.")
    variant = getattr(cls, "variant", None)
    if variant is not None:
        try:
            cls = variant(tree)
        except ConfigError as error:
            raise ConfigError(f"{_join(where, str(error))}") from None
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            match = get_close_matches(str(key), known, n=1)
            near = f" Did you mean {_join(where, match[0])!r}?" if match else f" Known keys: {', '.join(known)}."
            raise ConfigError(f"unknown key {_join(where, str(key))!r}.{near}")
    values = {key: _convert(hints[key], value, _join(where, key)) for key, value in tree.items()}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ConfigError(f"key {_join(where, f.name)!r} is missing; it has no default.")
    try:
        return cls(**values)
    except ValueError as error:  # a rule of the dataclass itself
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _names(cls: Any) -> str:
    return ", ".join(f.name for f in dataclasses.fields(cls))


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        return _convert(options[0], value, where)
    if origin is typing.Literal:
        if value not in args:
            match = get_close_matches(str(value), [str(a) for a in args], n=1)
            near = f" Did you mean {match[0]!r}?" if match else ""
            raise ConfigError(f"{where} ({value!r}) must be one of {', '.join(map(str, args))}.{near}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} ({value!r}) must be a list.")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise ConfigError(f"{where} ({value!r}) must have {len(args)} items.")
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} ({value!r}) must be a mapping.")
        return {_convert(args[0], k, where): _convert(args[1], v, _join(where, str(k))) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_tree(hint, value, where)  # type: ignore[arg-type]
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or abs(value) > sys.float_info.max:
            raise ConfigError(f"{where} ({value!r:.40}) must be a finite number.")
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return _convert(float, float(value), where)
        except ValueError:
            pass
    if hint is str and isinstance(value, str):
        return value
    if hint is str and value is None:
        raise ConfigError(f"{where} is empty; it must be text.")
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where} ({value!r}) must be of type {name}, not {type(value).__name__}.")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"override {override!r} must look like key.path=value, for example train.seed=1.")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML: {error}") from None
    node: Any = tree
    keys = path.strip().split(".")
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(node, list):
            node_key: Any = _list_index(node, key, override)
        elif isinstance(node, dict):
            node_key = key
        else:
            raise ConfigError(f"override {override!r}: {'.'.join(keys[:i])} is {node!r}, not a mapping.")
        if last:
            node[node_key] = value
        else:
            if isinstance(node, dict) and node.get(node_key) is None:
                node[node_key] = {}
            node = node[node_key]


def _list_index(node: list[Any], key: str, override: str) -> int:
    """A list item by position, or by the ``name`` field of its mappings (``stages.sft.steps=10``)."""
    if key.isdigit() and int(key) < len(node):
        return int(key)
    names = [item.get("name") for item in node if isinstance(item, dict)]
    if key in names:
        return names.index(key)
    raise ConfigError(f"override {override!r}: no item {key!r}; there are {names or len(node)}.")
