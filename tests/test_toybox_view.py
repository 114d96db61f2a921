"""The training of the view-conditioned prior: composites, pairs of pictures, poses, and the networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dreamlift.cameras import orbit_cameras, project
from dreamlift.priors.zero123.lift import SCALE
from dreamlift.toybox.training import pairs as pairs_module
from dreamlift.toybox.training.network import PACKING, make_networks, save_folder
from dreamlift.toybox.training.pairs import (
    BACKDROPS,
    BLACK,
    FRAMED,
    HELD_OUT,
    REFERENCES,
    TARGETS,
    Pairs,
    as_bytes,
    framed,
    frames_of,
    load_shards,
    make_object,
    make_pairs,
    make_shard,
    over,
    own_cameras,
    own_positions,
    places_of,
    reframed,
    view_cameras,
)
from dreamlift.toybox.training.view import (
    POSE_FEATURES,
    RAY_FEATURES,
    ViewTraining,
    begin_with,
    draw_batch,
    make_view_networks,
    pose_features,
    ray_features,
    sample_views,
    seen_beside,
    train,
    x0_loss,
)
from dreamlift.toybox.training.view import save_folder as save_view_folder
from dreamlift.toybox.world.composites import COMPOSITE, make_composite
from dreamlift.toybox.world.render import Lighting, render
from dreamlift.toybox.world.things import FIT_RADIUS, make_thing


@pytest.fixture(scope="module")
def known() -> Pairs:
    """Four objects at 32 pixels."""
    return make_pairs(range(4), 32)


def test_composites_are_fitted_varied_and_reproducible():
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    things = [make_composite(seed) for seed in range(12)]
    solid = []
    for thing in things:
        inside = thing.occupancy(points)
        assert thing.category == COMPOSITE
        assert points[inside].norm(dim=-1).max() <= FIT_RADIUS + 0.02
        solid.append(float(inside.float().mean()))
    assert min(solid) > 0.0005
    assert len({len(thing.parts) for thing in things}) >= 4
    again = make_composite(3)
    assert torch.equal(again.sdf(points), things[3].sdf(points))
    assert torch.equal(again.albedo(points), things[3].albedo(points))


def test_distances_of_composites_do_not_overestimate():
    """Sphere tracing needs |d(a) - d(b)| <= |a - b|."""
    random = torch.Generator().manual_seed(1)
    a = torch.rand(3000, 3, generator=random) * 2 - 1
    b = a + 0.02 * torch.nn.functional.normalize(torch.randn(3000, 3, generator=random), dim=-1)
    for seed in range(10):
        thing = make_composite(seed)
        steep = (thing.sdf(a) - thing.sdf(b)).abs() / (a - b).norm(dim=-1)
        assert torch.quantile(steep, 0.99) < 1.15, seed


def test_objects_alternate_and_held_out_kinds_are_not_drawn():
    kinds = [make_object(seed).category for seed in range(0, 400, 2)]
    assert not set(kinds) & set(HELD_OUT)
    assert len(set(kinds)) > 40
    assert all(make_object(seed).category == COMPOSITE for seed in (1, 3, 5))
    assert set(HELD_OUT) <= {make_object(seed, training=False).category for seed in range(0, 1200, 2)}


def test_references_are_framed():
    """The silhouette's box, from a render of the cropped camera, against the wanted one."""
    cameras = orbit_cameras(*torch.tensor([[0.3, 2.0], [0.4, -0.1], [4.0, 3.0], [0.5, 0.7]]), 64)
    for thing in (make_thing("mug", "red", 1), make_composite(5)):
        cropped = framed(thing, cameras, torch.tensor([FRAMED, 0.6]), torch.tensor([[0.0, 0.0], [0.1, -0.05]]))
        shown = render(thing, cropped, supersample=4).opacity[..., 0] > 0.5
        for picture, ratio, shift in zip(shown, (FRAMED, 0.6), ((0.0, 0.0), (0.1, -0.05)), strict=True):
            spans = [(float(v.min()), float(v.max()) + 1) for v in (picture.any(0).nonzero(), picture.any(1).nonzero())]
            assert max(high - low for low, high in spans) / 64 == pytest.approx(ratio, abs=0.06)
            for (low, high), wanted in zip(spans, shift, strict=True):
                assert 0.5 * (low + high) / 64 - 0.5 == pytest.approx(wanted, abs=0.035)


