"""Losses, regularisers and samplers against independent formulas: the reference repositories' functions, written out here.

    python -m pytest tests/test_conformance.py       # each row within its tolerance
    python tests/test_conformance.py                 # writes docs/conformance.md, with the errors reached

The network is a small random U-Net of Stable Diffusion's kind in float32, called directly by the formulas here and through a
prior by dreamlift. Threestudio is meant where a reference names only a file.
"""

from __future__ import annotations

import ast
import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from big_helpers import first_pipeline
from torch import Tensor

from dreamlift.cameras import CameraSampler, orbit_cameras
from dreamlift.guidance.cfd import CFD
from dreamlift.guidance.csd import CSD
from dreamlift.guidance.hifa import HiFA
from dreamlift.guidance.ism import ISM
from dreamlift.guidance.nfsd import NFSD
from dreamlift.guidance.reconstruction import Reconstruction
from dreamlift.guidance.refine import Refine
from dreamlift.guidance.sdi import SDI
from dreamlift.guidance.sds import SDS
from dreamlift.guidance.sjc import SJC
from dreamlift.guidance.vsd import VSD
from dreamlift.presets import PRESETS
from dreamlift.priors.base import perp_neg
from dreamlift.priors.kinds import load_prior
from dreamlift.priors.lora.lora import LoRA
from dreamlift.prompts import FourViews
from dreamlift.scenes.background import activate_color
from dreamlift.scenes.nerf.hashgrid import Hashgrid
from dreamlift.scenes.nerf.regularizers import depth_variance, distortion, emptiness, normal_change
from dreamlift.scenes.nerf.scene import Nerf
from dreamlift.scenes.regularizers import normal_smooth, opaque, sparsity
from dreamlift.scenes.tetmesh import regularizers as surface
from dreamlift.schedules import Exponential, Linear, Sqrt, value_at
from dreamlift.shading.lambert import shade
from dreamlift.shading.lighting import Lighting
from dreamlift.stages.adam import optimizer_of
from dreamlift.stages.photometric import Photometric, chosen, compare, pearson
from dreamlift.stages.settings import Adam
from dreamlift.stages.teacher import angle_scale
from dreamlift.types import Conditioning, Pictures, RaySamples, RenderOutput, Shading

DOCUMENT = Path(__file__).parent.parent / "docs" / "conformance.md"
PAPERS = [Path(__file__).parent.parent / "dreamlift" / "presets" / room for room in ("papers", "pictures")]
T = 0.6  # the diffusion time of the losses' rows
STEP = round(T * 999)
Pair = tuple[Tensor, Tensor]  # what dreamlift computes, and the reference


@dataclass(frozen=True)
class Row:
    """One comparison; ``check`` returns both sides."""

    method: str
    compared: str
    reference: str
    tolerance: float  # of the largest difference, relative to the reference's largest value
    check: Callable[[], Pair]

    def error(self) -> float:
        ours, theirs = (value.detach().double() for value in self.check())
        assert ours.shape == theirs.shape
        assert float(theirs.abs().max()) > 0  # two sides of zeros would agree whatever the formula
        return float((ours - theirs).abs().max() / theirs.abs().max())


ROWS: list[Row] = []


def row(method: str, compared: str, reference: str, tolerance: float = 1e-5) -> Callable[[Callable[[], Pair]], None]:
    """Add the decorated comparison to the table."""
    return lambda check: ROWS.append(Row(method, compared, reference, tolerance, check))


