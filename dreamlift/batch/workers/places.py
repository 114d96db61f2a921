"""The places that a Ray cluster has for workers: what one of them takes, and how many fit, node by node.

An actor lies on one node, so that sums over the cluster say nothing: a head of 16 CPUs and a node of 4 CPUs and a GPU have no
place for an actor of one GPU and 8 CPUs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

NAMES = {"num_gpus": "GPU", "num_cpus": "CPU"}
CPUS = 2  # of an actor without a GPU
CPUS_BESIDE = 8  # at most, of one with a GPU
Node = dict[str, float]  # the resources of a node


@dataclass(frozen=True)
class Places:
    """The actors of a command."""

    count: int
    each: dict[str, float]  # resources of one
    note: str = ""  # to the user


def living(nodes: list[dict[str, Any]]) -> list[Node]:
    """The resources of the living ones of ``ray.nodes()``."""
    return [node["Resources"] for node in nodes if node["Alive"]]


def resources(nodes: list[Node], device: str, jobs: int | None, threads: int | None, grows: bool) -> Places:
    """The number of actors, and the resources of each: a GPU where a node has some and the device may be one.

    Args:
        nodes: that live.
        jobs: the number of actors; None: as many as fit.
        threads: CPUs of each; None: with a GPU the least share of the nodes, at most 8; without one 2, or what ``jobs`` leave.
        grows: an autoscaler may add nodes.

    Raises:
        ValueError: no node can hold one.
    """
    kind = device.partition(":")[0]
    shares = [int(node.get("CPU", 0)) // int(node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
    each: dict[str, float]
    if kind == "cuda" or (kind == "auto" and shares):
        # The least share, so that the actors fill the GPUs of every node; 1 where nodes are still to be added.
        each = {"num_gpus": 1, "num_cpus": threads or max(1, min([CPUS_BESIDE, *(shares or [1])]))}
    else:
        each = {"num_cpus": _cpus(nodes, jobs, threads)}
    fits = sum(held(node, each) for node in nodes)
    if fits:
        return Places(jobs or fits, each)
    have = "; ".join(_has(node) for node in nodes) or "none"
    told = f"no living node of the cluster can hold a worker of {shown(each)} (nodes: {have})"
    if not grows:
        raise ValueError(f"{told}: state fewer threads (OMP_NUM_THREADS), --device cpu, or add such a node")
    return Places(jobs or 1, each, f"{told}; the autoscaler may add one, which is waited for")


def beside(nodes: list[Node], count: int, each: dict[str, float]) -> int:
    """How many of ``count`` actors may be on one node, by the ``each`` resources of one: the most of all nodes."""
    return max(1, min(count, max((held(node, each) for node in nodes), default=1)))


def held(node: Node, each: dict[str, float]) -> int:
    """How many actors a node can hold."""
    return min(int(node.get(NAMES[name], 0) / need) for name, need in each.items() if need)


def shown(each: dict[str, float]) -> str:
    """The resources of one actor, such as "1 GPU, 8 CPU"."""
    return ", ".join(f"{need:g} {NAMES[name]}" for name, need in each.items())


def grows(ray: Any) -> bool:
    """Whether an autoscaler may add nodes; also where that is not known, since Ray has no public interface for it."""
    try:
        if ray._private.state.state.get_max_resources_from_cluster_config() is not None:
            return True  # the nodes that the autoscaler of version 2 may add
        from ray.experimental.internal_kv import _internal_kv_get

        told = json.loads(_internal_kv_get(ray._private.ray_constants.DEBUG_AUTOSCALING_STATUS) or b"{}")
        # Without a config for an autoscaler, Ray makes up one type for each node: "node_" and the node's id.
        return any(not name.startswith("node_") for name in told.get("autoscaler_report", {}).get("active_nodes", {}))
    except Exception:
        return True


def _cpus(nodes: list[Node], jobs: int | None, threads: int | None) -> int:
    """CPUs of an actor without a GPU: the most with which ``jobs`` actors fit; what the largest node has is the bound."""
    sizes = [int(node.get("CPU", 0)) for node in nodes]
    largest = max([1, *sizes])
    if threads or not jobs:
        return min(threads or CPUS, largest)
    return next((each for each in range(largest, 1, -1) if sum(size // each for size in sizes) >= jobs), 1)


def _has(node: Node) -> str:
    return ", ".join(f"{node.get(name, 0):g} {name}" for name in NAMES.values() if node.get(name, 0)) or "nothing"