def test_places_are_the_points_that_project_to_their_pixels():
    thing, cameras = make_composite(7), view_cameras(torch.tensor([0.7]), torch.tensor([0.5]), 48)
    found = places_of(thing, cameras, supersample=1)[0]
    rows, columns = (found.sum(-1) > 0).nonzero(as_tuple=True)
    points = found[rows, columns] * 2 - 1
    pixels, _ = project(cameras, points)
    centres = torch.stack([columns, rows], dim=-1) + 0.5
    assert (pixels[0] - centres).abs().max() < 0.05
    assert thing.sdf(points).abs().max() < 0.02


@pytest.mark.parametrize("turn", [0.0, 1.9])
def test_targets_are_those_of_cameras_that_look_at_the_middle_of_the_reference(turn):
    """Cropped pictures of the world's cameras, against renders of cameras that stand where the reference's frame has them.

    The distance of the pivot changes the perspective, so that crops are not exact.
    """
    thing, own = make_composite(9), np.array([[0.8, 0.5]], dtype=np.float32)
    views = own + np.array([[turn, -0.2 * (turn > 0)]], dtype=np.float32)
    wide = orbit_cameras(*(torch.tensor([v]) for v in (0.8, 0.5, 3.0, 0.8)), 64)
    reference = framed(thing, wide, torch.tensor([FRAMED]), torch.tensor([[0.1, -0.06]]))
    frames = frames_of(reference).numpy()
    with torch.inference_mode():
        plain, exact = view_cameras(*torch.from_numpy(views).T), own_cameras(frames, own, views)
        pictures = [as_bytes(render(thing, each, Lighting(), BLACK)) for each in (plain, exact)]
        places = [(places_of(thing, each) * 255 + 0.5).to(torch.uint8).numpy() for each in (plain, exact)]
    found, positions = reframed(pictures[0], places[0], frames, own, views)
    wanted = pictures[1] / 255
    error = np.square(found - wanted).mean()
    assert error < 0.15 * np.square(pictures[0] / 255 - wanted).mean()
    assert -10 * np.log10(error) > 22
    alpha = torch.from_numpy(wanted[..., 3:])
    there = own_positions(torch.from_numpy(places[1] / 255).float(), alpha, frames, own).numpy()
    full = (wanted[..., 3] > 0.99) & (found[..., 3] > 0.99)
    assert np.abs(positions - there)[full].mean() < 0.03
    if turn == 0.0:  # the photo's own pixels, at the frame's scale: half sides of 1.07696 units here, of 1 / SCALE there
        large = np.argwhere(wanted[0, ..., 3] > 0.5)
        span = (large.max(0) - large.min(0) + 1).max() / 64
        assert span == pytest.approx(FRAMED / SCALE / 1.07696, abs=0.04)
        # The silhouette was shifted in its picture: the middle of the picture is that of the frame.
        centre = (large.max(0) + large.min(0) + 1) / 2 / 64 - 0.5
        assert centre.tolist() == pytest.approx([-0.06 / SCALE / 1.07696, 0.1 / SCALE / 1.07696], abs=0.02)


def test_pairs_share_their_backdrop_and_mirror_together(known):
    drawn = known.draw(np.random.default_rng(0), 200, place_share=0.3)
    corners = drawn.reference[:, 0, 0]
    assert {tuple(round(float(v), 2) for v in corner) for corner in corners} == set(BACKDROPS)
    assert np.allclose(corners[~drawn.place], drawn.target[~drawn.place][:, 0, 0], atol=1e-6)
    assert not drawn.target[drawn.place][:, 0, 0].any()
    assert 0.35 < np.mean(corners[:, 0] == 1.0) < 0.65
    # A draw is mirrored or not: both forms of one pair occur, with opposite azimuths.
    views = known.target_view[..., 0][:, None, :] - known.reference_view[..., 0][:, :, None]
    plain = [bool(np.isclose(views, azimuth, atol=1e-5).any()) for azimuth in drawn.azimuth]
    other = [bool(np.isclose(-views, azimuth, atol=1e-5).any()) for azimuth in drawn.azimuth]
    assert all(a or b for a, b in zip(plain, other, strict=True))
    assert 60 < sum(plain) < 140


