"""Zero-1-to-3's family with tiny models in each port's layout, against hand-worked values and independent formulas."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from big_helpers import CPU, close
from safetensors.torch import load_file, save_file
from torch.nn import functional
from view_helpers import EMBEDDING, HALF, PORTS, SCHEDULE, parts_of_a_port, photo, save_port, save_view, targets

from dreamlift.guidance import GUIDANCE
from dreamlift.guidance.vsd import VSD
from dreamlift.priors.choice import PriorChoice
from dreamlift.priors.kinds import find, load_prior
from dreamlift.priors.zero123.embeds import View, relative_pose
from dreamlift.priors.zero123.encoding import CLIP_MEAN, CLIP_STD, clip_pixels
from dreamlift.priors.zero123.prior import Zero123Prior
from dreamlift.priors.zero123.rays import ray_features
from dreamlift.prompts import Backdrop, FourViews, NoViews
from dreamlift.types import Conditioning, Pictures

PALE = Backdrop("", (0.70, 0.75, 0.80))
DEGREE = math.pi / 180


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder by layout; "view" is that of toybox-view."""
    root = tmp_path_factory.mktemp("family")
    return {**{name: save_port(root / name, name) for name in PORTS}, "view": save_view(root / "view")}


@pytest.fixture(scope="module")
def priors(folders):
    return {name: load_prior(folder) for name, folder in folders.items()}


def told(prior, azimuths=(0.0, 90.0), elevations=(20.0, 20.0), show="color", task=None, **cameras):
    return prior.embeds(task or photo(), NoViews(), ()).at(targets(azimuths, elevations, **cameras), (), show)


def calls_of(prior, act):
    """The network's inputs in each call that ``act()`` makes: (sample, timestep, states, timestep_cond)."""
    seen = []

    def look(module, args, kwargs):
        seen.append((*args[:2], kwargs["encoder_hidden_states"], kwargs["timestep_cond"]))

    handle = prior.network.unet.register_forward_pre_hook(look, with_kwargs=True)
    act()
    handle.remove()
    return seen


def latents_of(prior, count=2):
    size = prior.network.sample_size
    return torch.randn(count, prior.network.channels, size, size, generator=torch.Generator().manual_seed(3))


# --- the pose


@pytest.mark.parametrize(
    ("reference", "target", "pose", "stable"),
    [  # degrees of elevation and azimuth; radians by hand: 10 = .174533, 20 = .349066, 60 = 1.047198
        ((20.0, 0.0), (20.0, 0.0), (0.0, 0.0, 1.0, 0.0), 1.221730),
        ((20.0, 0.0), (30.0, 90.0), (-0.174533, 1.0, 0.0, 0.0), 1.221730),
        ((30.0, 45.0), (-30.0, -15.0), (1.047198, -0.866025, 0.5, 0.0), 1.047198),
    ],
)
def test_the_pose_is_that_of_the_published_code(reference, target, pose, stable):
    one, other = (View.of(targets((azimuth,), (elevation,))) for elevation, azimuth in (reference, target))
    close(relative_pose(one, other, False)[0], torch.tensor(pose))
    close(relative_pose(one, other, True)[0], torch.tensor((*pose[:3], stable)))


def test_a_camera_is_farther_if_it_shows_more():
    near = View.of(targets((0.0,), (0.0,), distance=2.0, fov_deg=40.0))
    twice = View.of(targets((0.0,), (0.0,), distance=2.4, fov_deg=40.0))
    wide = View.of(targets((0.0,), (0.0,), distance=2.0, fov_deg=2 * math.degrees(math.atan(1.2 * math.tan(20 * DEGREE)))))
    for other in (twice, wide):  # both show 1.2 times the height: 0.2 * 1.85
        assert float(relative_pose(near, other, False)[0, 3]) == pytest.approx(0.37, abs=1e-4)
    far = View.of(targets((0.0,), (0.0,), distance=9.0, fov_deg=40.0))
    assert float(relative_pose(near, far, False)[0, 3]) == pytest.approx(0.7)


# --- the inputs of the network