def rng(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def model() -> tuple[Any, Any]:
    """The stock pipeline, and dreamlift's prior of it."""
    pipe = first_pipeline()
    return pipe, load_prior(pipe, engine="torch")


@cache
def situation() -> tuple[Tensor, Conditioning]:
    """Latents ``(2, 4, 8, 8)`` and their conditioning: prompt, negative prompt, two Perp-Neg phrases, cameras."""
    generator = rng(11)
    cameras = orbit_cameras(torch.tensor([0.3, 2.0]), torch.tensor([0.1, 0.5]), torch.ones(2) * 2, torch.ones(2), 32)
    text = torch.randn(2, 4, 5, 16, generator=generator)
    return torch.randn(2, 4, 8, 8, generator=generator), Conditioning(text[:, 0], text[:, 1], cameras=cameras)


def unet(x: Tensor, step: int, text: Tensor) -> Tensor:
    """The network's output at an integer timestep."""
    with torch.no_grad():
        return model()[0].unet(x, torch.full((len(x),), step), encoder_hidden_states=text).sample


def levels(step: int) -> tuple[Tensor, Tensor]:
    """alpha and sigma of a timestep."""
    abar = model()[0].scheduler.alphas_cumprod[step]
    return abar.sqrt(), (1 - abar).sqrt()


def ours(loss: Any, state: Any = None, progress: float = 0.0, cond: Conditioning | None = None) -> Tensor:
    """The gradient that a loss gives the latents."""
    x, told = situation()
    x = x.clone().requires_grad_()
    loss(model()[1], x, cond or told, progress, rng(), state).loss.backward()
    assert x.grad is not None
    return x.grad


def noised() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, noise, x_t, alpha, sigma, with the noise that a loss draws after its two times."""
    x, _ = situation()
    generator = rng()
    torch.rand(2, generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    alpha, sigma = levels(STEP)
    return x, noise, alpha * x + sigma * noise, alpha, sigma


def guided(x_t: Tensor, scale: float, step: int = STEP) -> Tensor:
    """``uncond + scale (cond - uncond)``, the convention of diffusers."""
    cond = situation()[1]
    plain, told = unet(x_t, step, cond.negative_prompt_embeds), unet(x_t, step, cond.prompt_embeds)
    return plain + scale * (told - plain)


AT: dict[str, Any] = {"t_min": T, "t_max": T}


@row("SDS", "gradient at CFG 100 stated as cond + s (cond - uncond)", "stable_diffusion_guidance.py, compute_grad_sds")
def _() -> Pair:
    _, noise, x_t, _, sigma = noised()
    return ours(SDS(guidance_scale=101.0, **AT)), sigma**2 * (guided(x_t, 101.0) - noise) / 2


@row("SDS, Fantasia3D's weight", "gradient with w = alpha sigma^2", "stable_diffusion_guidance.py, weighting fantasia3d")
def _() -> Pair:
    _, noise, x_t, alpha, sigma = noised()
    return ours(SDS(guidance_scale=101.0, weighting="alpha_sigma2", **AT)), alpha * sigma**2 * (guided(x_t, 101.0) - noise) / 2


@row(
    "SJC", "gradient -(D - y) / sigma at y + sigma n, in SJC's scale of noise", "stable_diffusion_guidance.py, compute_grad_sjc"
)
def _() -> Pair:
    x, noise, _, alpha, sigma = noised()
    level = sigma / alpha
    z = x + level * noise
    denoised = z - level * guided(z / (1 + level**2).sqrt(), 101.0)
    return ours(SJC(guidance_scale=101.0, **AT)), -(denoised - x) / level / 2


@row("HiFA", "gradient of both terms, with threestudio's weights", "stable_diffusion_guidance.py, use_img_loss")
def _() -> Pair:
    x, noise, x_t, alpha, sigma = noised()
    prior = model()[1]
    eps = guided(x_t, 101.0)
    latents = x.clone().requires_grad_()
    picture = prior.decode(latents)
    with torch.no_grad():
        estimate = prior.decode((x_t - sigma * eps) / alpha)
        change = sigma**2 * (picture - estimate) * alpha / sigma
    (0.5 * (picture - (picture - change).detach()).square().sum() / 2 * 10.0).backward()
    assert latents.grad is not None
    return ours(HiFA(101.0, 10.0, T, T, weighting="sigma2")), sigma**2 * (eps - noise) / 2 + latents.grad


@row("SDI", "gradient for a given noise: x - x0_hat over the number of values", "stable_diffusion_sdi_guidance.py, loss_sdi")
def _() -> Pair:
    x, _, x_t, alpha, sigma = noised()
    denoised = (x_t - sigma * guided(x_t, 7.5)) / alpha
    loss = SDI(inversion_steps=0, **AT)
    return ours(loss), (x - denoised) / x[0].numel() / 2


@row("ISM", "gradient, with the inversion's times", "LucidDreamer, sd_utils.py: train_step, add_noise_with_cfg; from t = 0.02")
def _() -> Pair:
    x, cond = situation()
    times = [0.02, 0.2, 0.4, 0.5, T]  # multiples of 0.2 up to s = 0.5, then t
    steps = [round(t * 999) for t in times]
    z, eps = x, x
    for now, after in itertools.pairwise(steps):
        (a, s), (a_next, s_next) = levels(now), levels(after)
        eps = unet(z, now, cond.negative_prompt_embeds)
        z = a_next * (z - s * eps) / a + s_next * eps
    alpha, sigma = levels(STEP)
    return ours(ISM(7.5, T - 0.5, 0.2, T, T)), (sigma / alpha) * (guided(z, 7.5) - eps) / 2


@row("CSD", "gradient", "Yu et al. 2023, eq. 7")
def _() -> Pair:
    _, _, x_t, _, sigma = noised()
    return ours(CSD(scale=2.0, **AT)), sigma**2 * 2.0 * (guided(x_t, 1.0) - guided(x_t, 0.0)) / 2


@row("NFSD", "gradient above t = 0.2, with a negative prompt", "Katzir et al. 2023, section 4")
def _() -> Pair:
    _, cond = situation()
    _, _, x_t, _, sigma = noised()
    empty = torch.randn(2, 5, 16, generator=rng(5))
    told = replace(cond, empty_prompt_embeds=empty)
    plain = unet(x_t, STEP, empty)
    wanted, unwanted = unet(x_t, STEP, cond.prompt_embeds), unet(x_t, STEP, cond.negative_prompt_embeds)
    return ours(NFSD(7.5, **AT), cond=told), sigma**2 * (plain - unwanted + 7.5 * (wanted - plain)) / 2


@row("NFSD", "gradient below t = 0.2", "Katzir et al. 2023, section 4")
def _() -> Pair:
    x, cond = situation()
    generator, step = rng(), round(0.1 * 999)
    torch.rand(2, generator=generator)
    (alpha, sigma), noise = levels(step), torch.randn(x.shape, generator=generator)
    x_t = alpha * x + sigma * noise
    plain, wanted = unet(x_t, step, cond.negative_prompt_embeds), unet(x_t, step, cond.prompt_embeds)
    return ours(NFSD(7.5, t_min=0.1, t_max=0.1)), sigma**2 * (plain + 7.5 * (wanted - plain)) / 2


@row(
    "SDI",
    "gradient with the noise by inversion alone",
    "Lukoianov et al. 2024, algorithm 1; equal steps from t = 0.02",
)
def _() -> Pair:
    x, _ = situation()
    steps = [round(999 * (0.02 + (T - 0.02) * k / 3)) for k in range(4)]
    z = x
    for now, after in itertools.pairwise(steps):
        (a, s), (a_next, s_next) = levels(now), levels(after)
        eps = guided(z, -7.5, now)
        z = a_next * (z - s * eps) / a + s_next * eps
    alpha, sigma = levels(STEP)
    denoised = (z - sigma * guided(z, 7.5)) / alpha
    return ours(SDI(inversion_steps=5, eta=0.0, **AT)), (x - denoised) / x[0].numel() / 2


@row(
    "DreamGaussian's refinement",
    "gradient of the pictures, 3 of 5 sampler steps",
    "main2.py: F.mse_loss(images, refined), as a sum",
)
def _() -> Pair:
    _, _, x_t, _, _ = noised()
    prior, (x, cond) = model()[1], situation()
    z = x_t
    for now, after in ((T, 0.4), (0.4, 0.2), (0.2, 0.0)):
        (a, s), (a_next, s_next) = levels(round(now * 999)), levels(round(after * 999))
        eps = guided(z, 3.0, round(now * 999))
        z = a_next * (z - s * eps) / a + s_next * eps
    picture = torch.rand(2, 16, 16, 3, generator=rng(7)).requires_grad_()
    Refine(3.0, T, T, steps=5)(prior, x, replace(cond, shown=picture), 0.0, rng(), None).loss.backward()
    assert picture.grad is not None
    return picture.grad, (picture.detach() - prior.decode(z)) / 2


@row(
    "CFD", "gradient with the field's noise, w = sigma / alpha", "ConsistentFlowDistillation (2025), half of its sum of squares"
)
def _() -> Pair:
    _, noise, x_t, sigma, alpha, got = _consistent(CFD(71.0, T, T, gamma=0.0))
    return got, sigma / alpha * (guided(x_t, 71.0) - noise) / 2


@row(
    "CFD, first release",
    "gradient over the mean of its absolute values",
    "ConsistentFlowDistillation (July 2024), weighting dmd",
)
def _() -> Pair:
    x, _, x_t, sigma, alpha, got = _consistent(CFD(71.0, T, T, gamma=0.0, normalize=True))
    error = x - (x_t - sigma * guided(x_t, 71.0)) / alpha
    return got, error / error.abs().mean((1, 2, 3), keepdim=True) / 2


def _consistent(loss: CFD) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, the noise of an empty picture, x_t, sigma, alpha, and the gradient."""
    x, cond = situation()
    state = loss.init(model()[1], rng(2))
    alpha, sigma = levels(STEP)
    noise = state.backdrop.clone().expand_as(x)
    got = ours(loss, state, cond=replace(cond, render=_render(torch.zeros(2, 32, 32, 1))))
    return x, noise, alpha * x + sigma * noise, sigma, alpha, got


def _render(opacity: Tensor) -> Any:
    from dreamlift.types import RenderOutput

    return RenderOutput(torch.zeros(*opacity.shape[:3], 3), opacity, torch.zeros_like(opacity), None)


@row("MVDream", "gradient of the x0 loss with rescale 0.5", "MVDream-threestudio, multiview_diffusion_guidance.py, recon_loss")
def _() -> Pair:
    x, _, x_t, alpha, sigma = noised()
    full, plain = ((x_t - sigma * guided(x_t, s)) / alpha for s in (50.0, 1.0))
    mixed = 0.5 * full * plain.std() / full.std() + 0.5 * full  # one object's views share a standard deviation
    return ours(Reconstruction(50.0, 0.5, T, T)), (x - mixed) / 2


@cache
def learned() -> tuple[VSD, Any, Any]:
    """VSD with a LoRA that has learnt something, and the same network with formed weights and diffusers' camera embedding."""
    from diffusers.models.embeddings import TimestepEmbedding

    pipe, prior = model()
    loss = VSD(7.5, T, T, camera_input="matrix", lora_target="v", camera_dropout=0.0)
    state = loss.init(prior, rng(4))
    network = state.network
    for value in network.lora.up.values():
        value.data = 0.3 * torch.randn(value.shape, generator=rng(6))
    twin = copy.deepcopy(pipe.unet)
    weights = dict(twin.named_parameters())
    for key in network.lora.down:
        weight = weights[key.replace("/", ".")]
        weight.data += (network.lora.up[key] @ network.lora.down[key]).view(weight.shape)
    width = twin.time_embedding.linear_2.out_features
    twin.class_embedding = embedding = TimestepEmbedding(16, width)
    first, _, second = network.camera
    for to, of in ((embedding.linear_1, first), (embedding.linear_2, second)):
        to.load_state_dict(of.state_dict())
    return loss, state, twin


@row("VSD", "gradient, with the 4 x 4 camera through an MLP", "stable_diffusion_vsd_guidance.py, compute_grad_vsd")
def _() -> Pair:
    _, _, x_t, _, sigma = noised()
    loss, state, twin = learned()
    cond = situation()[1]
    assert cond.cameras is not None
    with torch.no_grad():
        camera = cond.cameras.c2w.reshape(2, 16)
        phi = twin(x_t, torch.tensor([STEP] * 2), encoder_hidden_states=cond.prompt_embeds, class_labels=camera).sample
    return ours(loss, state), sigma**2 * (guided(x_t, 7.5) - phi) / 2


@row("VSD", "the LoRA's loss in v", "stable_diffusion_vsd_guidance.py, train_lora; v of an eps network")
def _() -> Pair:
    pipe, prior = model()
    loss, state, twin = learned()
    x, cond = situation()
    generator = rng(8)
    steps = (torch.rand(2, generator=generator) * 999).round().long()
    noise = torch.randn(x.shape, generator=generator)
    x_t = pipe.scheduler.add_noise(x, noise, steps)
    abar = pipe.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    assert cond.cameras is not None
    with torch.no_grad():
        camera = cond.cameras.c2w.reshape(2, 16)
        phi = twin(x_t, steps, encoder_hidden_states=cond.prompt_embeds, class_labels=camera).sample
    v = (phi - (1 - abar).sqrt() * x_t) / abar.sqrt()
    theirs = (v - pipe.scheduler.get_velocity(x, noise, steps)).square().mean()
    return loss.lora_loss(prior, x, cond, rng(8), state), theirs


@row("VSD", "initial A of the LoRA: mean, deviation, kurtosis", "diffusers < 0.20, LoRALinearLayer: N(0, 1 / rank)", 0.03)
def _() -> Pair:
    torch.manual_seed(0)
    lora = LoRA(torch.nn.Linear(20_000, 64), 4, "all", rng())
    (values,) = (value.flatten() for value in lora.down.values())
    fourth = (values / values.std()).pow(4).mean()
    return torch.stack([values.mean(), values.std(), fourth]), torch.tensor([0.0, 0.25, 3.0])


# by the angle from the front, degrees: the weights of "front view" and "side view"
CORNERS = {0: (0.0, -1.574), 45: (-0.689, -0.689), 90: (-1.574, 0.0), 135: (-1.7458, -0.1728), 180: (-1.967, -0.394)}


@row("Perp-Neg", "weights of front and side at 0, 45, 90, 135, 180 degrees", "prompt_processors/base.py, worked by hand", 1e-3)
def _() -> Pair:
    wording = FourViews(perp_neg=1.0)
    got = [list(wording.opposites(math.radians(azimuth), 0.1).values()) for azimuth in CORNERS]
    return torch.tensor(got), torch.tensor(list(CORNERS.values()))


@row("Perp-Neg", "combination of the predictions", "prompt_processors/base.py and utils/ops.py, perpendicular_component")
def _() -> Pair:
    plain, told, *others = torch.randn(4, 2, 4, 8, 8, generator=rng(9))
    weights = torch.tensor([[-1.5, -0.2], [-0.4, -2.0]])
    total = torch.zeros_like(plain)
    for n in range(2):
        along = told[n] - plain[n]
        for k, other in enumerate(others):
            away = other[n] - plain[n]
            share = sum((away * along).flatten().tolist()) / sum((along * along).flatten().tolist())
            total[n] += weights[n, k] * (away - share * along)
    got = perp_neg(plain, told, torch.stack(others, 1), weights, 7.5)
    return got, plain + 7.5 * (told - plain + total)


@row("view words", "the phrase of 3,600 cameras at thresholds 30, 30, 60 degrees", "prompt_processors/base.py, DirectionConfig")
def _() -> Pair:
    wording, names = FourViews(30.0, 30.0, 60.0), ["front view", "side view", "back view", "overhead view"]
    ours, theirs = [], []
    for azimuth, elevation in itertools.product(range(0, 720, 2), range(-10, 90, 10)):
        turned = (azimuth + 0.5 + 180) % 360 - 180
        found = 0 if abs(turned) < 30 else 2 if abs(turned) > 150 else 1
        theirs.append(3 if elevation + 0.5 > 60 else found)
        (said,) = wording.weights(math.radians(azimuth + 0.5), math.radians(elevation + 0.5))
        ours.append(names.index(said))
    return torch.tensor(ours), torch.tensor(theirs)


@cache
def mesh() -> tuple[Tensor, Tensor, Tensor]:
    """A closed mesh without regularity: vertices, faces and edges of a distorted icosphere."""
    import trimesh

    ball = trimesh.creation.icosphere(2)
    vertices = torch.tensor(ball.vertices, dtype=torch.float32)
    vertices = vertices + 0.05 * torch.randn(vertices.shape, generator=rng(1))
    return vertices, torch.tensor(ball.faces).long(), torch.tensor(ball.edges_unique).long()


def gradient(term: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_()
    term(at).backward()
    assert at.grad is not None
    return at.grad


@row("Laplacian", "value", "models/mesh.py, laplacian: L v with L from the sparse adjacency")
def _() -> Pair:
    vertices, _, edges = mesh()
    return surface.laplacian(vertices, edges), (_sparse(edges, len(vertices)) @ vertices).norm(dim=1).mean()


@row("Laplacian", "gradient", "models/mesh.py, laplacian")
def _() -> Pair:
    vertices, _, edges = mesh()
    matrix = _sparse(edges, len(vertices))
    return gradient(lambda v: surface.laplacian(v, edges), vertices), gradient(
        lambda v: (matrix @ v).norm(dim=1).mean(), vertices
    )


@row("normal consistency", "value, of vertex normals", "models/mesh.py, normal_consistency")
def _() -> Pair:
    vertices, faces, edges = mesh()
    normals = torch.zeros_like(vertices)
    for a, b, c in faces.tolist():
        normals[[a, b, c]] += torch.linalg.cross(vertices[b] - vertices[a], vertices[c] - vertices[a])
    cosines = torch.nn.functional.cosine_similarity(normals[edges[:, 0]], normals[edges[:, 1]])
    return surface.vertex_consistency(vertices, faces, edges), (1 - cosines).mean()


def _sparse(edges: Tensor, count: int) -> Tensor:
    both = torch.cat([edges, edges.flip(1)]).T
    ones = torch.ones(both.shape[1])
    places = torch.cat([both, both[:1].expand(2, -1)], 1)
    return torch.sparse_coo_tensor(places, torch.cat([-ones, ones]), (count, count)).coalesce().to_dense()


@cache
def marched() -> tuple[Tensor, RaySamples, Tensor, Tensor, Tensor]:
    """Weights of 40 rays with 12 samples each, some rays faint; samples, offsets, normals, directions of the samples."""
    generator = rng(21)
    weights = torch.rand(40, 12, generator=generator)
    weights = weights / weights.sum(1, keepdim=True) * torch.linspace(0.05, 1.0, 40)[:, None]
    starts = torch.linspace(1.0, 2.0, 13)[:-1].expand(40, 12)
    samples = RaySamples(torch.arange(40).repeat_interleave(12), starts.flatten(), (starts + 1 / 12).flatten())
    normals, directions = torch.nn.functional.normalize(torch.randn(2, 480, 3, generator=generator), dim=-1)
    return weights, samples, torch.arange(41) * 12, normals, directions


@row("z-variance", "value over the rays of opacity above 0.5", "nerf_volume_renderer.py, z_variance; systems/dreamfusion.py")
def _() -> Pair:
    weights, samples, offsets, _, _ = marched()
    middles = (0.5 * (samples.starts + samples.ends)).view(40, 12)
    found = []
    for ray in range(40):
        opacity = float(weights[ray].sum())
        if opacity > 0.5:
            share = weights[ray] / opacity
            found.append((share * (middles[ray] - (share * middles[ray]).sum()) ** 2).sum())
    return depth_variance(weights.flatten(), samples, offsets), torch.stack(found).mean()


@row("emptiness", "value", "systems/sjc.py, loss_emptiness")
def _() -> Pair:
    weights = marched()[0]
    theirs = torch.tensor([math.log(1 + 10 * w) for w in weights.flatten().tolist()]).mean()
    return emptiness(weights.flatten(), weights.numel()), theirs


@row("orientation", "value, over the rays of opacity above 0", "systems/dreamfusion.py, loss_orient")
def _() -> Pair:
    weights, samples, offsets, normals, directions = marched()
    weights = weights * (torch.arange(40) % 4 > 0)[:, None]  # a quarter of the rays meet nothing
    scene = Nerf(field=Hashgrid(levels=2, log2_rows=6)).build(rng())
    aux = {"weights": weights.flatten(), "ray_indices": samples.ray_indices, "starts": samples.starts, "ends": samples.ends,
           "offsets": offsets, "normals": normals, "directions": directions.view(40, 12, 3)[:, 0]}  # fmt: skip
    render = replace(_render(weights.sum(1).view(1, 5, 8, 1)), aux=aux)
    total = 0.0
    for ray, sample in itertools.product(range(40), range(12)):
        total += float(weights[ray, sample]) * max(0.0, float(normals[12 * ray + sample] @ directions[12 * ray])) ** 2
    return scene.regularize(render, 0.0, ("orientation",))["orientation"], torch.tensor(total / 30)


@row("distortion", "value", "Barron et al. 2022, eq. 15, the double sum")
def _() -> Pair:
    weights, samples, offsets, _, _ = marched()
    middles, lengths = (0.5 * (samples.starts + samples.ends)).view(40, 12), (samples.ends - samples.starts).view(40, 12)
    total = 0.0
    for w, m, d in zip(weights.tolist(), middles.tolist(), lengths.tolist(), strict=True):
        total += sum(w[i] * w[j] * abs(m[i] - m[j]) for i in range(12) for j in range(12))
        total += sum(w[i] ** 2 * d[i] for i in range(12)) / 3
    return distortion(weights.flatten(), samples, offsets), torch.tensor(total / 40)


@row("sparsity, opaque", "values", "systems/dreamfusion.py, loss_sparsity, loss_opaque")
def _() -> Pair:
    opacity = torch.linspace(0, 1, 101)
    inside = opacity.clamp(1e-3, 1 - 1e-3)
    entropy = torch.nn.functional.binary_cross_entropy(inside, inside)
    return torch.stack([sparsity(opacity), opaque(opacity)]), torch.stack([(opacity**2 + 0.01).sqrt().mean(), entropy])


def _optimized(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]) -> Tensor:
    """Thirty steps on a rough function."""
    generator = rng(31)
    value = torch.randn(50, generator=generator).requires_grad_()
    scale = torch.rand(50, generator=generator)
    optimizer = make([{"params": [value], "lr": 0.05}])
    for _ in range(30):
        optimizer.zero_grad()
        (scale * value.sin() + 0.1 * value**2).sum().backward()
        optimizer.step()
    return value.detach()


@row("AdamW", "30 steps, decay 0.01", "torch.optim.AdamW")
def _() -> Pair:
    settings = Adam(variant="adamw")
    return _optimized(lambda groups: optimizer_of(settings, groups)), _optimized(
        lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.01, foreach=False)
    )


