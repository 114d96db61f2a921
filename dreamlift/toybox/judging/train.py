"""Train the judge: ``python -m dreamlift.toybox.judging.train``.

The training pictures are renders of seeds that no prior was trained on, including held-out combinations, with random
augmentation: shift, scale, blur, noise, brightness, saturation. The accuracy is measured on clean renders of further seeds and
saved with the weights.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamlift.system.startup import tune_process
from dreamlift.toybox.judging.judge import FOLDER, Judge, azimuth_error_deg, load_judge, save_judge, sector_angles, warped
from dreamlift.toybox.training.dataset import CLAY, Pictures, load_shards, make_shard
from dreamlift.toybox.training.steps.learning import fit, make_pair
from dreamlift.toybox.world.things import ATTRIBUTES, CATEGORIES

FIRST_SHARD = 8000  # seeds from 1,000,000 on
TEST_SHARD = 9000
HIDDEN_IN_CLAY = [i for i, name in enumerate(ATTRIBUTES) if name in ("striped", "spotted", "wooden", "metallic")]
CONCENTRATION = 14.0  # kappa of the azimuth's target, a von Mises density about two sectors wide


@dataclass(frozen=True)
class Training:
    """Settings of the judge's training."""

    steps: int = 4000
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    seed: int = 0


class Batch(NamedTuple):
    """The data of one training step."""

    pictures: Tensor  # (B, 3, S, S) in [0, 1]
    category: Tensor  # (B,) int64
    color: Tensor  # (B,) int64, -1 for clay
    attribute: Tensor  # (B,) int64, -1 for a finish of clay
    azimuth: Tensor  # (B,) radians

    def share(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts."""
        return Batch(*(each[index::count] for each in self))


def labels(pictures: Pictures, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Category, colour and attribute ``(B,)`` int64 of the pictures ``rows``; -1 for a value that is not visible."""
    category, color, attribute = (
        torch.from_numpy(getattr(pictures, name)[rows]).long() for name in ("category", "color", "attribute")
    )
    clay = torch.from_numpy(pictures.style[rows] == CLAY)
    hidden = clay & torch.isin(attribute, torch.tensor(HIDDEN_IN_CLAY))
    return category, color.masked_fill(clay, -1), attribute.masked_fill(hidden, -1)


def draw_batch(pictures: Pictures, settings: Training, step: int) -> Batch:
    """The batch of one step, determined by the seed and the step."""
    rows, _, _, rgb, azimuth = pictures.draw(np.random.default_rng([settings.seed, step]), settings.batch)
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    seen = spoil(torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255.0, generator)
    return Batch(seen, *labels(pictures, rows), torch.from_numpy(azimuth).float())


def spoil(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures ``x (B, 3, S, S)`` in [0, 1] with random shift, scale, blur, saturation, brightness and noise."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator)

    zoom, shift = uniform(0.9, 1.3), torch.cat([uniform(-0.12, 0.12), uniform(-0.12, 0.12)], dim=1)
    place = torch.cat([torch.eye(2).expand(len(x), 2, 2) * zoom[:, 0], shift[:, :, 0]], dim=2)
    x = warped(x, place)
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0  # binomial, sigma 1
    soft = functional.conv2d(functional.pad(x, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None],
                             (kernel[:, None] * kernel)[None, None]).view_as(x)  # fmt: skip
    x = torch.lerp(x, soft, uniform(-0.5, 1.0).clamp_min(0.0))
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * uniform(0.8, 1.4)
    x = x * uniform(0.8, 1.2)
    return (x + uniform(0.0, 0.05) * torch.randn(x.shape, generator=generator)).clamp(0.0, 1.0)


def judge_loss(judge: Judge, batch: Batch) -> Tensor:
    """Sum () of the cross-entropies of all heads; the azimuth's target is a von Mises density over the sectors."""
    _, (category, color, attribute, sectors) = judge(batch.pictures)
    target = (CONCENTRATION * torch.cos(sector_angles() - batch.azimuth[:, None])).softmax(dim=1)
    # Divided by the size of the whole part, so that the mean over the workers' parts is the loss of the batch.
    masked = (functional.cross_entropy(logits, told, ignore_index=-1, reduction="sum") / len(told)
              for logits, told in ((color, batch.color), (attribute, batch.attribute)))  # fmt: skip
    return functional.cross_entropy(category, batch.category) + sum(masked) + functional.cross_entropy(sectors, target)


def train(settings: Training, pictures: Pictures, width: int = 64, init: Path | None = None) -> Judge:
    """A judge trained on ``pictures``, from random weights or from those saved in ``init``."""
    torch.manual_seed(settings.seed)
    judge = Judge(tuple(CATEGORIES), width) if init is None else load_judge(init)[0].train().requires_grad_(True)
    judge.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = list(judge.parameters())
    optimizers = make_pair(parameters, list(judge.stages.parameters()), settings.lr, weight_decay=1e-2)
    fit(parameters, optimizers, settings, lambda step: draw_batch(pictures, settings, step),
        lambda batch: judge_loss(judge, batch))  # fmt: skip
    return judge.eval()


def measure(judge: Judge, pictures: Pictures, asymmetric: tuple[str, ...] = ()) -> dict[str, float]:
    """The judge's accuracy on clean pictures per head, and its median azimuth error in degrees.

    Clay pictures have a separate category accuracy. The azimuth error covers the ``asymmetric`` categories only, because the
    others look the same from several sides.
    """
    verdicts = [judge.judge(torch.from_numpy(pictures.rgb[i : i + 100]).float() / 255.0) for i in range(0, len(pictures), 100)]
    guesses = [torch.cat([getattr(v, name) for v in verdicts]).argmax(dim=1) for name in ("category", "color", "attribute")]
    told = labels(pictures, np.arange(len(pictures)))
    clay = torch.from_numpy(pictures.style == CLAY)
    right = guesses[0] == told[0]
    found = {"category": _share(right[~clay]), "category_clay": _share(right[clay])}
    for name, guess, truth in zip(("color", "attribute"), guesses[1:], told[1:], strict=True):
        found[name] = _share((guess == truth)[truth >= 0])
    error = azimuth_error_deg(torch.cat([v.azimuth for v in verdicts]), torch.from_numpy(pictures.azimuth))
    names = list(CATEGORIES)
    counted = torch.tensor([names[int(i)] in asymmetric for i in pictures.category])
    if counted.any():
        found["azimuth_error_deg"] = round(float(error[counted].median()), 2)
    return found


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4) if len(right) else math.nan


def main() -> None:
    import argparse

    from dreamlift.toybox.world.truth import asymmetric_categories

    parser = argparse.ArgumentParser(description="Train the judge and measure it.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the judge")
    parser.add_argument("--data", type=Path, default=Path("data/judge"), help="folder of the rendered pictures")
    parser.add_argument("--shards", type=int, default=48, help="training shards, of 500 pictures each")
    parser.add_argument("--test-shards", type=int, default=4, help="test shards, of 500 pictures each")
    parser.add_argument("--width", type=int, default=64, help="channels of the network's first stage")
    parser.add_argument("--init", type=Path, help="folder of a judge to continue from")
    for name, default in vars(Training()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    told = vars(parser.parse_args())
    out, data, init = (told.pop(key) for key in ("out", "data", "init"))
    shards, tests, width = (told.pop(key) for key in ("shards", "test_shards", "width"))
    tune_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for folder, first, count in ((data / "train", FIRST_SHARD, shards), (data / "test", TEST_SHARD, tests)):
        for index in range(first, first + count):
            make_shard(folder, index, training=False)
    judge = train(Training(**told), load_shards(data / "train"), width, init)
    accuracy = measure(judge, load_shards(data / "test"), asymmetric_categories())
    print(json.dumps(accuracy))
    save_judge(judge, out, accuracy)


if __name__ == "__main__":
    main()
