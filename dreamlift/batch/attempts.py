"""How the attempts at an asset ended: which of them count, and when it is given up."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamlift.batch.ledger import VOID, Claim

FREE_OF_BLAME = ("stopped", "busy", "disk", "prior", "lost", VOID)
BROKEN = ("error", "crashed", "memory")  # where the asset may be at fault, or its process, GPU or machine
ROW, EACH = 5, 3  # attempts in a row that end so: at least, and for each worker, until these are at fault
LOST = 20  # attempts that were cut short from outside and got no further, before an asset is given up


def counted(ends: Sequence[dict[str, Any]]) -> int:
    """The attempts that count against an asset.

    One that crashed beyond the checkpoints of those before it does not: it was killed from outside, as on a machine that is
    taken away, and the next one gets further. That ends, since an asset has so many steps.
    """
    return sum(
        end.get("outcome") not in FREE_OF_BLAME and not (end.get("outcome") == "crashed" and further)
        for end, further in _with_progress(ends)
    )


def given_up(ends: Sequence[dict[str, Any]], attempts: int) -> str:
    """Why no further attempt is made, where ``attempts`` may count; or ""."""
    last = ends[-1] if ends else {}
    if last.get("outcome") == "refused" or (ends and counted(ends) >= attempts):
        return str(last.get("reason", ""))
    cut = sum(_cut_short(end) and not further for end, further in _with_progress(ends))
    return f"its process was gone {cut} times, and got no further each time" if cut >= LOST else ""


def first_failure(ends: Sequence[dict[str, Any]]) -> bool:
    """Whether the newest attempt is charged and is the first that is, those in a row of failures counted.

    Only such failures show that a machine is at fault: an asset that fails again, at the end of the list, is bad itself.
    """
    return counted(ends) == 1 and counted(ends[:-1]) == 0 and all(end.get("outcome") != VOID for end in ends)


def end_of(
    folder: Path, outcome: str, reason: str, seconds: float, alone: bool = False, host: str = ""
) -> dict[str, Any]:  # fmt: skip
    """What is written down of an attempt that has ended.

    Args:
        folder: of the asset's run.
        seconds: that the attempt took.
        alone: a signal stopped the asset's process, and not the whole command.
        host: where the process was; "": this machine.
    """
    found = {
        "outcome": outcome,
        "reason": reason,
        "step": newest_step(folder),
        "seconds": round(seconds, 1),
        "host": host or socket.gethostname(),
        "time": time.strftime("%F %T"),
    }
    return found | ({"alone": True} if alone and outcome == "stopped" else {})


class Streak:
    """The newest attempts of a worker, or of all, that have failed on different assets, with none made between them."""

    def __init__(self, most: int) -> None:
        self.most = most  # different assets, until the fault is not theirs
        self.claims: list[Claim] = []

    def add(self, claim: Claim) -> None:
        """An attempt has failed."""
        self.claims.append(claim)

    def clear(self) -> None:
        """An asset was made."""
        self.claims = []

    @property
    def assets(self) -> int:
        """Different assets that have failed."""
        return len({claim.entry.id for claim in self.claims})

    @property
    def full(self) -> bool:
        """Whether something else than the assets is at fault."""
        return self.assets >= self.most


def newest_step(folder: Path) -> int:
    """The step of a run's newest checkpoint, by its name; 0: there is none."""
    try:
        found = [re.match(r"step-(\d+)", path.name) for path in (folder / "checkpoints").iterdir()]
    except OSError:
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _with_progress(ends: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], bool]]:
    """Each end, and whether that attempt got further than the best before it."""
    found, best = [], 0
    for end in ends:
        step = int(end.get("step", 0))
        found.append((end, step > best))
        best = max(best, step)
    return found


def _cut_short(end: dict[str, Any]) -> bool:
    """Whether an attempt was cut short from outside, and its command was not asked to stop."""
    return end.get("outcome") == "lost" or (end.get("outcome") == "stopped" and bool(end.get("alone")))
