"""Settings: conversion of nested frozen dataclasses to and from plain data, YAML and command-line overrides.

A dataclass is the only description of its settings: the annotation of a field defines the accepted values, and its comment
is the text of ``dreamlift settings``. Annotations may be int, float, bool, str, Literal, ``T | None``,
``tuple[T, ...]``, ``tuple[A, B]``, dataclasses, and a choice between dataclasses: a field with
``metadata={"choices": {"sds": SDS, "vsd": VSD}}``, which is written as a mapping with ``type: sds`` beside that class's
own fields. ``float | Schedule`` needs no metadata: its names are those of :data:`dreamlift.schedules.SCHEDULES`.

Text is converted by the annotation only, not by its form: ``--prompt null`` is the word "null". Each dataclass checks its
ranges in ``__post_init__``; the dotted path of the setting is prefixed to the message of its ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from abc import ABC
from collections.abc import Mapping
from typing import Any, TypeVar

from dreamlift.config import yaml
from dreamlift.config.kinds import Kind, fields_of, is_setting, root_kind
from dreamlift.schedules import Constant

T = TypeVar("T")
NULLS = ("null", "none", "None")
REMOVED = object()
MOST = 1000  # entries of a list
PLUGIN_HINT = "; the type of a plugin needs --plugin FILE_OR_MODULE"


class Parts(dict[str, Any]):
    """Settings by the parts of their dotted names: a mapping that changes some entries of a record or of a tuple."""


class ConfigError(ValueError):
    """An invalid setting. The message has one line: the dotted path, the given and the accepted values, the nearest name."""


def to_plain(obj: Any) -> dict[str, Any]:
    """Dicts, lists and scalars from which :func:`from_plain` builds an equal object.

    Raises:
        ConfigError: a value that its field's annotation does not accept (dataclasses do not check annotations).
    """
    return _plain_record(root_kind(type(obj)), obj, "")


def from_plain(cls: type[T], data: Any, path: str = "") -> T:
    """Build ``cls`` from plain data, with defaults for missing fields. ``path`` prefixes the names in errors.

    Raises:
        ConfigError: an unknown name, or a value that is missing, of the wrong type or out of range.
    """
    return _build(root_kind(cls), data, path, False, None)


def save_yaml(obj: Any) -> str:
    """The YAML text of all settings, with floats in full precision."""
    return yaml.dump(to_plain(obj))


def load_yaml(cls: type[T], text: str, name: str = "the config") -> T:
    """Read the YAML text of a config, complete or in part; ``name`` is its file, for errors. Raises ConfigError."""
    return load_stated(cls, text, name)[0]


def load_stated(cls: type[T], text: str, name: str = "the config") -> tuple[T, frozenset[str]]:
    """As :func:`load_yaml`, and the names of the fields that the text states."""
    try:
        data = yaml.load(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not readable: {error}") from None
    data = {} if data is None else data
    try:
        return from_plain(cls, data), frozenset(data)
    except ConfigError as error:
        raise error if name == "the config" else ConfigError(f"{name}: {error}") from None


def apply_overrides(obj: T, overrides: Mapping[str, Any], text: bool = True) -> T:
    """A copy of ``obj`` with dotted settings replaced by command-line text, such as ``{"guidance.t_max": "0.5"}``.

    An entry of a tuple is named by its number, counted from 0 (``stages.0.steps``); the first unused number appends an
    entry, and "null" removes one. From Python a value may also be a settings object, which is not converted. The order of
    the overrides has no effect: ``guidance.type`` selects the class (a new class starts from its defaults), and its fields
    may be set in the same call. Raises ConfigError.
    """
    tree = Parts()
    for name, value in overrides.items():
        *parents, last = name.split(".")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, Parts())
            if not isinstance(level, Parts):
                raise ConfigError(f"{_join('', name)}: {parent!r} is given both as a whole and in parts; give one of them")
        if isinstance(level.get(last), Parts):
            raise ConfigError(f"{_join('', name)}: {last!r} is given both as a whole and in parts; give one of them")
        level[last] = value
    return _build(root_kind(type(obj)), tree, "", text, obj)


def config_hash(obj: Any) -> str:
    """SHA-256 (64 hex digits) of all settings, equal for equal configs in every process.

    A field with ``metadata={"late": True}`` counts only where it differs from its default, so that configs from before it was
    added keep their hash.
    """
    fields = dataclasses.fields(obj)
    left_out = {each.name for each in fields if each.metadata.get("late") and getattr(obj, each.name) == each.default}
    plain = {name: value for name, value in to_plain(obj).items() if name not in left_out}
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def describe_fields(obj: Any, path: str = "") -> list[tuple[str, str, str, str]]:
    """Every setting that can be overridden: (dotted name, type, value in ``obj`` as YAML, comment), in source order."""
    rows: list[tuple[str, str, str, str]] = []
    for name, (kind, _, comment) in fields_of(type(obj)).items():
        value, here = getattr(obj, name), _join(path, name)
        names = {choice: label for label, choice in kind.records.items()}
        if kind.repeats and kind.items[0].records and value:
            names = {choice: label for label, choice in kind.items[0].records.items()}
            for number, entry in enumerate(value):
                if kind.items[0].tagged:
                    rows.append((f"{here}.{number}.type", " | ".join(kind.items[0].records), names[type(entry)], comment))
                rows += describe_fields(entry, f"{here}.{number}")
            continue
        if type(value) not in names:
            text = value if isinstance(value, str) else json.dumps(_plain(kind, value, here), ensure_ascii=False)
            rows.append((here, str(kind), text, comment))
            continue
        if kind.tagged:
            rows.append((_join(here, "type"), " | ".join(kind.records), names[type(value)], comment))
        rows += describe_fields(value, here)
    return rows


def _build(kind: Kind, value: Any, path: str, text: bool, base: Any) -> Any:
    """``value`` converted to the annotation's type; with ``text``, scalars are command-line text.

    ``base`` is the setting's previous value, from which a mapping with only some fields takes the others.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _accepted(kind, value, path)
    if text and isinstance(value, str):
        value = _structure(kind, value, path)
        if isinstance(value, str) and (not _is_plain_record(kind) or value.strip() in NULLS):
            return _from_text(kind, value, path)
    if isinstance(value, str) and _is_plain_record(kind):
        value = {next(iter(kind.records.values())).MAIN_FIELD: value}  # text stands for the record's main field
    if isinstance(value, Mapping) and kind.records:
        return _build_record(kind, value, path, text, base)
    if isinstance(value, Parts) and kind.repeats and isinstance(base, tuple):
        return _build_some(kind.items[0], value, path, text, base)
    if isinstance(value, (list, tuple)) and kind.items:
        if len(value) > MOST:
            raise ConfigError(f"{path}: got {len(value):,} values, accepted: at most {MOST:,}")
        if not kind.repeats and len(value) != len(kind.items):
            raise ConfigError(f"{path}: got {len(value)} values, accepted: {kind}")
        kinds = kind.items * len(value) if kind.repeats else kind.items
        return tuple(
            _build(item, each, f"{path}[{i}]", text, None) for i, (item, each) in enumerate(zip(kinds, value, strict=True))
        )
    return _scalar(kind, value, path)