@row("Adamax", "30 steps", "torch.optim.Adamax")
def _() -> Pair:
    settings = Adam(variant="adamax", beta2=0.999, eps=1e-8)
    return _optimized(lambda groups: optimizer_of(settings, groups)), _optimized(torch.optim.Adamax)


@row("schedules", "C() of [0, 10, 1000, 5000] over 10,000 steps", "utils/misc.py, C")
def _() -> Pair:
    steps = [0, 100, 2500, 4999, 5000, 9999]
    theirs = [10 + (1000 - 10) * max(min(1.0, step / 5000), 0.0) for step in steps]
    return torch.tensor([value_at(Linear(10.0, 1000.0, 0.0, 0.5), s / 10_000) for s in steps]), torch.tensor(theirs)


@row("schedules", "t of sqrt_anneal", "stable_diffusion_guidance.py, update_step")
def _() -> Pair:
    steps = torch.tensor([0.0, 10.0, 2500.0, 20_000.0, 25_000.0])
    theirs = (0.98 - 0.3) * (1 - (steps / 25_000) ** 0.5) + 0.3
    return torch.tensor([value_at(Sqrt(0.98, 0.3), float(s) / 25_000) for s in steps]), theirs


@row("schedules", "Latent-NeRF's learning rate: warm-up, decay", "torch's SequentialLR of LinearLR and ExponentialLR")
def _() -> Pair:
    from torch.optim.lr_scheduler import ExponentialLR, LinearLR, SequentialLR

    total = 2000
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    decay = ExponentialLR(optimizer, 0.1 ** (1 / (total - 20)))
    both = SequentialLR(optimizer, [LinearLR(optimizer, 0.1, 1.0, 20), decay], [20])
    theirs = []
    for _ in range(total):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    schedule = Exponential(1.0, 0.1, 0.01, 1.0, warm_up=0.1)
    return torch.tensor([schedule(step / total) for step in range(total)]), torch.tensor(theirs)