def cubic(x):
    """Keys' kernel with a = -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(length, size):
    """The matrix (size, length) of a bicubic resize with aligned corners and without antialiasing; borders are repeated."""
    matrix = np.zeros((size, length))
    for row in range(size):
        at = row * (length - 1) / (size - 1)
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[row, min(max(tap, 0), length - 1)] += cubic(at - tap)
    return torch.from_numpy(matrix)


@pytest.mark.parametrize("side", [12, 60])
def test_clips_picture_is_resized_and_normalized_as_in_training(side):
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    matrix = bicubic(side, 28)
    resized = torch.einsum("yi,xj,ncij->ncyx", matrix, matrix, picture.double())
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert (mean, std) == (CLIP_MEAN, CLIP_STD)
    wanted = (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    close(clip_pixels(picture, 28).double(), wanted)
    white = clip_pixels(torch.ones(1, 3, side, side), 28)  # by hand: (1 - .48145466) / .26862954
    close(white[0, :, 5, 7], torch.tensor([1.930336, 2.074884, 2.145897]))


def whole(picture, size):
    """``(N, size, size, 3)`` of pictures ``(N, S, S, 3)``."""
    resized = functional.interpolate(picture.permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)


@torch.no_grad()
@pytest.mark.parametrize("layout", PORTS)
def test_the_ports_networks_get_what_their_code_gives_them(priors, layout):
    prior = priors[layout]
    assert isinstance(prior, Zero123Prior)
    assert (prior.resolution, prior.latent_bound) == (16, None)
    task = photo()
    cond = told(prior, (0.0, 90.0, -120.0), (20.0, 0.0, 60.0))
    unet, image, vae, layer = parts_of_a_port()
    if layout in HALF:  # the files were in half precision
        for part in (unet, image, vae, layer):
            part.half().float()
    rgba = task.photos.reference
    over_white = whole(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:], 16).permute(0, 3, 1, 2)
    latents = vae.encode(over_white * 2 - 1).latent_dist.mode()
    matrix = bicubic(16, 28).float()
    pixels = torch.einsum("yi,xj,ncij->ncyx", matrix, matrix, over_white)
    pixels = (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    embedding = image(pixel_values=pixels).image_embeds
    poses = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.349066, 1.0, 0.0, 0.0], [-0.698132, -0.866025, -0.5, 0.0]])
    tokens = torch.stack([layer(torch.cat([embedding[0], pose])) for pose in poses])[:, None]
    close(cond.pose, poses)
    close(cond.prompt_embeds, tokens)
    close(cond.image_latents, latents.expand(3, -1, -1, -1))
    assert not cond.negative_prompt_embeds.any()
    assert cond.empty_prompt_embeds is None

    x, t = latents_of(prior, 3), torch.tensor([0.1, 0.5, 0.9])
    out = {}
    ((sample, steps, states, camera),) = calls_of(prior, lambda: out.update(eps=prior.predict_noise(x, t, cond, 3.0)))
    assert camera is None
    assert steps.tolist() == [100, 500, 899] * 2
    assert torch.equal(sample[:, :4], torch.cat([x, x]))
    assert not sample[:3, 4:].any()  # the unguided half: zeros in place of the latents and of the token after its layer
    assert not states[:3].any()
    close(sample[3:, 4:], latents.expand(3, -1, -1, -1))
    close(states[3:], tokens)
    plain, wanted = (
        unet(torch.cat([x, beside], dim=1), steps[:3], states).sample
        for beside, states in ((torch.zeros_like(x), torch.zeros_like(tokens)), (latents.expand(3, -1, -1, -1), tokens))
    )
    assert float((plain - wanted).abs().mean()) > 1e-2
    close(out["eps"], plain + 3.0 * (wanted - plain))
    close(prior.predict_noise(x, t, cond, 1.0), wanted)
    close(prior.predict_noise(x, t, cond, 0.0), plain)
    # what is noised is scaled, what stands beside it is not
    picture = torch.rand(1, 16, 16, 3)
    close(prior.encode(picture), 0.18215 * vae.encode(picture.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean)


def twice_as_large(pictures):
    """Linear interpolation ``(..., 2 h, 2 w)`` by its weights, the edge repeated."""
    side = pictures.shape[-1]
    weights = torch.zeros(2 * side, side)
    for k in range(side):
        for row, beside in ((2 * k, max(k - 1, 0)), (2 * k + 1, min(k + 1, side - 1))):
            weights[row, k] += 0.75
            weights[row, beside] += 0.25
    return weights @ pictures @ weights.T


def packed(pictures):
    """``(B, 12, h, w)``: channel c of offset (i, j) in a block of 2 x 2 pixels is 4 c + 2 i + j."""
    count, _, height, width = pictures.shape
    return pictures.view(count, 3, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


@torch.no_grad()
@pytest.mark.parametrize("show", ["color", "place"])
def test_the_pixel_networks_inputs(priors, folders, show):
    from transformers import CLIPVisionModel

    prior, task = priors["view"], photo((40.0,), (30.0,))
    assert (prior.resolution, prior.latent_bound) == (16, 1.0)
    cond = told(prior, (40.0, 130.0), (30.0, 10.0), show, task)
    assert cond.frame_azimuth == pytest.approx(40 * DEGREE)
    place = float(show == "place")
    # 1; sin, cos of daz, 2 daz, 3 daz; elev_ref - elev_tgt; sin 30, told; places
    close(cond.pose[0], torch.tensor([1, 0, 1, 0, 1, 0, 1, 0, 0.5, 1, place]))
    close(cond.pose[1], torch.tensor([1, 1, 0, 0, -1, -1, 0, 0.349066, 0.5, 1, place]))
    rgba = task.photos.reference
    small = whole(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:], 16) * 2 - 1
    close(cond.image_latents[:, :12], packed(small.permute(0, 3, 1, 2)).expand(2, -1, -1, -1))
    assert cond.image_latents.shape == (2, 12 + 7, 8, 8)
    encoder = CLIPVisionModel.from_pretrained(folders["view"] / "image_encoder")
    tokens = encoder(pixel_values=small.permute(0, 3, 1, 2)).last_hidden_state[0]
    layer = load_file(folders["view"] / "cc_projection" / "diffusion_pytorch_model.safetensors")
    rays = ray_features(*(torch.tensor([angle * DEGREE]) for angle in (90.0, 30.0, 10.0)))[0]
    close(cond.prompt_embeds[1], torch.cat([tokens, rays], dim=1) @ layer["projection.weight"].T + layer["projection.bias"])

    x, t = latents_of(prior), torch.tensor([0.3, 0.8])
    ((sample, _, states, camera),) = calls_of(prior, lambda: prior.predict_noise(x, t, cond, 2.0))
    assert torch.equal(sample[:2, :12], x)
    lifted = cond.image_latents[:, 15:18] if place else cond.image_latents[:, 12:15]
    alpha = prior.schedule(t)[0]
    close(sample[2:, :12], x - alpha * packed(twice_as_large(lifted)))
    assert float((sample[2:, :12] - x).abs().mean()) > 0.1
    assert not sample[:2, 12:].any()
    assert not states[:2].any()
    assert torch.equal(camera[:2], torch.tensor([[0.0] * 10 + [place]] * 2))
    assert torch.equal(camera[2:], cond.pose)
    assert torch.equal(sample[2:, 12:], cond.image_latents)


def test_each_camera_has_the_nearest_picture_and_its_backdrop(priors):
    prior, task = priors["view"], photo((0.0, 180.0), (0.0, 0.0))
    embeds = prior.embeds(task, NoViews(), (PALE,))
    cond = embeds.at(targets((170.0, 10.0, 60.0), (0.0, 0.0, 0.0)), [PALE, PALE, Backdrop()])
    close(cond.pose[:, 1], torch.tensor([-10.0, 10.0, 60.0]).mul(DEGREE).sin())
    rgba = task.photos.reference[[1, 0, 0]]
    color = torch.tensor([PALE.color, PALE.color, (1.0, 1.0, 1.0)]).view(3, 1, 1, 3)
    over = prior.encode(whole(rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * color, 16))
    close(cond.image_latents[:, :12], over)
    # places: in the first picture's frame, which lies over the usual backdrop
    places = embeds.at(targets((170.0, 10.0), (0.0, 0.0)), (), "place")
    close(places.image_latents[0, :12], places.image_latents[1, :12])
    over = prior.encode(whole(rgba[1:2, ..., :3] * rgba[1:2, ..., 3:] + 1 - rgba[1:2, ..., 3:], 16))[0]
    close(places.image_latents[0, :12], over)
    close(places.pose[:, 1], torch.tensor([170.0, 10.0]).mul(DEGREE).sin())


# --- files


def test_averaged_weights_are_preferred(priors):
    # the others in that folder are 1 larger
    averaged, others = (priors[name].network.unet.conv_in.weight for name in ("bennyguo", "ashawkey"))
    assert torch.equal(averaged, others)


@pytest.mark.parametrize(
    ("name", "pose", "stable"),
    [
        ("stable-zero123-diffusers", "auto", True), ("models--kxic--stable-zero123/snapshots/0123abc", "auto", True),
        ("Stable_Zero123", "auto", True), ("zero123-xl", "auto", False), ("stable-zero123/zero123-xl", "auto", False),
        ("zero123-xl", "stable-zero123", True), ("stable-zero123", "zero123", False),
    ],
)  # fmt: skip
def test_stable_zero123_is_known_by_its_name_or_by_the_setting(folders, tmp_path, name, pose, stable):
    folder = tmp_path / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(folders["ashawkey"])
    parts = type(find(PriorChoice(str(folders["ashawkey"]))).parts)(folder)
    embeds = Zero123Prior.read(parts, PriorChoice("x", pose=pose), photo(), NoViews(), (), CPU)
    fourth = float(embeds.at(targets((0.0,), (0.0,))).pose[0, 3])
    assert fourth == pytest.approx(70 * DEGREE if stable else 0.0, abs=1e-5)


def changed(folders, tmp_path, layout, change):
    """A copy of a port that ``change(folder)`` has changed."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folders[layout], folder)
    change(folder)
    return folder


