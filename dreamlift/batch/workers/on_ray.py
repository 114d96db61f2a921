"""Workers on a Ray cluster: actors that keep their priors, one call an asset; all files go through the shared folder.

A dead actor whose node is gone as well was lost, which does not count against the asset; one on a living node has crashed. The
actors of a node that is being drained stop at a checkpoint and begin anew elsewhere.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamlift.batch.limits import too_much_memory
from dreamlift.batch.workers.local import Told
from dreamlift.batch.workers.places import beside, living, shown
from dreamlift.system.files import expanded
from dreamlift.system.processes import resident_bytes

LOOK = 5.0  # seconds between looks for nodes that are drained
STARTS = 3  # of a cluster on this machine, which may be busy
PLACE = 60.0  # seconds without any actor, until it is told what they wait for
WATCH = 1.0  # between an actor's looks at its memory and at its stop file
PASSED_ON = (
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "DREAMLIFT_PLUGINS",
    "DREAMLIFT_KERNELS",
    "OMP_WAIT_POLICY",
    "XDG_CACHE_HOME",
    "PYTHONPATH",
)


def connect(address: str) -> Any:
    """The module ray, connected to a cluster: "local" starts one on this machine.

    Raises:
        ValueError: ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise ValueError('--ray needs a package: pip install "dreamlift[cluster]"') from None
    if ray.is_initialized():
        return ray
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning", "runtime_env": {"env_vars": variables}}
    tries = STARTS if address == "local" else 1
    for number in range(1, tries + 1):
        try:
            if address == "local":
                ray.init(include_dashboard=False, **common)
            else:
                ray.init(address=address, **common)
            break
        except Exception as error:  # a plain one where a part of Ray has not started after the 30 s that it waits
            ray.shutdown()
            if number == tries:
                fix = "try again when the machine is less busy" if address == "local" else "`ray start --head` starts one"
                raise ValueError(f"--ray {address}: no cluster answers ({error}); {fix}") from None
    return ray


