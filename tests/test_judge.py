"""The judge: its labels, its training, and the shipped one before things that it was not trained on."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dreamlift.toybox.judging.judge import (
    FOLDER,
    LOOKS,
    SECTORS,
    SIZE,
    Judge,
    Verdict,
    Wanted,
    _placed,
    load_judge,
    save_judge,
    sector_angles,
    understand,
)
from dreamlift.toybox.judging.train import Training, draw_batch, judge_loss, labels, measure, spoil, train
from dreamlift.toybox.training.dataset import STYLES, Pictures, gather
from dreamlift.toybox.training.steps.learning import learning_rate, set_gradients
from dreamlift.toybox.world.render import sample_pictures
from dreamlift.toybox.world.things import CATEGORIES
from dreamlift.toybox.world.truth import asymmetric_categories


def rendered(seeds: range, kinds: tuple[str, ...] = tuple(CATEGORIES), size: int = 64) -> Pictures:
    rows = [row for seed in seeds for row in sample_pictures(seed, size, training=False, kinds=kinds)]
    return gather(rows)


def verdict(sectors: torch.Tensor) -> Verdict:
    one = torch.ones(len(sectors), 1)
    return Verdict(one, one, one, sectors, one)


@pytest.mark.parametrize("degrees", [0.0, 7.0, 52.5, 179.0, -179.0, -88.0])
def test_azimuth_is_read_off_a_bump_over_the_sectors(degrees):
    bump = (14.0 * torch.cos(sector_angles() - math.radians(degrees))).softmax(0)[None]
    gap = (math.degrees(float(verdict(bump).azimuth)) - degrees + 180) % 360 - 180
    assert abs(gap) < 2.0


def test_front_is_the_share_within_45_degrees():
    sectors = torch.zeros(3, SECTORS)
    for row, degrees in enumerate((30, 90, -45)):
        sectors[row, round(degrees / 15) % SECTORS] = 1.0
    assert verdict(sectors).front.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a red mug", Wanted("mug", "red")),
        ("A tall blue CUP", Wanted("mug", "blue", "tall")),
        ("a yellow duck wearing a blue hat", Wanted("duck", "yellow", "", "blue")),
        ("a green teddy bear on a wooden box", Wanted("bear", "green", box=True)),
        ("a mug wearing a blue hat", Wanted("mug")),  # it cannot
        ("a mug on a wooden table, on a wooden box", Wanted("mug", box=True)),
        ("a wooden ice cream", Wanted("ice_cream", "", "wooden")),
        ("a spotted pink toadstool, front view", Wanted("mushroom", "pink", "spotted")),
        ("a hamburger", Wanted()),
        ("a purple carpet", Wanted("", "purple")),  # holds "car" and "pet"
    ],
)
def test_what_a_prompt_asks_for(prompt, wanted):
    assert understand(prompt) == wanted


def test_every_caption_of_the_world_is_understood():
    rng = np.random.default_rng(0)
    from dreamlift.toybox.world.things import describe

    for _ in range(300):
        told = describe(rng, training=False)
        assert understand(told.caption()) == Wanted(told.category, told.color, told.attribute, told.hat, told.box)


def test_clay_hides_colour_and_finish():
    pictures = rendered(range(2), size=8)
    clay = list(STYLES).index("clay")
    hidden = Pictures(**{**vars(pictures), "style": np.full(8, clay), "attribute": np.array([0, 1, 2, 3, 4, 5, 6, 0])})
    category, color, attribute = labels(hidden, np.arange(8))
    assert category.tolist() == pictures.category.tolist()
    assert color.tolist() == [-1] * 8
    assert attribute.tolist() == [0, 1, 2, -1, -1, -1, -1, 0]  # tall and short are still seen


def test_spoiled_pictures_follow_from_the_seed_and_stay_pictures():
    x = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    one, other = (spoil(x, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert torch.equal(one, other)
    assert not torch.equal(one, spoil(x, torch.Generator().manual_seed(1)))
    assert 0.0 <= float(one.min()) <= float(one.max()) <= 1.0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_add_up_to_the_whole_batch(workers):
    torch.manual_seed(0)
    judge, batch = Judge(width=16), draw_batch(rendered(range(3)), Training(batch=16), 0)
    assert (batch.color < 0).any()  # some clay, unevenly shared out
    parameters = list(judge.parameters())
    with ThreadPoolExecutor(workers) as pool:
        loss = set_gradients(parameters, lambda i, n: judge_loss(judge, batch.share(i, n)), pool, workers)
    whole = judge_loss(judge, batch)
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for parameter, want in zip(parameters, torch.autograd.grad(whole, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, want, rtol=1e-3, atol=1e-6)


def test_learning_rate_rises_holds_and_falls():
    rates = [learning_rate(step, 1000, 2.0, 100) for step in (0, 49, 99, 300, 600, 800, 999)]
    assert rates[:5] == pytest.approx([0.02, 1.0, 2.0, 2.0, 2.0])
    assert rates[5] == pytest.approx(2.0 * (0.05 + 0.95 * 0.5))
    assert rates[6] == pytest.approx(0.1, rel=0.01)


def test_training_learns_what_is_shown():
    pictures = rendered(range(20, 26), ("mug", "tree"))
    judge = train(Training(steps=60, batch=16, warmup=5), pictures, width=16)
    assert measure(judge, pictures)["category"] > 0.9  # chance is one in two, untrained one in 64
    again = train(Training(steps=2, batch=8, warmup=1), pictures, width=16)
    same = train(Training(steps=2, batch=8, warmup=1), pictures, width=16)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))


def test_a_saved_judge_says_the_same(tmp_path):
    torch.manual_seed(0)
    judge = Judge(("mug", "car"), width=16).eval()
    save_judge(judge, tmp_path / "judge", {"category": 0.5})
    loaded, accuracy = load_judge(tmp_path / "judge")
    assert accuracy == {"category": 0.5}
    assert loaded.categories == ("mug", "car")
    pictures = torch.rand(3, 100, 100, 3)  # of another size
    torch.testing.assert_close(loaded.judge(pictures).category, judge.judge(pictures).category, atol=1e-2, rtol=1e-2)
    config = tmp_path / "judge" / "config.json"
    config.write_text(config.read_text().replace('"red"', '"crimson"'))
    with pytest.raises(ValueError, match=r"other colours or attributes.*train it anew"):
        load_judge(tmp_path / "judge")
    with pytest.raises(ValueError, match=r"no judge in .*; train one with: python -m"):
        load_judge(tmp_path)


def test_a_verdict_is_the_mean_of_looks_at_the_moved_picture():
    torch.manual_seed(0)
    judge, x = Judge(("mug", "car"), width=16).eval(), torch.rand(2, 3, SIZE, SIZE)
    pixel = 2.0 / SIZE
    assert torch.equal(_placed(x, 1.0, 0.0, 0.0), x)
    moved = _placed(x, 1.0, 3 * pixel, -2 * pixel)  # a window 3 pixels to the right and 2 up
    torch.testing.assert_close(moved[..., 2:, :-3], x[..., :-2, 3:], atol=1e-5, rtol=1e-5)
    assert torch.allclose(moved[..., -1], moved[..., -2], atol=1e-5)  # beyond its border a picture goes on as it ended
    wide = _placed(x, 2.0, 0.0, 0.0)[..., SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]  # each pixel between four
    torch.testing.assert_close(wide, torch.nn.functional.avg_pool2d(x, 2), atol=1e-5, rtol=1e-5)
    verdict, one_by_one = judge.judge(x.movedim(1, -1)), []
    for look in LOOKS:
        with torch.no_grad():
            one_by_one.append([logits.softmax(dim=1) for logits in judge(_placed(x, *look))[1]])
    for i, table in enumerate((verdict.category, verdict.color, verdict.attribute, verdict.sectors)):
        torch.testing.assert_close(table, sum(each[i] for each in one_by_one) / len(LOOKS))
    assert verdict.embedding.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


def test_the_shipped_judge_knows_things_that_it_never_saw():
    judge, accuracy = load_judge()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6
    assert judge.categories == tuple(CATEGORIES)
    found = measure(judge, rendered(range(2_000_000, 2_000_040)), asymmetric_categories())
    # 160 pictures of 40 things: three standard errors of a share near 0.9 are about 10 points
    assert found["category"] > accuracy["category"] - 0.12
    assert found["color"] > accuracy["color"] - 0.12
    assert found["azimuth_error_deg"] < accuracy["azimuth_error_deg"] + 20.0
    assert accuracy["category"] > 0.8


def test_asymmetric_categories_have_a_front():
    found = asymmetric_categories()
    assert {"mug", "chair", "car", "duck", "airplane", "boat", "snowman"} <= set(found)
    assert not {"bowl", "table", "lamp", "bottle", "apple", "tree"} & set(found)