def edited(name, **values):
    def change(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def without_layer(folder):
    import shutil

    shutil.rmtree(folder / "cc_projection")


def pickled(part):
    def change(folder):
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_suffix(".bin"))

    return change


def other_layer(**weights):
    def change(folder):
        save_file(weights, folder / "cc_projection" / "diffusion_pytorch_model.safetensors")

    return change


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited(SCHEDULER, beta_start=0.02, beta_end=0.085), r"scaled_linear betas from 0.02 to 0.085 \(epsilon\).*0.00085 to"),
        (edited(SCHEDULER, beta_schedule="linear"), "has linear betas from 0.00085 to 0.012"),
        (edited(SCHEDULER, prediction_type="v_prediction"), r"\(v_prediction\), a known fault"),
        (without_layer, r"has no pose layer \(cc_projection or clip_camera_projection\).*refs/pr/1"),
        (pickled("unet"), "no .safetensors weights in .*convert the model with safetensors"),
        (pickled("cc_projection"), "no .safetensors weights in .*convert the model with safetensors"),
        (other_layer(weight=torch.zeros(1)), r"has the weights \['weight'\]"),
        (
            other_layer(**{"proj.weight": torch.zeros(16, 21), "proj.bias": torch.zeros(16)}),
            r"maps \(21, 16\).*need \(20, 16\)",
        ),
        (edited("unet/config.json", in_channels=7), "in_channels 7"),
        (edited("unet/config.json", sample_size=None), "sample_size None"),
    ],
)
def test_other_layouts_are_refused_in_one_line(folders, tmp_path, change, message):
    folder = changed(folders, tmp_path, "kxic", change)
    with pytest.raises(ValueError, match=message) as caught:
        load_prior(folder).embeds(photo(), NoViews(), ())
    text = str(caught.value).replace(str(folder), "FOLDER")
    assert "\n" not in text
    assert len(text) <= 300


