"""Functions shared by the toybox's trainings: learning-rate schedule, data-parallel gradients on CPU threads, training loop."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from dreamlift.toybox.training.steps.muon import Muon, takes

LOGGER = logging.getLogger(__name__)


def learning_rate(step: int, steps: int, highest: float, warmup: int, hold: float = 0.6, spent: float = 0.0) -> float:
    """Linear warm-up to ``highest``, constant for the share ``hold`` of ``steps``, then cosine decay to ``highest`` / 20.

    ``spent`` in [0, 1] is the used share of a time limit; it replaces the share of the steps where it is larger.
    """
    if step < warmup:
        return highest * (step + 1) / warmup
    tail = max(0.0, (max(step / steps, spent) - hold) / (1.0 - hold))
    return highest * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0))))


@contextmanager
def make_workers(device: str, most: int) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A pool of threads for gradients, and its size: one thread per core and at most ``most`` on a CPU, else one.

    Torch's own threads are divided among them.
    """
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
) -> Tensor:
    """Set the gradients of ``parameters`` to those of a batch's loss, and return the loss ().

    ``loss_of(index, count)`` is the loss () of the ``index``-th of ``count`` equal parts of the batch, one part per worker. On
    CPUs this is faster than parallelism inside operations: on two cores, a step of small pictures takes about half the time.
    """

    def share(index: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = loss_of(index, workers)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    losses, gradients = zip(*pool.map(share, range(workers)), strict=True)
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        known = [part for part in parts if part is not None]
        parameter.grad = (known[0] if workers == 1 else torch.stack(known).mean(dim=0)) if known else None
    return torch.stack(losses).mean()


class _Steps(Dataset):
    """A function of the step as a dataset."""

    def __init__(self, draw: Callable[[int], Any]) -> None:
        self.draw = draw

    def __getitem__(self, index: int) -> Any:
        return self.draw(index)


def drawn(draw: Callable[[int], Any], steps: range, device: str) -> Iterator[Any]:
    """The batches ``draw(step)``, named tuples, for ``steps``, on ``device``.

    For a GPU they are drawn ahead by forked worker processes, where the platform supports fork.
    """
    if torch.device(device).type != "cuda":
        yield from map(draw, steps)
        return
    forks = "fork" in multiprocessing.get_all_start_methods()
    workers = max(1, min(12, (os.cpu_count() or 1) - 2)) if forks else 0
    for batch in DataLoader(_Steps(draw), None, sampler=steps, num_workers=workers, pin_memory=True,
                            multiprocessing_context="fork" if forks else None):  # fmt: skip
        yield type(batch)(*(each.to(device, non_blocking=True) if isinstance(each, Tensor) else each for each in batch))


Optimizers = tuple[torch.optim.AdamW, Muon]


def make_pair(parameters: Sequence[nn.Parameter], inner: Sequence[nn.Parameter], lr: float, weight_decay: float) -> Optimizers:
    """Muon for the matrices and kernels among the ``inner`` parameters, AdamW for the rest."""
    matrices = [p for p in inner if takes(p)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return torch.optim.AdamW(rest, lr, betas=(0.9, 0.99), weight_decay=weight_decay), Muon(matrices, lr)


def set_rates(optimizers: Optimizers, lr: float) -> None:
    """Set the learning rate of each parameter group to ``lr`` times the group's ``scale`` (default 1)."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = lr * group.get("scale", 1.0)


def fit(
    parameters: Sequence[nn.Parameter], optimizers: Optimizers, settings: Any, draw: Callable[[int], Any],
    loss_of: Callable[[Any], Tensor], clip: float | None = None, report: int = 100, device: str = "cpu",
) -> list[float]:  # fmt: skip
    """Train on ``device``, where the parameters are; returns the loss of each step.

    ``settings`` has ``steps``, ``batch``, ``lr`` and ``warmup``. ``draw(step)`` is the batch of a step, and ``share(index,
    count)`` of a batch is the part of one worker. The gradient's norm is clipped to ``clip``. Every ``report`` steps a line of
    JSON is printed.
    """
    begun, smooth, losses = time.time(), None, []
    with make_workers(device, settings.batch) as (pool, workers):
        optimizers[1].each = pool.map
        for step, batch in enumerate(drawn(draw, range(settings.steps), device)):
            loss = set_gradients(parameters, lambda i, n, batch=batch: loss_of(batch.share(i, n)), pool, workers)
            losses.append(loss)
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            set_rates(optimizers, learning_rate(step, settings.steps, settings.lr, settings.warmup))
            for optimizer in optimizers:
                optimizer.step()
            if step % report == 0:
                row = {"step": step, "loss": round(float(smooth), 4), "seconds": round(time.time() - begun, 1)}
                LOGGER.info(json.dumps(row))
    return [float(loss) for loss in losses]


def save_curve(path: Path, log: Path, width: int = 640, height: int = 320) -> None:
    """Plot a JSON-lines ``log`` (``step`` and ``loss`` per line) as a PNG with a logarithmic loss axis.

    Of several lines with the same step, as after a resumed run, the last one counts.
    """
    from PIL import Image, ImageDraw

    rows = {int(row["step"]): float(row["loss"]) for row in map(json.loads, log.read_text().splitlines())}
    known = sorted((step, loss) for step, loss in rows.items() if loss > 0 and math.isfinite(loss))
    if not known:
        return
    low, high = min(loss for _, loss in known), max(loss for _, loss in known)
    first, last, edge = known[0][0], known[-1][0], 30
    spans = max(1, last - first), max(1e-6, math.log(high / low))
    points = [
        (
            edge + (width - 2 * edge) * (step - first) / spans[0],
            height - edge - (height - 2 * edge) * math.log(loss / low) / spans[1],
        )
        for step, loss in known
    ]
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((edge, edge, width - edge, height - edge), outline=(200, 200, 200))
    draw.text((edge, 8), f"loss {high:.4g}", fill=(110, 110, 110))
    draw.text((edge, height - 20), f"{low:.4g}; step {first}", fill=(110, 110, 110))
    draw.text((width - edge, height - 20), str(last), fill=(110, 110, 110), anchor="ra")
    draw.line(points, fill="black", width=2)
    picture.save(path)