def _accepted(kind: Kind, value: Any, path: str) -> Any:
    """A settings object from Python, if the annotation accepts it.

    A class without a name in a config is accepted if it has the base class of those with one: a loss in place of a loss.
    """
    known = [cls for cls in kind.records.values() if dataclasses.is_dataclass(cls)]
    shared = [base for base in (known[0].__mro__ if known else ()) if all(issubclass(cls, base) for cls in known)]
    base = next((base for base in shared if base not in (object, ABC)), None)
    if type(value) in known or (base is not None and isinstance(value, base)):
        return value
    raise ConfigError(f"{path}: got a {type(value).__name__}, accepted: {kind}")


def _structure(kind: Kind, value: str, path: str) -> Any:
    """Command-line text that begins with [ or {, parsed if a list or mapping is accepted; other text unchanged."""
    if not (kind.items or kind.records) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return yaml.load(value, leaves_as_text=True)
    except ValueError as error:
        raise ConfigError(f"{path}: got {_show(value)}, which is not readable: {error}") from None


def _is_plain_record(kind: Kind) -> bool:
    """Whether plain text is accepted as the record's main field."""
    return bool(kind.records) and not kind.tagged and hasattr(next(iter(kind.records.values())), "MAIN_FIELD")


def _build_some(kind: Kind, data: Parts, path: str, text: bool, base: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple with some entries changed, removed, or appended, by their numbers: ``stages.0.steps``."""
    found = list(base)
    for key, value in sorted(data.items()):
        number = int(key) if str(key).isdigit() else -1
        if not 0 <= number <= len(found):
            raise ConfigError(f"{_join(path, key)}: no such entry; accepted: 0 to {len(found)} ({len(found)} adds one)")
        entry = found[number] if number < len(found) else None
        gone = value is None or (isinstance(value, str) and value.strip() in NULLS)  # removes the entry
        found[number : number + 1] = [REMOVED if gone else _build(kind, value, _join(path, key), text, entry)]
    return tuple(entry for entry in found if entry is not REMOVED)


def _build_record(kind: Kind, data: Mapping[Any, Any], path: str, text: bool, base: Any) -> Any:
    """A dataclass from a mapping; missing fields come from ``base``, or from the defaults if its class differs."""
    cls = _class_of(kind, data, path, base)
    if type(base) is not cls:
        base = None
    known = fields_of(cls)
    for key in data:
        if key not in known and not (key == "type" and kind.tagged):
            raise ConfigError(_unknown(key, cls, path, base))
    values = {}
    for name, (field_kind, default, _) in known.items():
        before = default() if base is None else getattr(base, name)
        if name in data:
            values[name] = _build(field_kind, data[name], _join(path, name), text, before)
        elif before is dataclasses.MISSING:
            raise ConfigError(f"{_join(path, name)}: missing, accepted: {field_kind}")
        else:
            values[name] = before
    if base is not None and getattr(cls, "MAIN_FIELD", None) not in data:
        # What is no setting (a model in memory) is kept, unless the main field says that another one is meant.
        values |= {field.name: getattr(base, field.name) for field in dataclasses.fields(cls) if not is_setting(field)}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(": ".join(filter(None, [path, " ".join(str(error).split())]))) from error


def _class_of(kind: Kind, data: Mapping[Any, Any], path: str, base: Any) -> type:
    """The dataclass of a mapping: the one that ``type`` names, or else the class of ``base``."""
    if not kind.tagged:
        return next(iter(kind.records.values()))
    accepted, here = ", ".join(kind.records), _join(path, "type")
    if "type" not in data:
        if type(base) in kind.records.values():
            return type(base)
        raise ConfigError(f"{here}: missing, accepted: {accepted}")
    name = data["type"]
    if not isinstance(name, str) or name not in kind.records:
        hint = _nearest(name, kind.records) + PLUGIN_HINT
        raise ConfigError(f"{here}: got {_show(name)}, accepted: {accepted}{hint}")
    return kind.records[name]


def _scalar(kind: Kind, value: Any, path: str) -> Any:
    """A number, flag, text or None, checked against the annotation. Only an int is converted, to a float."""
    if value is None and kind.optional:
        return None
    if any(type(value) is type(option) and value == option for option in kind.options):
        return value
    if isinstance(value, bool) and bool in kind.scalars:
        return value
    if isinstance(value, str) and str in kind.scalars:
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and int in kind.scalars:
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (float in kind.scalars or kind.constant):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{path}: got {_show(value)}, accepted: a finite number")
        return number if float in kind.scalars else Constant(number)
    raise ConfigError(f"{path or 'the config'}: got {_show(value)}, accepted: {kind}{_nearest(value, map(str, kind.options))}")


def _from_text(kind: Kind, text: str, path: str) -> Any:
    """A scalar of the annotated type from command-line text; text for a ``str`` field is unchanged."""
    if str in kind.scalars:
        return text
    word = text.strip()
    for option in kind.options:
        if word == str(option):
            return option
    if kind.optional and word in NULLS:
        return None
    if bool in kind.scalars and word in ("true", "True", "false", "False"):
        return word in ("true", "True")
    if int in kind.scalars and re.fullmatch(r"[-+]?[0-9]{1,1000}", word):
        return int(word)
    if (float in kind.scalars or kind.constant) and re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", word):
        return _scalar(kind, float(word), path)
    raise ConfigError(f"{path}: got {_show(text)}, accepted: {kind}{_nearest(word, map(str, kind.options))}")


def _plain(kind: Kind, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and kind.records:
        return _plain_record(kind, value, path)
    if isinstance(value, tuple) and kind.items:
        kinds = kind.items * len(value) if kind.repeats else kind.items
        if len(kinds) != len(value):
            raise ConfigError(f"{path}: got {len(value)} values, accepted: {kind}")
        return [_plain(item, each, f"{path}[{i}]") for i, (item, each) in enumerate(zip(kinds, value, strict=True))]
    if isinstance(value, (tuple, list)) or (kind.constant and value is not None):
        raise ConfigError(f"{path}: got {_show(value)}, accepted: {kind}")
    return _scalar(kind, value, path)


def _plain_record(kind: Kind, value: Any, path: str) -> dict[str, Any]:
    name = next((name for name, cls in kind.records.items() if cls is type(value)), None)
    if name is None:
        raise ConfigError(f"{path}: {type(value).__name__} has no name in a config; register it (dreamlift.register)")
    plain: dict[str, Any] = {"type": name} if kind.tagged else {}
    for field in dataclasses.fields(value):
        if not is_setting(field) and getattr(value, field.name) != field.default:
            raise ConfigError(f"{_join(path, field.name)}: a value in memory cannot be written to a config")
    for field_name, (field_kind, _, _) in fields_of(type(value)).items():
        plain[field_name] = _plain(field_kind, getattr(value, field_name), _join(path, field_name))
    return plain


def _unknown(key: Any, cls: type, path: str, base: Any) -> str:
    """The message for a name that ``cls`` does not have, with the nearest name of ``cls`` or of a setting inside ``base``."""
    known = list(fields_of(cls))
    if key in (moved := getattr(cls, "MOVED", {})):
        return f"{_join(path, key)}: older config formats had this name; in a config file it is now {moved[key]}"
    below = {} if base is None else {row[0].rsplit(".", 1)[-1]: row[0] for row in describe_fields(base, path)}
    names = below | {name: _join(path, name) for name in known}
    near = [name for name in (*known, *below) if str(key) in name.split("_")]  # "scale" for "guidance_scale"
    near = near or difflib.get_close_matches(str(key), names, n=1, cutoff=0.6)
    hint = f"; did you mean {names[near[0]]!r}?" if near else ""
    return f"{_join(path, key)}: unknown name, accepted: {', '.join(known)}{hint}"


def _nearest(given: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _show(value: Any) -> str:
    """A value for a message: its repr (which escapes line ends and control characters), at most 80 characters."""
    text = repr(value) if not isinstance(value, Mapping) else f"a mapping with {', '.join(map(repr, value)) or 'nothing'}"
    return text if len(text) <= 80 else text[:77] + "..."


def _join(path: str, name: Any) -> str:
    shown = name if isinstance(name, str) and name and name.isprintable() and len(name) <= 80 else _show(name)
    return f"{path}.{shown}" if path else shown