def test_mirrored_places_are_in_the_mirrored_frame(known):
    """In a mirrored pair the place's x, weighted by opacity, changes its sign; y and z do not."""
    views = known.target_view[..., 0][:, None, :] - known.reference_view[..., 0][:, :, None]
    seen = {}
    for seed in range(40):
        drawn = known.draw(np.random.default_rng(seed), 16, place_share=1.0)
        for target, azimuth in zip(drawn.target, drawn.azimuth, strict=True):
            for sign in (1, -1):
                keys = list(zip(*np.isclose(sign * views, azimuth, atol=1e-5).nonzero(), strict=True))
                if len(keys) == 1:  # targets with their reference's own view all have azimuth 0
                    seen.setdefault(keys[0], {})[sign] = target
    both = [found for found in seen.values() if len(found) == 2]
    assert len(both) > 10
    for found in both:
        one, other = found[1], found[-1][:, ::-1]
        alpha = one[..., 0] + other[..., 0]  # a (1 + x) / 2 + a (1 - x) / 2
        assert np.allclose(one[..., 1:], other[..., 1:], atol=1e-5)
        assert alpha.min() > -1e-5
        assert alpha.max() < 1 + 1e-5
        assert np.allclose(alpha[(alpha > 0.9) & (one[..., 1] > 0)], 1.0, atol=0.1)


def test_some_targets_are_near_their_reference(known):
    assert known.target.shape[:2] == (4, TARGETS + REFERENCES)
    drawn = known.draw(np.random.default_rng(3), 600)
    same = (np.abs(drawn.azimuth) < 1e-6) & (np.abs(drawn.elevation[:, 0] - drawn.elevation[:, 1]) < 1e-6)
    near = (np.abs(drawn.azimuth) < 0.6) & (np.abs(drawn.elevation[:, 0] - drawn.elevation[:, 1]) < 0.5)
    assert 0.02 < same.mean() < 0.25
    assert 0.2 < near.mean() < 0.55


def test_over_is_the_usual_compositing():
    picture = np.array([[[[100, 50, 0, 128]]]], dtype=np.uint8)
    found = over(picture, np.array([[1.0, 0.5, 0.2]]))[0, 0, 0]
    assert found == pytest.approx([100 / 255 + 127 / 255, 50 / 255 + 127 / 255 * 0.5, 127 / 255 * 0.2], abs=1e-6)


def test_pose_features_are_the_stated_numbers():
    azimuth, reference, target = torch.tensor([math.pi / 2, 0.0]), torch.tensor([0.3, 0.1]), torch.tensor([0.1, 0.5])
    found = pose_features(azimuth, reference, target, torch.tensor([True, False]), torch.tensor([False, True]))
    first = [1, 1, 0, 0, -1, -1, 0, 0.2, math.sin(0.3), 1, 0]
    second = [1, 0, 1, 0, 1, 0, 1, -0.4, 0, 0, 1]
    assert found.tolist() == [pytest.approx(first, abs=1e-6), pytest.approx(second, abs=1e-6)]
    assert found.shape[1] == POSE_FEATURES


