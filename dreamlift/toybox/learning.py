"""What the trainings of the toybox share: a learning rate over the run, and gradients by one worker a core."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def learning_rate(step: int, steps: int, highest: float, warmup: int, hold: float = 0.6) -> float:
    """Linear warm-up, constant until the share ``hold`` of the steps, then cosine to a twentieth."""
    if step < warmup:
        return highest * (step + 1) / warmup
    tail = max(0.0, (step / steps - hold) / (1.0 - hold))
    return highest * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0))))


@contextmanager
def make_workers(device: str, most: int) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that compute gradients, and how many: one a core on a CPU, each of one-threaded operations; else one."""
    threads = torch.get_num_threads()
    count = min(threads, most) if torch.device(device).type == "cpu" else 1
    torch.set_num_threads(threads // count)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads // count,)) as pool:
            yield pool, count
    finally:
        torch.set_num_threads(threads)


def set_gradients(
    parameters: Sequence[nn.Parameter], loss_of: Callable[[int, int], Tensor], pool: ThreadPoolExecutor, workers: int
) -> float:
    """Set the gradients of ``parameters`` to those of a batch's loss, and return the loss.

    ``loss_of(index, count)`` is the loss () of the ``index``-th of ``count`` equal parts of the batch: each worker takes
    one. On CPUs this uses the cores far better than splitting every operation does: on two, a step of small pictures takes
    about half the time.
    """

    def share(index: int) -> tuple[float, tuple[Tensor | None, ...]]:
        loss = loss_of(index, workers)
        return loss.item(), torch.autograd.grad(loss, parameters, allow_unused=True)

    losses, gradients = zip(*pool.map(share, range(workers)), strict=True)
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        known = [part for part in parts if part is not None]
        parameter.grad = torch.stack(known).mean(dim=0) if known else None
    return sum(losses) / workers
