"""Figures of assets, against true things, hand-made cases and second implementations."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_helpers import CLIP_WORDS, random_clip
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from dreamlift.apps.clip_score import clip_r_precision, load_clip
from dreamlift.apps.evaluate import Item, evaluate, means
from dreamlift.cli import main
from dreamlift.export.glb import save_glb
from dreamlift.priors.zero123.encoding import CLIP_MEAN as MEAN
from dreamlift.priors.zero123.encoding import CLIP_STD as STD
from dreamlift.runs.progress import Plain
from dreamlift.runs.run import Run
from dreamlift.toybox.judging.judge import SECTORS, Verdict, Wanted
from dreamlift.toybox.judging.score import around, chamfer, diversity, fitted, has_two_fronts, sample_surface, score_mesh
from dreamlift.toybox.training.network import make_tokenizer
from dreamlift.toybox.world.render import Background, render
from dreamlift.toybox.world.things import COLORS, make_thing
from dreamlift.toybox.world.truth import mesh_of, surface_of
from dreamlift.types import Mesh


@pytest.fixture(scope="module")
def car() -> Mesh:
    return mesh_of(make_thing("car", "red", 5), 96, 6000, 256)


class Lookup:
    """A judge by brute force: the nearest of the true renders, in colour and of clay, from 72 sides of a few things."""

    def __init__(self) -> None:
        self.categories = ("car", "mug", "table")
        cameras, rows = around(3 * SECTORS), []
        for kind in self.categories:
            thing = make_thing(kind, "red", 5)
            for style in ("albedo", "clay"):
                grey = Background(*[(0.86, 0.88, 0.90)] * 2)
                rows.append(render(thing, cameras, background=grey, shading=style, supersample=1).rgb)
        self.known = torch.cat(rows).flatten(1)

    def judge(self, pictures: torch.Tensor) -> Verdict:
        best = torch.cdist(pictures.flatten(1), self.known).argmin(dim=1)
        category, sector = best // (6 * SECTORS), (best % (3 * SECTORS) / 3).round().long() % SECTORS
        tints = torch.tensor(list(COLORS.values()))
        vivid = (pictures.amax(-1) - pictures.amin(-1) > 0.4).float()[..., None]
        middle = (pictures * vivid).sum((1, 2)) / vivid.sum((1, 2)).clamp_min(1.0)  # the mean of what has a hue
        one_hot = torch.nn.functional.one_hot
        return Verdict(
            one_hot(category, 3).float(), one_hot(torch.cdist(middle, tints).argmin(dim=1), len(tints)).float(),
            torch.zeros(len(best), 7), one_hot(sector, SECTORS).float(),
            torch.nn.functional.normalize(pictures.flatten(1), dim=1),
        )  # fmt: skip


@pytest.fixture(scope="module")
def judge() -> Lookup:
    return Lookup()


def turned(mesh: Mesh, degrees: float) -> Mesh:
    spin = Rotation.from_euler("y", degrees, degrees=True).as_matrix().astype(np.float32)
    return replace(mesh, vertices=mesh.vertices @ spin.T, vertex_normals=None)


def test_a_true_thing_scores_near_the_best(car, judge):
    scored = score_mesh(car, Wanted("car", "red"), judge)
    score = scored.score
    assert score.category == 1.0
    assert score.color == 1.0
    assert score.both == 1.0
    assert score.category_textureless >= 7 / 8
    assert score.azimuth_error_deg < 5
    assert (score.front_from_behind, score.janus) == (0.0, 0.0)
    assert score.saturation == pytest.approx(1.0, abs=0.2)  # the true renders are lit, these are not
    assert score.silhouette_iou > 0.93  # one of the members is this very car
    assert score.chamfer < 0.04
    assert scored.pictures.shape == scored.textureless.shape == (8, 64, 64, 3)
    assert set(scored.seen_as) <= set(judge.categories)


def test_scale_and_place_do_not_matter(car, judge):
    moved = replace(car, vertices=car.vertices * 3.0 + np.array([5.0, -2.0, 1.0], np.float32))
    one, other = (score_mesh(mesh, Wanted("car", "red"), judge) for mesh in (car, moved))
    assert torch.allclose(one.pictures, other.pictures, atol=0.02)
    assert other.score.silhouette_iou == pytest.approx(one.score.silhouette_iou, abs=0.01)


def test_a_thing_that_stands_backwards_is_found_out(car, judge):
    score = score_mesh(turned(car, 180.0), Wanted("car", "red"), judge).score
    assert score.azimuth_error_deg > 150
    assert score.front_from_behind == 1.0


def test_what_the_prompt_does_not_say_has_no_figure(car, judge):
    score = score_mesh(car, Wanted("", "red"), judge).score
    assert score.color == 1.0
    assert all(math.isnan(getattr(score, name)) for name in ("category", "janus", "silhouette_iou", "saturation"))
    assert math.isnan(score_mesh(car, Wanted("chair", "grey"), judge).score.saturation)  # true grey chairs have next to none
    score = score_mesh(car, Wanted("table", ""), judge).score  # a table has no front
    assert score.category == 0.0
    assert math.isnan(score.janus)
    assert math.isnan(score.color)
    assert score.silhouette_iou < 0.8


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [((0,), False), ((0, 18), True), ((0, 10), True), ((0, 8), False), ((35, 1), False), ((4, 27), True), ((), False)],
)
def test_two_fronts_are_two_peaks_more_than_90_degrees_apart(peaks, expected):
    front = torch.full((36,), 0.05)
    for peak in peaks:
        for shift, value in ((-1, 0.7), (0, 0.9), (1, 0.7)):
            front[(peak + shift) % 36] = value
    assert has_two_fronts(front) is expected


def test_one_broad_front_is_not_two_but_a_front_all_around_is():
    angles = torch.arange(36) * (2 * math.pi / 36)
    assert not has_two_fronts((3 * angles.cos()).exp() / math.exp(3))
    assert not has_two_fronts((angles.cos() > 0.5).float())  # a judge without a doubt, over 120 degrees
    assert has_two_fronts((angles.cos() > -0.9).float())
    assert has_two_fronts(torch.ones(36))


def test_chamfer_agrees_with_a_tree_search():
    rng = np.random.default_rng(0)
    a, b = rng.random((300, 3)), rng.random((200, 3))
    want = 0.5 * (cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean())
    assert chamfer(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(want, rel=1e-6)


def test_points_are_even_over_a_surface_of_uneven_triangles():
    """A square of side 2 cut into one large and many small triangles: the mean and the variance are the square's."""
    x = np.concatenate([[-1.0], np.linspace(0.8, 1.0, 40)])
    low, high = (np.stack([x, np.full_like(x, y), np.zeros_like(x)], 1) for y in (-1.0, 1.0))
    n = len(x)
    faces = [(i, i + 1, n + i) for i in range(n - 1)] + [(i + 1, n + i + 1, n + i) for i in range(n - 1)]
    points = sample_surface(Mesh(np.concatenate([low, high]).astype(np.float32), np.array(faces, np.int32)), 20_000)
    assert points.mean(0).abs().max() < 0.02
    assert points[:, :2].var(0).sub(1 / 3).abs().max() < 0.01


