"""The values that a dataclass's annotations accept, as :class:`Kind` objects for :mod:`dreamlift.config.build`."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import tokenize
import types
import typing
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

from dreamlift.schedules import SCHEDULES

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """The values that one annotation accepts: the union of the following."""

    scalars: tuple[type, ...] = ()  # of int, float, bool, str
    options: tuple[Any, ...] = ()  # the members of a Literal
    items: tuple[Kind, ...] = ()  # of a tuple: one per position, or with `repeats` one for all
    repeats: bool = False
    records: Mapping[str, type] = dataclasses.field(default_factory=dict)  # name -> dataclass
    tagged: bool = False  # a mapping has a key `type` with the record's name
    optional: bool = False  # None is accepted
    constant: bool = False  # a plain number is read as a Constant schedule

    def __str__(self) -> str:
        """The text of ``--help`` and of errors."""
        parts = [_SCALARS[scalar] for scalar in self.scalars] + [str(option) for option in self.options]
        if self.items:
            inner = ", ".join(map(str, self.items)) + (", ..." if self.repeats else "")
            parts.append(f"[{inner}]" + (", such as [64]" if self.repeats and self.items[0].scalars == (int,) else ""))
        if self.constant:
            parts.append("a number")
        if self.tagged:
            parts.append("a mapping with type: " + "/".join(self.records))
        elif self.records:
            parts.append("a mapping")
        return " | ".join(parts + ["null"] * self.optional)


# Of one field: the accepted values, a function that returns its default (or dataclasses.MISSING), its comment.
FieldInfo = tuple[Kind, Callable[[], Any], str]


@functools.cache
def fields_of(cls: type) -> dict[str, FieldInfo]:
    """The settings of a dataclass by name, in source order.

    Raises:
        TypeError: an annotation that configs do not support (an error in the class, not in the user's input).
    """
    hints, comments = typing.get_type_hints(cls), _comments(cls)
    found: dict[str, FieldInfo] = {}
    for field in dataclasses.fields(cls):
        if not field.init or not is_setting(field):
            continue
        kind = _kind(hints[field.name], field.metadata.get("choices"), f"{cls.__name__}.{field.name}")
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory
        else:
            default = functools.partial(_same, field.default)
        found[field.name] = (kind, default, field.metadata.get("help") or comments.get(field.name, ""))
    return found


def is_setting(field: dataclasses.Field[Any]) -> bool:
    """Whether a field is part of a config; with ``metadata={"setting": False}`` it is not (a value in memory)."""
    return field.metadata.get("setting", True)


def root_kind(cls: type) -> Kind:
    """The kind of a whole config."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"a config is a dataclass, got {cls!r}")
    return Kind(records={cls.__name__: cls})


def _same(value: Any) -> Any:
    return value


def _kind(hint: Any, choices: Mapping[str, type] | None, where: str) -> Kind:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in members or None in members
    members = [member for member in members if member not in (type(None), None)]
    scalars = tuple(member for member in members if member in _SCALARS)
    options = tuple(o for member in members if typing.get_origin(member) is typing.Literal for o in typing.get_args(member))
    tuples = [member for member in members if typing.get_origin(member) is tuple]
    others = [m for m in members if m not in _SCALARS and typing.get_origin(m) not in (typing.Literal, tuple)]
    if len(tuples) > 1 or (str in scalars and len(members) > 1):
        # Command-line text could mean either member.
        raise TypeError(f"{where}: {hint} is ambiguous; str stands alone or with None, and one tuple at most")
    items, repeats = _items(tuples[0], choices, where) if tuples else ((), False)
    records, tagged = ({}, False) if tuples else _records(others, choices, where)
    constant = float not in scalars and SCHEDULES["constant"] in records.values()
    return Kind(scalars, options, items, repeats, records, tagged, optional, constant)


def _items(hint: Any, choices: Mapping[str, type] | None, where: str) -> tuple[tuple[Kind, ...], bool]:
    args = typing.get_args(hint)
    repeats = len(args) == 2 and args[1] is Ellipsis
    return tuple(_kind(arg, choices, where) for arg in (args[:1] if repeats else args)), repeats


def _records(members: list[Any], choices: Mapping[str, type] | None, where: str) -> tuple[Mapping[str, type], bool]:
    """The dataclasses that a field accepts, by name, and whether a mapping must have a ``type``."""
    if choices is not None and members:
        for name, choice in choices.items():
            if not dataclasses.is_dataclass(choice) or any(f.name == "type" for f in dataclasses.fields(choice)):
                raise TypeError(f"{where}: the choice {name!r} must be a dataclass without a field 'type'")
        return choices, True
    if not all(isinstance(member, type) and dataclasses.is_dataclass(member) for member in members):
        raise TypeError(f"{where}: unsupported annotation; see the list at the head of dreamlift.config.build")
    if members and all(member in SCHEDULES.values() for member in members):
        return {name: cls for name, cls in SCHEDULES.items() if cls in members}, True
    if len(members) > 1:
        raise TypeError(f'{where}: a choice between dataclasses needs metadata={{"choices": {{name: class}}}}')
    return {member.__name__: member for member in members}, False


def _comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line, otherwise the comment lines directly above it, by field name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(base))
            body = ast.parse(source).body[0]
        except (OSError, TypeError, SyntaxError):
            continue  # built in, or without a source file: the settings have no comments
        tokens = [t for t in tokenize.generate_tokens(StringIO(source).readline) if t.type == tokenize.COMMENT]
        behind = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.line[: t.start[1]].strip()}
        alone = {t.start[0]: t.string.lstrip("# ") for t in tokens if not t.line[: t.start[1]].strip()}
        for node in getattr(body, "body", []):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            above, line = [], node.lineno - 1
            while line in alone:
                above.insert(0, alone[line])
                line -= 1
            last = node.end_lineno or node.lineno
            found[node.target.id] = behind.get(last) or behind.get(node.lineno) or " ".join(above)
    return found