def test_a_size_that_pipelines_rewrote_is_that_of_the_models(tmp_path):
    folder = save_port(tmp_path / "model", "ashawkey", size=32)
    edited("unet/config.json", sample_size=64)(folder)
    prior = load_prior(folder)
    assert (prior.network.sample_size, prior.resolution) == (32, 64)  # this autoencoder halves; the published ones: 256
    assert prior.embeds(photo(), NoViews(), ()).latents.shape[-1] == 32


def test_a_pipeline_in_memory_serves_as_its_folder(folders, priors):
    from diffusers import DDIMScheduler

    class Pipeline:
        def __init__(self, **components):
            self.components, self.scheduler = components, components["scheduler"]
            self.config = {"_class_name": "Zero123Pipeline", **dict.fromkeys(components)}

    unet, image, vae, layer = parts_of_a_port()
    named = torch.nn.ModuleDict({"proj": layer})
    pipe = Pipeline(unet=unet, image_encoder=image, vae=vae, clip_camera_projection=named,
                    scheduler=DDIMScheduler.from_config(SCHEDULE))  # fmt: skip
    x, t = latents_of(priors["kxic"]), torch.tensor([0.4, 0.6])
    with torch.no_grad():
        got, wanted = (each.predict_noise(x, t, told(each), 2.0) for each in (load_prior(pipe), priors["kxic"]))
    close(got, wanted)