def test_rays_pass_through_what_their_patches_show():
    """A point of an object, projected with both cameras: its patch's ray has a point near it in the target's picture."""
    thing, a = make_thing("mug", "red", 1), torch.tensor([1.1])
    er, et = torch.tensor([0.3]), torch.tensor([0.6])
    far, narrow = torch.tensor([40.0]), torch.tensor([2 * math.atan(1 / SCALE / 40.0)])  # all but orthographic
    here, there = (orbit_cameras(az, el, far, narrow, 64) for az, el in ((a * 0, er), (a, et)))
    rows, columns = ((places := places_of(thing, here, supersample=1)[0]).sum(-1) > 0).nonzero(as_tuple=True)
    points = places[rows, columns] * 2 - 1
    features = ray_features(a, er, et)[0]
    assert features.shape == (65, RAY_FEATURES)
    assert not features[0].any()
    # sines and cosines of twice the coordinates of five points of each ray
    sines, cosines = features[1:, :10].view(64, 5, 2), features[1:, 10:20].view(64, 5, 2)
    seen = torch.atan2(sines, cosines) / 2
    pixels, _ = project(there, points)
    wanted = (pixels[0] / 32 - 1) * torch.tensor([1 / SCALE, -1 / SCALE])
    of = (rows // 8) * 8 + columns // 8
    first, last = seen[of, 0], seen[of, -1]
    share = (((wanted - first) * (last - first)).sum(-1) / (last - first).square().sum(-1)).clamp(0, 1)
    away = (first + share[:, None] * (last - first) - wanted).norm(dim=-1)
    assert away.max() < 0.2  # the patch is 0.24 wide
    assert away.median() < 0.1


def test_batches_depend_on_seed_and_step_only_and_drop_what_inference_drops(known):
    settings = ViewTraining(batch=400, size=32)
    one, again, other = (draw_batch(known, settings, step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.eps, other.eps)
    none = (one.tokens == 0) & (one.concat == 0)
    assert 0.02 < none.float().mean() < 0.09
    assert 0.02 < ((one.tokens == 0) & (one.concat == 1)).float().mean() < 0.09
    assert 0.02 < ((one.tokens == 1) & (one.concat == 0)).float().mean() < 0.09
    assert not one.pose[none, :-1].any()  # the unguided prediction: nothing but the kind of picture that is asked for
    assert (one.pose[~none, 0] == 1).all()
    assert one.t.max() < 1000


def tiny(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_view_networks(32, (8, 16, 32))


def test_begins_as_the_text_prior_without_its_words(tmp_path):
    """Without tokens, pose and reference, the first prediction is that of the text prior without text states' content."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        text = make_networks(["a", "duck"], 32, (8, 16, 32))
    save_folder(text, tmp_path / "text", half=False)
    networks = tiny()
    begin_with(networks, tmp_path / "text")
    x, t, states = torch.randn(2, 12, 16, 16), torch.tensor([100, 900]), torch.randn(2, 5, 128)
    wanted = text.predict_x0(x, t, states, torch.zeros(2, 8))
    reference = torch.randn(2, 12 + 7, 16, 16)  # its input channels begin at zero
    reference[:, 12:18] = 0.0  # without a lift the network draws the whole picture
    found = networks.predict_x0(x, t, reference, states, torch.zeros(2, POSE_FEATURES))
    assert torch.allclose(found, wanted, atol=1e-4)


def test_trains_resumes_and_saves_a_folder_that_stock_classes_open(tmp_path, known, monkeypatch):
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPVisionModel

    monkeypatch.setattr(pairs_module, "SHARD", 2)
    make_shard(tmp_path / "data", 0, 32)
    assert len(load_shards(tmp_path / "data", 32)) == 2
    monkeypatch.setattr("dreamlift.toybox.training.view.make_view_networks", lambda size: tiny())
    settings = ViewTraining(steps=3, batch=2, size=32, warmup=1)
    data = tmp_path / "data"
    monkeypatch.setattr("dreamlift.toybox.training.view.sample_views", lambda networks, reference, *_: reference.movedim(1, -1))
    unseen = load_shards(data, 32)
    train(settings, tmp_path / "whole", data, unseen, "cpu", 10)
    train(ViewTraining(steps=2, batch=2, size=32, warmup=1), tmp_path / "parted", data, unseen, "cpu", 10)
    train(settings, tmp_path / "parted", data, unseen, "cpu", 10)
    folders = tmp_path / "whole" / "prior", tmp_path / "parted" / "prior"
    unets = [UNet2DConditionModel.from_pretrained(folder / "unet") for folder in folders]
    for one, other in zip(*(unet.state_dict().values() for unet in unets), strict=True):  # pyright: ignore
        assert torch.allclose(one.float(), other.float(), atol=2e-3)
    encoder = CLIPVisionModel.from_pretrained(folders[0] / "image_encoder")
    assert encoder(pixel_values=torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 65, 128)  # pyright: ignore
    assert DDPMScheduler.from_pretrained(folders[0] / "scheduler").config["prediction_type"] == "sample"
    assert (tmp_path / "whole" / "samples.png").stat().st_size > 1000
    again = tiny(5)
    begin_with(again, folders[0])
    assert torch.allclose(again.unet.conv_in.weight, unets[0].conv_in.weight.float(), atol=1e-6)  # pyright: ignore


def test_loss_falls_on_one_batch(known):
    networks = tiny()
    batch = draw_batch(known, ViewTraining(batch=8, size=32), 0)
    optimizer = torch.optim.Adam(networks.parameters(), 2e-3)
    losses = []
    for _ in range(20):
        loss = x0_loss(networks, batch)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in networks.parameters())


@torch.no_grad()
def test_samples_are_ddim_with_guidance(known):
    """Against a loop written with the formula of DDIM (Song et al. 2020, eq. 12, eta 0)."""
    networks, batch = tiny(), draw_batch(known, ViewTraining(batch=2, size=32), 1)
    beside = seen_beside(networks.lift, batch)
    found = sample_views(networks, batch.reference, beside, batch.pose, batch.rays, 1.7, steps=4, seed=3)
    abars = networks.scheduler.alphas_cumprod
    assert torch.equal(beside[:, :12], functional.pixel_unshuffle(batch.reference, PACKING))
    tokens = networks.encode_image(batch.reference, batch.rays)
    x = torch.randn(2, 12, 16, 16, generator=torch.Generator().manual_seed(3))
    nothing = torch.zeros_like(batch.pose)
    nothing[:, -1] = batch.pose[:, -1]
    for t, before in zip((999, 749, 499, 249), (749, 499, 249, -1), strict=True):
        times = torch.full((2,), t)
        cond = networks.predict_x0(x, times, beside, tokens, batch.pose)
        uncond = networks.predict_x0(x, times, beside * 0, tokens * 0, nothing)
        guided = uncond + 1.7 * (cond - uncond)
        now, then = abars[t], abars[before] if before >= 0 else torch.tensor(1.0)
        eps = (x - now.sqrt() * guided) / (1 - now).sqrt()
        x = then.sqrt() * guided.clamp(-1, 1) + (1 - then).sqrt() * eps
    wanted = functional.pixel_shuffle(x, PACKING).permute(0, 2, 3, 1) * 0.5 + 0.5
    assert torch.allclose(found, wanted.clamp(0, 1), atol=1e-3)


def test_saved_folder_is_half_precision_and_small(tmp_path):
    networks = tiny()
    before = networks.unet.conv_in.weight.clone()
    save_view_folder(networks, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "unet",
        "image_encoder",
        "cc_projection",
        "lift",
        "scheduler",
        "model_index.json",
    }
    assert networks.unet.dtype == torch.float32
    assert torch.allclose(networks.unet.conv_in.weight, before, atol=1e-3)


def test_the_sheet_has_the_pairs_side_by_side(tmp_path, monkeypatch):
    rows = [pairs_module.make_pictures(seed, 32) for seed in range(2)]
    monkeypatch.setattr(pairs_module, "make_pictures", lambda seed, size, training: rows[seed % 2])
    pairs_module.write_sheet(tmp_path / "sheet.png", 32, 2, 3)
    known = Pairs(**{key: np.stack([rows[seed % 2][key] for seed in range(24)]) for key in rows[0]})
    drawn = known.draw(np.random.default_rng(0), 6, 0.4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (64, 192, 3)
    assert np.abs(sheet[32:, 64:96] / 255 - drawn.reference[4]).max() < 0.01
    assert np.abs(sheet[:32, 32:64] / 255 - drawn.target[0]).max() < 0.01
