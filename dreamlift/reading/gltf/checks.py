"""Look-ups in a JSON document whose types are unknown; every fault is a ValueError of one line."""

from __future__ import annotations

from typing import Any

ENTRIES = 100_000  # largest number of entries in a list


def entries(owner: dict[str, Any], name: str) -> list[Any]:
    """The list ``owner[name]``, empty where there is none; its entries are not checked."""
    found = owner.get(name, [])
    if not isinstance(found, list) or len(found) > ENTRIES:
        raise ValueError(f"its {name} must be a list of at most {ENTRIES:,} entries")
    return found


def entry(document: dict[str, Any], name: str, index: Any, what: str) -> dict[str, Any]:
    """The object ``document[name][index]``; ``what`` names the index in errors."""
    found = entries(document, name)
    record = found[whole(index, what, 0, len(found) - 1)]
    if not isinstance(record, dict):
        raise ValueError(f"its {name} must hold objects")
    return record


def record(owner: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    """The object ``owner[name]``, empty where there is none; ``what`` names the owner in errors."""
    found = owner.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"the {name} of {what} is malformed")
    return found


def extension(owner: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The extension ``name`` of a part of the document, if it is there and an object."""
    found = owner.get("extensions")
    found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def whole(value: Any, what: str, low: int, high: int) -> int:
    """``value``, if it is an integer in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        accepted = f"accepted here: {low} to {high}" if high >= low else "there are none"
        raise ValueError(f"{what} is {str(value)[:40]}; {accepted}")
    return value


def numbers(value: Any, what: str, count: int) -> list[float]:
    """``value``, if it is a list of ``count`` numbers below 1e30 in magnitude."""
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e30 for x in value):
        raise ValueError(f"{what} must be {count} finite numbers")
    return [float(x) for x in value]