# --- what it is asked for


@pytest.mark.parametrize(
    ("layout", "show", "wording", "photos", "message"),
    [
        ("kxic", "color", NoViews(), False, "given no picture: give --image FILE"),
        ("view", "color", NoViews(), False, "given no picture: give --image FILE"),
        ("kxic", "place", NoViews(), True, "show is place, but this prior knows no places"),
        ("view", "normal", NoViews(), True, "show is normal, but this prior knows no normals"),
        ("view", "color", FourViews(perp_neg=1.0), True, "perp_neg .* set it to 0"),
    ],
)
def test_what_it_cannot_be_asked_is_refused_before_loading(folders, layout, show, wording, photos, message):
    located = find(PriorChoice(str(folders[layout])))
    located.check_task("color", NoViews(), True)
    with pytest.raises(ValueError, match=message):
        located.check_task(show, wording, photos)
    if layout == "view":
        located.check_task("place", NoViews(), True)
        with pytest.raises(ValueError, match=message):
            find(PriorChoice.of(load_prior(folders[layout]))).check_task(show, wording, photos)


@pytest.mark.parametrize(
    ("layout", "option", "message"),
    [
        ("kxic", {"camera_conditioning": False}, "leave camera_conditioning on"),
        ("view", {"linear_encoder": True}, "leave linear_encoder off"),
        ("view", {"embeddings": ("x.safetensors",)}, "no .*x.safetensors|picture instead of words"),
    ],
)
def test_options_without_a_meaning_are_refused(folders, layout, option, message):
    with pytest.raises(ValueError, match=message):
        find(PriorChoice(str(folders[layout]), **option))


def test_a_picture_is_needed_in_each_call(priors):
    for name in ("kxic", "view"):
        prior, cond = priors[name], told(priors[name])
        words = Conditioning(cond.prompt_embeds, cond.negative_prompt_embeds)
        with pytest.raises(ValueError, match="give --image FILE"):
            prior.predict_noise(latents_of(prior), torch.tensor([0.5, 0.5]), words, 2.0)
        task = photo()
        with pytest.raises(ValueError, match="needs the camera of the photo"):
            prior.embeds(replace(task, photos=replace(task.photos, cameras=None)), NoViews(), ())
        with pytest.raises(ValueError, match="reads no words"):
            prior.embed_text(["a mug"])


def test_a_photo_without_a_reference_is_used_as_it_is(priors):
    task = photo()
    flipped = task.photos.reference
    plain = Pictures(flipped[..., :3], flipped[..., 3:], task.photos.cameras)
    one, other = (told(priors["kxic"], task=each) for each in (task, replace(task, photos=plain)))
    assert torch.equal(one.image_latents, other.image_latents)


# --- losses


@pytest.mark.parametrize("layout", ["kxic", "view"])
@pytest.mark.parametrize("name", sorted(GUIDANCE))
def test_every_loss_runs_and_each_call_has_the_picture_or_nothing(priors, layout, name):
    """In each row of each call: the token, the latents and the pose of its picture, or zeros for all of them."""
    prior = priors[layout]
    cond = told(prior, (30.0, -100.0), (0.0, 50.0))
    x = latents_of(prior).requires_grad_()
    loss, rng, channels = GUIDANCE[name](), torch.Generator().manual_seed(0), prior.network.channels
    state = loss.init(prior, rng)

    def act():
        loss(prior, x, cond, 0.5, rng, state).loss.backward()

    calls = calls_of(prior, act)
    assert bool((x.grad.abs().amax((1, 2, 3)) > 0).all())
    kinds = set()
    for sample, _, states, camera in calls:
        for row in range(len(sample)):
            at = row % 2
            told_row = bool(states[row].any())
            kinds.add(told_row)
            close(states[row], cond.prompt_embeds[at] * told_row)
            close(sample[row, channels:], cond.image_latents[at] * told_row)
            if camera is not None:
                close(camera[row], cond.pose[at] if told_row else torch.zeros(11))
    assert kinds == {True, False}