@row("hash grid", "active levels of 10,000 steps", "models/networks.py, ProgressiveBandHashGrid: start 8 at 2,000, every 500")
def _() -> Pair:
    field = Hashgrid(log2_rows=4, start_levels=8).build(1.0, rng())
    got, steps = [], range(0, 10_000, 125)
    for step in steps:
        field.advance(step / 10_000)
        got.append(int(field.active))
    return torch.tensor(got), torch.tensor([min(16, 8 + max(step - 2000, 0) // 500) for step in steps])


@row("normal smoothness", "value of the picture's", "systems/zero123.py, loss_normal_smooth")
def _() -> Pair:
    sums = torch.randn(2, 5, 6, 3, generator=rng(51)) * torch.rand(2, 5, 6, 1, generator=rng(52))
    opacity = torch.rand(2, 5, 6, 1, generator=rng(53))
    normal = (torch.nn.functional.normalize(sums, dim=-1) + 1.0) / 2.0 * opacity  # comp_normal
    theirs = (normal[:, 1:, :, :] - normal[:, :-1, :, :]).square().mean()
    theirs = theirs + (normal[:, :, 1:, :] - normal[:, :, :-1, :]).square().mean()
    return normal_smooth(sums, opacity), theirs


@row("normal smoothness", "value of the samples'", "systems/zero123.py, loss_3d_normal_smooth")
def _() -> Pair:
    normals, moved = (torch.randn(40, 3, generator=rng(seed)) for seed in (54, 55))
    return normal_change(normals, moved), (normals - moved).abs().mean()


@row("photometric", "gradient of rgb and mask in a render", "systems/zero123.py, the reference's substep")
def _() -> Pair:
    shape, generator = (1, 6, 6), rng(56)
    rgb, opacity = torch.rand(*shape, 3, generator=generator), torch.rand(*shape, 1, generator=generator)
    photo, mask = torch.rand(*shape, 3, generator=generator), (torch.rand(*shape, 1, generator=generator) > 0.5).float()
    found = []
    for ours in (True, False):
        shown, covered = (values.clone().requires_grad_() for values in (rgb, opacity))
        if ours:
            settings = Photometric(rgb=500.0, mask=50.0, backdrop="white")
            render = RenderOutput(shown, covered, covered, None)
            cameras = orbit_cameras(*torch.ones(4, 1), 6)
            pictures = Pictures(photo, mask, cameras)
            loss = sum(compare(render, settings.behind(cameras, generator), pictures, settings, 0.0).values())
        else:
            wanted = photo * mask + torch.ones(3) * (1 - mask)
            loss = 500.0 * torch.nn.functional.mse_loss(wanted, shown) + 50.0 * torch.nn.functional.mse_loss(mask, covered)
        assert isinstance(loss, Tensor)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [shown, covered])]))
    return found[0], found[1]


