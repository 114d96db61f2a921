"""The training loop of the embedded priors: resumable, with averaged weights and a limit on its steps or its time."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.toybox.training.steps.learning import (
    Optimizers,
    drawn,
    learning_rate,
    make_workers,
    save_curve,
    set_gradients,
    set_rates,
)

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Settings of a training run. docs/toybox.md lists the runs behind the shipped weights."""

    steps: int = 20_000
    batch: int = 32  # pictures per step
    size: int = 64  # pixels per side
    lr: float = 2e-3  # highest learning rate
    warmup: int = 200  # steps of linear warm-up
    hold: float = 0.6  # share of the steps after which the learning rate decays
    ema: float = 0.999  # decay of the weights' moving average
    seed: int = 0
    seconds: float = 0.0  # time limit of one call, apart from the last save; the learning rate decays towards it; 0: none

    def spent(self, begun: float) -> float:
        """Share of the time limit since ``begun``, a value of ``time.time``; 0 without a limit."""
        return (time.time() - begun) / self.seconds if self.seconds else 0.0


def add_arguments(parser: argparse.ArgumentParser, defaults: Training) -> None:
    """One option for each setting."""
    for name, default in vars(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)


def save_settings(folder: Path, settings: Training, **more: Any) -> None:
    """Write training.json into the run's folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "training.json", json.dumps(vars(settings) | more, indent=2) + "\n")


class Trained(Protocol):
    """Networks that are trained jointly, or one module."""

    def parameters(self) -> Iterable[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> Any: ...


class Shared(Protocol):
    """The data of one step."""

    def share(self, index: int, count: int) -> Any:
        """The ``index``-th of ``count`` equal parts."""
        ...


@dataclass(frozen=True)
class Lessons:
    """What a training learns from."""

    load: Callable[[], Any]  # the training set; called again at every checkpoint
    draw: Callable[[Any, int], Shared]  # the batch of a step, determined by the data and the step
    loss: Callable[[Any], Tensor]  # () of a batch or of a part of it
    milestone: Callable[[], None]  # saves the networks, which have the averaged weights then


def fit_lessons(
    settings: Training, networks: Trained, optimizers: Optimizers, lessons: Lessons, folder: Path, device: str,
    save_every: int,
) -> None:  # fmt: skip
    """Train until ``settings.steps`` or for ``settings.seconds``, resuming from ``folder``.

    Every ``save_every`` steps there is a checkpoint and a milestone; the end, by steps or by time, is one too.
    """
    begun = time.time()
    ema = {k: v.detach().clone() for k, v in networks.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    step, smooth, spent = load_state(folder, networks, ema, optimizers), None, 0.0
    with make_workers(device, settings.batch) as (pool, workers):
        optimizers[1].each = pool.map
        while step < settings.steps and spent < 1.0:
            data, end = lessons.load(), min(settings.steps, (step // save_every + 1) * save_every)
            for batch in drawn(lambda index, data=data: lessons.draw(data, index), range(step, end), device):
                rate = learning_rate(step, settings.steps, settings.lr, settings.warmup, settings.hold, spent)
                loss = learn(
                    networks, optimizers, lambda i, n, batch=batch: lessons.loss(batch.share(i, n)), rate, (pool, workers)
                )
                average(ema, networks.state_dict(), min(settings.ema, (step + 1) / (step + 10)))
                smooth, spent = loss if smooth is None else 0.98 * smooth + 0.02 * loss, settings.spent(begun)
                if step % 50 == 0 or spent >= 1.0:
                    report(folder, step, float(smooth), time.time() - begun, len(data))
                step += 1
                if spent >= 1.0:
                    LOGGER.info(f"the time limit of {settings.seconds:g} s is reached after step {step}: saving")
                    break
            save_state(folder, step, networks, ema, optimizers)
            with_average(networks, ema, lessons.milestone)
            save_curve(folder / "loss.png", folder / "loss.jsonl")


def learn(
    networks: Trained, optimizers: Optimizers, loss_of: Callable[[int, int], Tensor], rate: float,
    workers: tuple[ThreadPoolExecutor, int],
) -> Tensor:  # fmt: skip
    """One training step at the learning rate ``rate``; returns its loss ()."""
    parameters = list(networks.parameters())
    set_rates(optimizers, rate)
    loss = set_gradients(parameters, loss_of, *workers)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss


def average(ema: dict[str, Tensor], values: dict[str, Tensor], decay: float) -> None:
    """Move the averaged weights ``ema`` toward ``values``, in place."""
    torch._foreach_lerp_([ema[key] for key in values], list(values.values()), 1 - decay)


def report(folder: Path, step: int, loss: float, seconds: float, known: int) -> None:
    """Log a row of the training, and append it to loss.jsonl. ``known``: entries of the training set."""
    row = json.dumps({"step": step, "loss": round(loss, 5), "seconds": round(seconds, 1), "known": known})
    LOGGER.info(row)
    with (folder / "loss.jsonl").open("a") as file:
        file.write(row + "\n")


def with_average(networks: Trained, ema: dict[str, Tensor], act: Callable[[], None]) -> None:
    """``act()`` while ``networks`` have the averaged weights; saving in fp16 then rounds these only."""
    live = {k: v.clone() for k, v in networks.state_dict().items()}
    networks.load_state_dict(ema)
    try:
        act()
    finally:
        networks.load_state_dict(live)


def save_state(folder: Path, step: int, networks: Trained, ema: dict[str, Tensor], optimizers: Optimizers) -> None:
    """Write everything needed to resume into one file, atomically."""
    state = {f"net.{k}": v for k, v in networks.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for n, optimizer in enumerate(optimizers):
        for i, entry in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{n}.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    state = {k: v.detach().contiguous() for k, v in state.items()}
    atomic_write_bytes(folder / "training.safetensors", save(state, metadata={"step": str(step)}))


def load_state(folder: Path, networks: Trained, ema: dict[str, Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Restore the state of :func:`save_state`; returns the next step (0 without a saved state)."""
    path = folder / "training.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    state = load_file(path)
    networks.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    ema.update({k[4:]: v for k, v in state.items() if k.startswith("ema.")})
    entries: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for key, value in state.items():
        if key.startswith("optimizer."):
            n, i, name = key.split(".")[1:]
            if name != "step":  # fused AdamW requires the parameter's memory layout
                parameters = [p for group in optimizers[int(n)].param_groups for p in group["params"]]
                value = torch.empty_like(parameters[int(i)]).copy_(value)
            entries[int(n)].setdefault(int(i), {})[name] = value
    for optimizer, entry in zip(optimizers, entries, strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": entry})
    return step