@pytest.mark.parametrize("layout", ["kxic", "view"])
def test_vsds_lora_keeps_the_picture_and_the_pose(priors, layout):
    """Its first predictions are the unguided prior's, with the reference; no camera is added, and it learns."""
    prior, rng = priors[layout], torch.Generator().manual_seed(0)
    cond, x, t = told(prior, (30.0, -100.0), (0.0, 50.0)), latents_of(prior), torch.tensor([0.3, 0.7])
    learned = VSD(rank=2).init(prior, rng)
    assert learned.network.camera is None
    with torch.no_grad():
        want, plain = (prior.predict_noise(x, t, cond, scale) for scale in (1.0, 0.0))
        close(learned.predict_noise(x, t, cond), want)
        assert float((want - plain).abs().mean()) > 1e-3
        bare = replace(cond, cameras=None)  # VSD's dropout of cameras
        close(learned.predict_noise(x, t, bare), want)
    VSD().lora_loss(prior, x, cond, rng, learned).backward()
    assert any(bool(p.grad.any()) for p in learned.parameters() if p.grad is not None)


# --- memory and engines


def test_micro_batches_change_nothing(priors, folders):
    from dreamlift.priors.saving import Memory

    for name in ("kxic", "view"):
        prior, other = priors[name], load_prior(folders[name], memory=Memory(micro_batch=1))
        cond, x, t = told(prior), latents_of(prior), torch.tensor([0.3, 0.7])
        with torch.no_grad():
            close(other.predict_noise(x, t, cond, 3.0), prior.predict_noise(x, t, cond, 3.0))


def test_onnx_runtime_answers_as_torch_does(folders, priors, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plain, fast = priors["view"], load_prior(folders["view"], engine="onnx")
    assert fast.engine == "onnx"
    cond, x, t = told(plain), latents_of(plain), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        for scale in (0.0, 1.0, 3.0):
            close(fast.predict_noise(x, t, cond, scale), plain.predict_noise(x, t, cond, scale))


def test_the_estimate_of_memory_counts_its_parts(folders):
    from dreamlift.memory import model_of, parameters

    located = find(PriorChoice(str(folders["ashawkey"])))
    model = model_of(located.parts, located.choice, "cpu")
    files = {
        part: load_file(next((folders["ashawkey"] / part).glob("*.safetensors"))) for part in ("unet", "vae", "image_encoder")
    }
    numbers = {part: sum(value.numel() for value in weights.values()) for part, weights in files.items()}
    assert model.weights == 4 * (numbers["unet"] + numbers["vae"])
    assert model.text == 4 * numbers["image_encoder"] == 4 * parameters(folders["ashawkey"] / "image_encoder")
    assert EMBEDDING == 16


def test_a_picture_is_encoded_by_onnx_runtime_where_the_encoders_graph_is_there(folders, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from transformers import CLIPVisionModel

    from dreamlift.priors.engine import graph_key, stored_weights, traced_graph
    from dreamlift.priors.zero123 import encoding

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    located = find(PriorChoice(str(folders["view"])))
    parts, folder = located.parts, folders["view"] / "image_encoder"
    plain = located.read(photo(), NoViews(), (), CPU)
    example = encoding.example(parts)
    key = graph_key(parts.config("image_encoder"), stored_weights(folder), example)
    traced_graph(key, CLIPVisionModel.from_pretrained(folder).eval(), encoding.call_image_encoder, example)
    monkeypatch.setattr("transformers.CLIPVisionModel", lambda *_: pytest.fail("transformers was asked"))
    close(located.read(photo(), NoViews(), (), CPU, "onnx").tokens, plain.tokens)