@row("photometric", "gradient of the mask's cross-entropy in the opacity", "systems/magic123.py, loss_mask")
def _() -> Pair:
    generator = rng(61)
    opacity = torch.rand(2, 6, 6, 1, generator=generator) * 1.2 - 0.1  # some are below 1e-5 or above 1 - 1e-5
    mask = (torch.rand(2, 6, 6, 1, generator=generator) > 0.5).float()
    found = []
    for ours in (True, False):
        covered = opacity.clone().requires_grad_()
        if ours:
            settings = PRESETS["magic123"].stages[0].photometric
            render = RenderOutput(torch.ones(2, 6, 6, 3), covered, covered, None)
            pictures = Pictures(torch.ones(2, 6, 6, 3), mask, orbit_cameras(*torch.ones(4, 2), 6))
            loss = compare(render, torch.ones(2, 3), pictures, settings, 0.0)["photo_mask"]
        else:
            a = covered.clamp(1.0e-5, 1.0 - 1.0e-5)
            loss = -100.0 * (mask * a.log() + (1 - mask) * (1 - a).log()).mean()
        found.append(torch.cat([loss.reshape(1), *(g.flatten() for g in torch.autograd.grad(loss, [covered]))]))
    return found[0], found[1]


@row("photometric", "1 - Pearson's r of the depths", "stable-dreamfusion, nerf/utils.py, lambda_depth (torchmetrics)")
def _() -> Pair:
    a, b = (torch.randn(80, generator=rng(seed)) for seed in (57, 58))
    x, y = a - a.mean(), b - b.mean()
    return 1 - pearson(a, b), 1 - (x * y).mean() / (x.square().mean() * y.square().mean()).sqrt()