def test_fitted_meshes_stand_where_the_worlds_things_do(car):
    odd = Mesh(np.concatenate([car.vertices * 7 + 3, [[99.0, 0, 0]]]).astype(np.float32), car.faces)  # one stray vertex
    used = fitted(odd).vertices[:-1]
    assert np.abs(used.max(0) + used.min(0)).max() < 1e-4
    assert np.linalg.norm(used, axis=1).max() == pytest.approx(0.85, abs=1e-4)


def test_diversity_of_copies_and_of_opposites():
    a, b = torch.tensor([[1.0, 0.0]]).repeat(8, 1), torch.tensor([[0.0, 1.0]]).repeat(8, 1)
    assert diversity([a, a, a]) == 0.0
    assert diversity([a, -a]) == 2.0
    assert diversity([a, a, b]) == pytest.approx(2 / 3 * math.sqrt(2))
    assert math.isnan(diversity([a]))


@pytest.fixture
def runs(tmp_path, car):
    """Two finished runs and one that has not finished."""
    folders = []
    for name, prompt, mesh in (
        ("one", "a red car", car),
        ("two", "a red car", turned(car, 180.0)),
        ("none", "a red car", None),
    ):
        with Run.create(tmp_path / name, prompt) as run:
            if mesh is not None:
                save_glb(mesh, run.folder / "asset.glb")
                run.set_status("finished", {"seconds": 12.0, "peak_memory_gb": 1.5})
        folders.append(tmp_path / name)
    return folders


