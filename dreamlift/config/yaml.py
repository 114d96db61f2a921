"""A strict subset of YAML: plain data of limited size, with text that is never read as another type.

Numbers, booleans and null follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), so ``1e-3`` is
a number, and ``no``, ``on``, ``1:30`` and ``2024-01-01`` are text. Tags (``!!python/...``), anchors, aliases, merge
keys and repeated keys are refused. Text that a YAML 1.1 reader would read as another type is written in quotes.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # about a second of PyYAML's time; a real config has a few hundred
MAX_DEPTH = 30

# A part of PyYAML's message -> what is meant, for the errors that people make.
HINTS = {
    "'\\t' that cannot start": "a tab: write spaces",
    "escape": "a backslash begins an escape in double quotes: write the text in single quotes, a path also with /",
    "mapping values are not allowed": "text with a colon and a space needs quotes",
    "expected a single document": "one file holds one config: remove what follows ---",
}

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")
_NOT_FINITE = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_CORE = (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("float", _NOT_FINITE, list("-+.")),
)


def load(text: str, leaves_as_text: bool = False) -> Any:
    """The dicts, lists and scalars of one YAML document; with ``leaves_as_text`` every scalar is text.

    Raises:
        ValueError: not YAML, or not in this subset; the message has one line with the line and column.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"the YAML text is larger than {MAX_BYTES:,} bytes")
    try:
        return (_TextLoader if leaves_as_text else _StrictLoader)(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        told = " ".join(" ".join(part for part in (error.context, error.problem) if part).split())
        raise ValueError(place + told + next((f"; {hint}" for mark, hint in HINTS.items() if mark in told), "")) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def dump(data: Any) -> str:
    """YAML text of plain data (dict, list, str, int, float, bool, None), which :func:`load` reads exactly."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=float("inf"))


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader with the core schema's scalars; it refuses anchors, tags, repeated keys, and documents over the limits."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, filled below

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse("anchors (&name) and aliases (*name) are not accepted: write the value out", event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            _refuse(f"tags are not accepted, got {tag!r}: write the plain value", event)
        if self._nodes > MAX_NODES or self._depth >= MAX_DEPTH:
            many = self._nodes > MAX_NODES
            _refuse(f"more than {MAX_NODES:,} values" if many else f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be text", key)
            if key.value in seen:
                _refuse(f"the key {key.value!r} is given twice", key)
            seen.add(key.value)
        # Keys are names of settings: always text, even if they look like a number.
        return {key.value: self.construct_object(value, deep=True) for key, value in node.value}


class _TextLoader(_StrictLoader):
    """The same loader without implicit types: every scalar is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes no aliases and puts lists of numbers on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _refuse(problem: str, where: Any) -> None:
    raise yaml.MarkedYAMLError(None, None, problem, where.start_mark)


def _represent_list(dumper: _Dumper, data: list[Any]) -> Any:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=_is_flat(data))


def _represent_text(dumper: _Dumper, data: str) -> Any:
    # PyYAML's single quotes lose some line breaks (U+0085); double quotes escape all of them.
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


def _is_flat(data: Any) -> bool:
    return not isinstance(data, dict) and (not isinstance(data, list) or all(_is_flat(item) for item in data))


for _name, _pattern, _first in _CORE:
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    # The writer has the rules of both schemas: text that either would read as another type is quoted.
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_text)