@row("angle weight", "factors of 40 random views", "stable-dreamfusion, guidance/zero123_utils.py, angle_between")
def _() -> Pair:
    azimuth, elevation = (torch.rand(41, generator=rng(59)) * 2 - 1) * math.pi, torch.rand(41, generator=rng(60)) * 2 - 0.7
    cameras = orbit_cameras(azimuth, elevation, torch.full((41,), 3.2), torch.ones(41), 8)
    polar = math.pi / 2 - elevation
    vectors = torch.stack([polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos()], dim=-1)
    theirs = torch.rad2deg(torch.arccos((vectors[:40] @ vectors[40]).clip(-1.0, 1.0))) / 180
    scale = angle_scale(1.0, cameras[:40], cameras[40:])
    assert scale is not None
    return scale, theirs


@row("cameras", "elevations about photos at -60 to 70 degrees", "dreamgaussian, main.py, min_ver and max_ver of image.yaml")
def _() -> Pair:
    got, theirs = [], []
    for elevation in (-60.0, -20.0, 0.0, 40.0, 70.0):
        photo = orbit_cameras(torch.zeros(1), torch.tensor([math.radians(elevation)]), torch.ones(1) * 2, torch.ones(1), 8)
        sampler = PRESETS["dreamgaussian-image"].stages[0].cameras
        got += sampler.ranges(0.0, photo)[1]
        low, high = max(min(-30, -30 - elevation), -80 - elevation), min(max(30, 30 - elevation), 80 - elevation)
        theirs += [elevation + low, elevation + high]
    return torch.tensor(got), torch.tensor(theirs)


def _c(value: float | list[float], step: int) -> float:
    """threestudio's ``C`` of a list with steps."""
    if isinstance(value, float):
        return value
    if len(value) >= 6:
        select = 3
        for i in range(3, len(value) - 2, 2):
            if step >= value[i]:
                select = i + 2
        start, begin = (value[1], value[0]) if select == 3 else (value[select - 3], value[select - 2])
        value = [begin, start, value[select - 1], value[select]]
    begin, start, end, last = value
    return start + (end - start) * max(min(1.0, (step - begin) / (last - begin)), 0.0)


# Copied from threestudio's configs: lambda_sds, rgb, mask, normal_smooth, 3d_normal_smooth, orient, sparsity, opaque, then
# min_step_percent, max_step_percent.
ROWS_OF_ZERO123: dict[str, list[float | list[float]]] = {
    "zero123": [0.1, 500.0, 50.0, 8.0, 8.0, 1.0, 0.1, 0.1, [0, 0.4, 0.2, 200], [0, 0.85, 0.5, 200]],
    "stable-zero123": [
        0.1, [100, 500.0, 1000.0, 400], 50.0, [100, 7.0, 5.0, 150, 10.0, 200], [100, 7.0, 5.0, 150, 10.0, 200], 1.0, 0.5, 0.5,
        [50, 0.7, 0.3, 200], [50, 0.98, 0.8, 200],
    ],
}  # fmt: skip


def _preset_row(name: str) -> Pair:
    stage = PRESETS[name].stages[0]
    teacher, weights, compared = stage.teachers[0], stage.weights, stage.photometric
    settings = [
        teacher.weight, compared.rgb, compared.mask, weights.normal_smooth, weights.normal_smooth_3d, weights.orientation,
        weights.sparsity, weights.opaque, teacher.guidance.t_min, teacher.guidance.t_max,
    ]  # fmt: skip
    steps = [0, 50, 77, 100, 125, 150, 175, 200, 300, 400, 599]
    got = [[value_at(value, step / 600) for value in settings] for step in steps]
    theirs = torch.tensor([[_c(value, step) for value in ROWS_OF_ZERO123[name]] for step in steps])
    return torch.tensor(got) / theirs.amax(0), theirs / theirs.amax(0)