def test_the_command_prints_and_saves_figures(runs, tmp_path, capsys, monkeypatch, judge):
    monkeypatch.setattr("dreamlift.apps.evaluate.load_judge", lambda: (judge, {"category": 0.99}))
    out = tmp_path / "report"
    assert main(["evaluate", str(runs[0]), str(runs[1]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "a red car" in printed
    assert "the judge's accuracy on renders of true shapes that it was not trained on: category 0.99" in printed
    assert printed.strip().endswith("index.html")
    report = json.loads((out / "evaluation.json").read_text())
    assert [row["name"] for row in report["runs"]] == ["one", "two"]
    assert report["mean"]["seconds"] == 12.0
    assert [row["front_from_behind"] for row in report["runs"]] == [0.0, 1.0]  # the second stands backwards
    assert [row["category"] for row in report["runs"]] == [1.0, 1.0]
    assert report["diversity"]["a red car"] > 0
    assert (out / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    assert "a red car" in (out / "index.html").read_text()
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "sheet.png", "index.html"}
    assert main(["evaluate", str(runs[0]), "--out", str(out)]) == 2  # nothing is overwritten
    assert "not empty" in capsys.readouterr().err


def test_a_file_of_any_origin_is_judged_by_its_prompt(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    glb = runs[0] / "asset.glb"
    assert main(["evaluate", str(glb), "--prompt", "a hamburger", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any("has no category for 'a hamburger'" in line.get("text", "") for line in lines)
    report = json.loads(next((tmp_path / "outputs").glob("evaluation-*/evaluation.json")).read_text())
    assert report["runs"][0]["category"] is None  # not NaN, which is no JSON


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "has no asset.glb yet: resume the run with `dreamlift resume"),
        ("missing", "is neither a run folder nor a GLB file"),
        ("one/asset.glb", "is a GLB file, whose prompt is not known: give --prompt"),
        ("broken.glb", "broken.glb cannot be read as a GLB file: "),
    ],
)
def test_bad_paths_are_named_in_one_line(runs, tmp_path, capsys, name, words):
    (tmp_path / "broken.glb").write_bytes(b"glTF nonsense")
    extra = ["--prompt", "a red car"] if name == "broken.glb" else []
    assert main(["evaluate", str(tmp_path / name), "--out", str(tmp_path / "report"), *extra]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.strip().count("\n") <= 1
    assert not (tmp_path / "report").exists()


def test_means_leave_out_what_is_not_known():
    row = dict.fromkeys(means([]), 1.0)
    found = means([row, {**row, "janus": math.nan, "color": 0.0}])
    assert (found["janus"], found["color"], found["category"]) == (1.0, 0.5, 1.0)
    assert math.isnan(means([{**row, "janus": math.nan}])["janus"])


def test_clip_ranks_the_prompts(tmp_path):
    """By hand: the cosine of each picture with each text."""
    model, tokenizer = random_clip(tmp_path / "clip"), make_tokenizer(CLIP_WORDS)
    prompts = ["a red car", "a blue mug", "a red mug"]
    pictures = [torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = clip_r_precision(pictures, prompts, load_clip(str(tmp_path / "clip"), prompts))
    with torch.no_grad():
        tokens = tokenizer(prompts, padding=True, return_tensors="pt")
        texts = model.text_projection(model.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output)
        x = (torch.cat(pictures) - torch.tensor(MEAN)) / torch.tensor(STD)
        images = model.visual_projection(model.vision_model(x.movedim(-1, 1)).pooler_output)
    cosines = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    want = (cosines.argmax(1) == torch.arange(3).repeat_interleave(4)).float().mean()
    assert found == pytest.approx(float(want))


@pytest.mark.parametrize(
    ("second", "said"), [("a blue mug", "the CLIP model 'nothing' cannot be loaded"), ("a red car", "at least two different")]
)
def test_a_clip_model_that_is_not_there_is_said_before_anything_is_judged(second, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    items = [Item(prompt, tmp_path / "no.glb", prompt, math.nan, math.nan) for prompt in ("a red car", second)]
    with pytest.raises(ValueError, match=said) as caught:
        evaluate(items, Plain(), "nothing")
    assert "\n" not in str(caught.value)
    assert "judging" not in capsys.readouterr().err


def test_the_outline_is_compared_with_things_on_boxes_where_the_words_say_so(judge):
    """A car on a box beside cars on boxes, and beside cars without one."""
    mesh = surface_of(make_thing("car", "red", 3, box=True), 48)
    found = [score_mesh(mesh, Wanted("car", "red", box=box), judge).score for box in (True, False)]
    assert found[0].silhouette_iou > 0.9 > 0.75 > found[1].silhouette_iou
    assert found[0].chamfer < 0.5 * found[1].chamfer