class Maker:
    """What an actor does: it makes one asset at a time, in the main thread of its process."""

    def __init__(self, threads: int, plugins: list[str], memory: float, sharing: int) -> None:
        from dreamlift.system.startup import tune_process

        tune_process()
        import torch

        from dreamlift.memory import available_host
        from dreamlift.plugins import load_plugins
        from dreamlift.priors.kinds import Priors

        torch.set_num_threads(threads)
        load_plugins(plugins)
        self.pool, self.memory = Priors(), memory or 0.9 * (available_host() or float("inf")) / sharing

    def about(self) -> dict[str, Any]:
        """The node, the host and the process of the actor."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname(), "ready": os.getpid()}

    def make(self, job: dict[str, Any], stop: str) -> dict[str, Any]:
        """Make an asset. ``stop``: a file whose existence asks to stop, and that says why where memory is exceeded."""
        from dreamlift.batch.workers.making import Pulse, make_asset

        def watch() -> None:
            if os.path.exists(stop):
                os.kill(os.getpid(), signal.SIGTERM)  # the run stops at a checkpoint
            if (used := resident_bytes(os.getpid())) > self.memory:
                with contextlib.suppress(OSError):
                    Path(f"{stop}-memory").write_text(too_much_memory(used, self.memory), encoding="ascii")
                os._exit(1)

        notes: list[str] = []

        def say(told: dict[str, Any]) -> None:
            notes.extend([told["note"]] if "note" in told else [])

        before = signal.signal(signal.SIGTERM, _stopped)  # while no run takes the signal itself
        try:
            with Pulse(watch, WATCH):
                return {"end": job["id"], **make_asset(job, self.pool, say), "notes": notes}
        except KeyboardInterrupt:
            return {"end": job["id"], "outcome": "stopped", "notes": notes}
        finally:
            signal.signal(signal.SIGTERM, before)


def _stopped(*_: Any) -> None:
    raise KeyboardInterrupt


@dataclass
class OnRay:
    """Actors of a Ray cluster as workers."""

    ray: Any
    count: int
    options: dict[str, float]  # resources of an actor
    folder: Path  # of the stop files
    token: str
    plugins: tuple[str, ...] = ()
    limit: float = 0.0  # resident bytes of an actor; 0: its share of nine tenths of what is free where it starts
    patience: float = math.inf  # an actor may wait for a place in the cluster
    actors: dict[int, Any] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    placing: dict[int, float] = field(default_factory=dict)  # slots whose actor is not ready, and since when
    ended: set[int] = field(default_factory=set)  # slots of whose end it was told
    calls: dict[Any, int] = field(default_factory=dict)  # the slot of each call that has not returned
    told: list[Told] = field(default_factory=list)
    looked: float = 0.0

    def start(self, slot: int) -> None:
        """Start an actor where the cluster has room, which may be later."""
        self._stop_file(slot).unlink(missing_ok=True)
        threads = int(self.options["num_cpus"])
        made = self.ray.remote(max_restarts=0, **self.options)(Maker)
        sharing = beside(living(self.ray.nodes()), self.count, self.options)
        self.actors[slot] = made.remote(threads, list(self.plugins), self.limit, sharing)
        self.placing[slot] = time.monotonic()
        self.ended.discard(slot)
        self.calls[self.actors[slot].about.remote()] = slot

    def send(self, slot: int, job: dict[str, Any]) -> None:
        """Give an actor a job."""
        self.calls[self.actors[slot].make.remote(job, str(self._stop_file(slot)))] = slot

    def hear(self, timeout: float) -> list[Told]:
        """What has happened, after a wait of at most ``timeout`` seconds."""
        found, self.told = [*self.told, *self._waiting()], []
        if not self.calls:
            time.sleep(0 if found else timeout)
            return found
        ready, _ = self.ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)
        if not ready and not found:
            ready, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=timeout)
        for call in ready:
            found += self._returned(call, self.calls.pop(call))
        self._drain()
        return found

    def _returned(self, call: Any, slot: int) -> list[Told]:
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            return [self._dead(slot, error)]
        if "node" in answer:
            self.nodes[slot], self.hosts[slot] = answer["node"], answer["host"]
            self.placing.pop(slot, None)
            return [Told(slot, {"ready": answer["ready"]})]
        told = [Told(slot, {"note": text}) for text in answer.pop("notes", [])] + [Told(slot, answer)]
        if self._stop_file(slot).exists():  # its node is being drained: the next actor starts elsewhere
            self.ray.kill(self.actors[slot])
            self.ended.add(slot)
            told.append(Told(slot, None, "its node is being drained", lost=True))
        return told

    def _waiting(self) -> list[Told]:
        """What the actors wait for, where none is ready. It is told once a minute, and equal notes are printed once."""
        now = time.monotonic()
        if not self.placing or self.actors.keys() != self.placing.keys() or now - min(self.placing.values()) < PLACE:
            return []
        self.placing = dict.fromkeys(self.placing, now)
        return [Told(min(self.placing), {"note": f"waiting for a place: {shown(self.options)} each"})]

    def _dead(self, slot: int, error: Exception) -> Told:
        memory = Path(f"{self._stop_file(slot)}-memory")
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        lost = slot in self.nodes and self.nodes[slot] not in alive
        reason = f"its node {self.host(slot)} is gone" if lost else f"its actor has ended: {_cause(error)}"
        with contextlib.suppress(OSError):
            reason = memory.read_text(encoding="ascii")
            memory.unlink()
        self.ended.add(slot)
        return Told(slot, None, reason, lost)

    def _drain(self) -> None:
        """Ask the actors on nodes that are being drained to stop."""
        now = time.monotonic()
        if now - self.looked < LOOK:
            return
        self.looked = now
        try:
            draining = set(self.ray._private.state.state.get_draining_nodes())
        except (
            Exception
        ):  # not a public interface: without it, such an actor ends with its node, and its asset goes on elsewhere
            return
        for slot in set(self.calls.values()):
            if self.nodes.get(slot) in draining:
                self.stop(slot)

    def kill(self, slot: int) -> None:
        """End an actor at once."""
        self.ray.kill(self.actors[slot])
        if slot not in self.calls.values() and slot not in self.ended:
            self.ended.add(slot)
            self.told.append(Told(slot, None, "ended"))

    def stop(self, slot: int) -> None:
        """Ask an actor to stop at a checkpoint."""
        with contextlib.suppress(OSError):
            self._stop_file(slot).touch()

    def process(self, slot: int) -> int:
        """0: an actor is not looked up by its number."""
        return 0

    def host(self, slot: int) -> str:
        """The name of the machine, or of the pod, of a slot's newest actor that was ready."""
        return self.hosts.get(slot, "?")

    def memory(self, slot: int) -> int:
        """0: each actor watches its own memory."""
        return 0

    def kept_log(self, slot: int) -> None:
        """None: what an actor prints is in Ray's logs, on its node."""

    def close(self) -> None:
        """End all actors."""
        for actor in self.actors.values():
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(actor)
        for slot in self.actors:
            self._stop_file(slot).unlink(missing_ok=True)

    def _stop_file(self, slot: int) -> Path:
        return expanded(self.folder).absolute() / f"{self.token}-{slot}.stop"


def _cause(error: Exception) -> str:
    """One line of Ray's text: the first, or the last where it is a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    traced = any(line.startswith('File "') for line in lines)
    return lines[-1 if traced else 0] if lines else type(error).__name__