@row("zero123", "weights and times of 600 steps", "configs/zero123.yaml")
def _() -> Pair:
    return _preset_row("zero123")


@row("stable-zero123", "weights and times of 600 steps", "configs/stable-zero123.yaml")
def _() -> Pair:
    return _preset_row("stable-zero123")


@row("zero123", "widths of the renders and of the photo at 600 steps", "configs/zero123.yaml, resolution_milestones [200, 300]")
def _() -> Pair:
    stage = PRESETS["zero123"].stages[0]
    pictures = Pictures(torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 1), orbit_cameras(*torch.ones(4, 1), 8))
    got, theirs = [], []
    for step in (0, 199, 200, 299, 300, 599):
        photo = chosen(pictures, stage.photometric, rng(), step / 600)[1]
        got.append([stage.cameras(step / 600, rng(), pictures.cameras).width, photo.width])
        place = (step >= 200) + (step >= 300)
        theirs.append([[64, 128, 256][place], [128, 256, 512][place]])
    return torch.tensor(got), torch.tensor(theirs)


@row("zero123", "normal consistency of the second stage's 200 steps", "configs/zero123-geometry.yaml, [50, 10000, 1000, 51]")
def _() -> Pair:
    weight = PRESETS["zero123"].stages[1].weights.vertex_consistency
    steps = [0, 49, 50, 51, 52, 199]
    return torch.tensor([value_at(weight, step / 200) for step in steps]), torch.tensor(
        [_c([50, 10_000.0, 1000.0, 51], step) for step in steps]
    )


# Of the two rows: lambda_rgb, mask, sd, 3d_sd, normal_smoothness_2d, normal_consistency, guidance scales and steps of t (each
# of words and of views), learning rates of the encoding and of the networks, widths of the random and of the known view.
ROWS_OF_MAGIC123 = (
    ("magic123-coarse-sd.yaml", [1000, 100, 0.025, 1, 1000, 0, 100, 5, 0.2, 0.6, 0.2, 0.6, 0.01, 0.001, 128, 128]),
    ("magic123-refine-sd.yaml", [1000, 100, 0.025, 1, 0, 1000, 100, 5, 0.2, 0.6, 0.2, 0.6, 0.001, 0.001, 512, 512]),
)


@row("magic123", "weights, times, learning rates and widths of both stages", "configs/magic123-{coarse,refine}-sd.yaml")
def _() -> Pair:
    got = []
    for stage in PRESETS["magic123"].stages:
        (views, words), weights, photo = stage.teachers, stage.weights, stage.photometric
        field = stage.scene.field if isinstance(stage.scene, Nerf) else stage.scene.color
        assert weights.ever() <= {"normal_smooth", "vertex_consistency"}
        assert not photo.regularize  # systems/magic123.py takes them from the random view
        got.append([
            photo.rgb, photo.mask, words.weight, views.weight, weights.normal_smooth, weights.vertex_consistency,
            words.guidance.guidance_scale, views.guidance.guidance_scale,
            *(value for each in (words, views) for value in (each.guidance.t_min, each.guidance.t_max)),
            field.lr, field.mlp_lr, *stage.cameras.resolution, *photo.resolution,
        ])  # fmt: skip
    theirs = torch.tensor([values for _, values in ROWS_OF_MAGIC123])
    return torch.tensor(got) / theirs.amax(0), theirs / theirs.amax(0)


@row("dreamgaussian-image", "time, rgb and mask of 500 steps", "dreamgaussian, main.py; guidance/zero123_utils.py", 3e-3)
def _() -> Pair:
    stage = PRESETS["dreamgaussian-image"].stages[0]
    guidance, compared = stage.teachers[0].guidance, stage.photometric
    steps = range(0, 500, 7)
    got = [[1000 * value_at(guidance.t_min, s / 500), value_at(compared.rgb, s / 500), value_at(compared.mask, s / 500)]
           for s in steps]  # fmt: skip
    theirs = []
    for step in (s + 1 for s in steps):  # counted from 1
        ratio = min(1, step / 500)
        theirs.append([min(max(round((1 - ratio) * 1000), 20), 980), 10_000 * ratio, 1000 * ratio])
    scales = torch.tensor([1000.0, 10_000.0, 1000.0])
    return torch.tensor(got) / scales, torch.tensor(theirs) / scales


def _quantiles(values: Tensor) -> Tensor:
    return torch.quantile(values, torch.linspace(0.05, 0.95, 19))


@row("cameras", "quantiles of the elevation, half uniform in angle, half in area", "data/uncond.py, collate", 0.03)
def _() -> Pair:
    sampler = CameraSampler(views=1, elevation_deg=(-10.0, 90.0), angle_share=0.5)
    generator = rng(41)
    got = torch.cat([sampler(0.0, generator).elevation for _ in range(12_000)])
    grid = torch.linspace(math.radians(-10.0), math.radians(90.0), 20_001)
    low, high = grid[0], grid[-1]
    below = 0.5 * (grid - low) / (high - low) + 0.5 * (grid.sin() - low.sin()) / (high.sin() - low.sin())
    theirs = grid[torch.searchsorted(below, torch.linspace(0.05, 0.95, 19).clamp(0, 1))]
    return _quantiles(got), theirs


@row("cameras", "deviations of position, center and up by the jitters", "data/uncond.py: camera_perturb, center_perturb", 0.04)
def _() -> Pair:
    shape: dict[str, Any] = {"views": 4000, "elevation_deg": (0.0, 0.0), "azimuth_deg": (0.0, 0.0), "distance": (2.0, 2.0)}
    moved = CameraSampler(**shape, position_jitter=0.1)(0.0, rng(42)).c2w[:, :3, 3] - torch.tensor([0.0, 0.0, 2.0])
    turned = CameraSampler(**shape, center_jitter=0.2)(0.0, rng(43)).c2w[:, :3, 2]
    center = turned[:, :2] / -turned[:, 2:] * 2.0 / (1 - 0.2**2 / 12)  # where the axis meets the plane z = 0, about N(0, 0.2)
    rolled = CameraSampler(**shape, up_jitter=0.02)(0.0, rng(44)).c2w[:, 0, 1]
    got = torch.stack([moved.std(), moved.abs().max(), center.std(), rolled.std()])
    return got, torch.tensor([0.1 / 3**0.5, 0.1, 0.2, 0.02])


@row("light", "quantiles of its angle to the camera and of its distance", "data/uncond.py, dreamfusion: 0.8 to 1.5", 0.04)
def _() -> Pair:
    position = torch.tensor([[0.0, 0.0, 1.8]])
    cameras = orbit_cameras(torch.zeros(20_000), torch.zeros(20_000), torch.full((20_000,), 1.8), torch.ones(20_000), 8)
    light = Lighting(1.0, 0.0, distance=(0.8, 1.5), placement="dreamfusion")(cameras, 1.0, rng(45))
    assert light is not None
    around = torch.nn.functional.normalize(position + torch.randn(20_000, 3, generator=rng(46)), dim=-1)
    angles = [
        _quantiles(torch.acos(v[:, 2].clamp(-1, 1))) for v in (light.light / light.light.norm(dim=1, keepdim=True), around)
    ]
    return torch.cat([angles[0], _quantiles(light.light.norm(dim=1))]), torch.cat(
        [angles[1], 0.8 + 0.7 * torch.linspace(0.05, 0.95, 19)]
    )


@row("light", "quantiles of its angle to the camera, uniform up to 60 degrees", "data/uncond.py, magic3d", 0.03)
def _() -> Pair:
    count = 20_000
    cameras = orbit_cameras(
        torch.full((count,), 0.7), torch.full((count,), 0.4), torch.full((count,), 1.8), torch.ones(count), 8
    )
    light = Lighting(1.0, 0.0, placement="magic3d")(cameras, 1.0, rng(47))
    assert light is not None
    axis = torch.nn.functional.normalize(cameras.c2w[:, :3, 3], dim=-1)
    angle = torch.acos((torch.nn.functional.normalize(light.light, dim=-1) * axis).sum(-1).clamp(-1, 1))
    return _quantiles(angle), math.pi / 3 * torch.linspace(0.05, 0.95, 19)


@row(
    "light",
    "the ambient share of soft shading: quantiles of 4,000 steps",
    "diffuse_with_point_light_material.py, soft_shading",
    0.03,
)
def _() -> Pair:
    cameras, generator = orbit_cameras(*torch.ones(4, 1), 8), rng(48)
    drawn = [Lighting(1.0, 0.0, soft=True)(cameras, 1.0, generator) for _ in range(4000)]
    return _quantiles(torch.tensor([each.ambient for each in drawn if each is not None])), torch.linspace(0.05, 0.95, 19)


@row("shading", "a lit and an unlit color outside [0, 1]", "diffuse_with_point_light_material.py; utils/ops.py, scale_-11_01")
def _() -> Pair:
    raw = torch.tensor([[3.0, -2.0, 0.4], [3.0, -2.0, 0.4]])
    color, normal = activate_color(raw, "linear"), torch.tensor([[0.0, 0.6, 0.8]] * 2)
    shading = Shading(torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([[0.0, 0.0, 2.0]] * 2), 0.1)
    got = shade(color, normal, torch.zeros(2, 3), torch.tensor([0, 1]), shading)
    lit = torch.tensor([1.0, 0.0, 0.7]) * (0.1 + 0.9 * 0.8)
    return got, torch.stack([lit, torch.tensor([2.0, -0.5, 0.7])])


NAMES = [f"{each.method}: {each.compared}" for each in ROWS]


@pytest.mark.parametrize("each", ROWS, ids=NAMES)
def test_it_conforms(each: Row):
    assert each.error() <= each.tolerance


def test_the_document_has_every_row():
    """All but the errors reached, which depend on the machine; these are within the tolerance."""
    lines = [line.split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ") and "---" not in line]
    rows = {tuple(cells[:4]): float(cells[4].strip(" |")) for cells in lines[1:]}
    assert list(rows) == [cells_of(each) for each in ROWS]
    assert all(reached <= each.tolerance for each, reached in zip(ROWS, rows.values(), strict=True))


def test_the_document_has_every_presets_differences():
    assert differences() in DOCUMENT.read_text(), "python tests/test_conformance.py writes it"


def cells_of(each: Row) -> tuple[str, ...]:
    return f"| {each.method}", each.compared, each.reference, f"{each.tolerance:g}"


def differences() -> str:
    """What each preset's docstring states: its row, and where it differs on purpose."""
    found = []
    for path in (path for room in PAPERS for path in sorted(room.glob("*.py"))):
        body = ast.parse(path.read_text()).body
        names = {}
        for node in ast.walk(ast.Module(body, [])):
            if isinstance(node, ast.Dict):
                for key, call in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(call, ast.Call) and isinstance(call.args[0], ast.Name):
                        names[call.args[0].id] = key.value
        for node, text in itertools.pairwise(body):
            if isinstance(node, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                target = node.targets[0]
                assert isinstance(target, ast.Name)
                found.append(f"**{names[target.id]}**: {' '.join(str(text.value.value).split())}")
    return "\n\n".join(found)


HEAD = """# Conformance

Losses, regularisers and samplers are compared with the formulas of their papers or of the repositories whose settings the
presets follow, written out a second time in `tests/test_conformance.py`. The network is a small random U-Net in float32.
"Reached" is the largest difference relative to the reference's largest value, by `python tests/test_conformance.py`, which
writes this page. File names without a repository are threestudio's (December 2024). Rows with a tolerance above 1e-3 compare
random samples, or numbers rounded by hand. RFDS, the full diffusion loss, the noise field of CFD, densification and voxel
grids have tests of their own, in closed form, and no row here.

| method | what is compared | reference | tolerance | reached |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    lines = [" | ".join([*cells_of(each), f"{each.error():.1e} |"]) for each in ROWS]
    tail = "\n\n## Rows that the presets follow, and what differs on purpose\n\n"
    DOCUMENT.write_text(HEAD + "\n".join(lines) + tail + differences() + "\n")
    print(DOCUMENT.read_text()[: -len(differences())])
