"""The frozen denoising U-Net of a diffusers folder and its noise schedule, shared by pixel and latent priors.

The network's prediction is converted to eps here: for v-prediction (Salimans & Ho 2022,
https://arxiv.org/abs/2202.00512) eps = alpha v + sigma x_t, for sample prediction eps = (x_t - alpha x0) / sigma.
"""

from __future__ import annotations

import warnings
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from dreamlift.priors.base import Adapted, Prior, combine, stack_text
from dreamlift.priors.engine import (
    Engine,
    EngineError,
    OnnxNetwork,
    UsedEngine,
    available,
    call_network,
    find_graph,
    graph_key,
    ready_session,
    trace,
    traced_graph,
    unpack,
    weights_of,
)
from dreamlift.priors.files.folder import weight_files
from dreamlift.priors.lora.lora import CameraInput, LoRA, Targets
from dreamlift.priors.lora.lora_files import merge_loras
from dreamlift.priors.parts import FolderParts, Parts
from dreamlift.priors.saving import Memory, in_turn, save_memory
from dreamlift.types import Cameras, Conditioning, LoraFile

# "auto" leaves larger networks to torch. On two cores, ONNX Runtime is twice as fast for 25 MB of weights; for the 3.4 GB of
# Stable Diffusion 1.5 it is as fast as torch, and takes four times the memory (BENCHMARKS.md).
AUTO_BYTES = 400_000_000
CAMERA_FEATURES = 8  # a network with this ``time_cond_proj_dim`` is camera-conditioned
POSE_FEATURES = 11  # ``time_cond_proj_dim`` of toybox-view
MAX_SIZE = 1024  # latents or pixels a side; the largest published network has 128
PREDICTIONS = ("epsilon", "v_prediction", "sample")
NO_REFERENCE = "this prior draws other sides of an object in a picture, and was given no picture: give --image FILE"


def camera_features(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """The camera input of a camera-conditioned U-Net, ``(B, 8)``, from azimuth and elevation ``(B,)`` in radians.

    It is passed as ``timestep_cond``, whose linear map without bias is added to the time embedding, as in MVDream (Shi et
    al. 2023, https://arxiv.org/abs/2308.16512, section 3.1). All zeros mean "no camera", equivalent to passing None.
    """
    harmonics = [f(k * azimuth) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
    return torch.stack([torch.ones_like(azimuth), *harmonics, torch.sin(elevation)], dim=-1)


def pose_features(azimuth: Tensor, reference: Tensor, target: Tensor, told: Tensor, place: Tensor) -> Tensor:
    """The camera input ``(B, 11)`` of a pixel network that is conditioned on a reference picture, as ``timestep_cond``.

    1; sin and cos of 1, 2 and 3 times the target's azimuth relative to the reference; the reference's elevation minus the
    target's; where ``told``, the sine of the reference's elevation and 1; 1 where ``place`` asks for places. Angles are
    radians, all arguments ``(B,)``. The unguided prediction has :func:`unguided_pose`.
    """
    harmonics = [f(k * azimuth) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
    told, place = told.to(azimuth), place.to(azimuth)
    return torch.stack(
        [torch.ones_like(azimuth), *harmonics, reference - target, told * torch.sin(reference), told, place], dim=-1
    )


def unguided_pose(pose: Tensor) -> Tensor:
    """The camera input ``(B, P)`` of the unguided prediction: zeros, apart from the last number, which asks for places."""
    blank = torch.zeros_like(pose)
    blank[:, -1] = pose[:, -1]
    return blank


def frozen(parts: Parts, name: str, kind: Any, dtype: torch.dtype, loras: tuple[LoraFile, ...] = ()) -> Any:
    """The network ``name`` of a model with frozen weights, into which the matching weights of ``loras`` are merged."""
    network = parts.network(name, kind, dtype)
    network = merge_loras(deepcopy(network) if loras and parts.shared else network, parts, name, loras)
    return network.eval().requires_grad_(False)


class DenoisingNetwork:
    """``unet`` and ``scheduler`` of a model. All calls are differentiable in x_t; no weight is trained.

    Args:
        camera_conditioning: pass cameras to a network with a camera input; False: only the prompt describes the view.
        unet: the network, if it has been loaded already.
        beside: channels of a reference picture that is concatenated to the noisy one (Zero-1-to-3); such a network's camera
            input is ``cond.pose``, if it has one.
    """

    def __init__(
        self, parts: Parts, device: torch.device, dtype: torch.dtype, camera_conditioning: bool = True,
        loras: tuple[LoraFile, ...] = (), unet: Any = None, beside: int = 0,
    ) -> None:  # fmt: skip
        self.parts, self.loras, self.memory = parts, loras, Memory()
        self.device, self.dtype = device, dtype
        self._unet: Any = None if unet is None else unet.to(device).eval().requires_grad_(False)
        self.config: dict[str, Any] = dict(parts.config("unet") if unet is None else unet.config)
        alphas_cumprod, self.prediction = parts.noise_schedule()
        self.alphas_cumprod = alphas_cumprod.to(device=device, dtype=torch.float32)
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"the scheduler of {parts} has prediction_type {self.prediction!r}; accepted: {', '.join(PREDICTIONS)}"
            )
        self.beside, width = beside, self.config.get("time_cond_proj_dim") or 0
        self.takes_cameras: bool = not beside and width == CAMERA_FEATURES
        self.camera_conditioning = camera_conditioning and self.takes_cameras
        self.camera_width: int = width if beside or self.takes_cameras else 0  # of the camera input; 0: there is none
        self.channels: int = self.config.get("in_channels", 4) - beside  # of the noisy picture
        self.sample_size: int = self.config.get("sample_size", 0)
        if not isinstance(self.sample_size, int) or not 1 <= self.sample_size <= MAX_SIZE:
            raise ValueError(f"the unet of {parts} has sample_size {self.sample_size!r}; accepted: 1 to {MAX_SIZE}")
        self.takes_sizes: bool = self.config.get("addition_embed_type") == "text_time"
        self.onnx: OnnxNetwork | None = None  # runs the calls without gradients; None: torch does
        self._known: list[tuple[int, int]] = []  # the module's weights when the session was made
        self.picture_size = self.sample_size  # pixels, an input of Stable Diffusion XL; set from the autoencoder

    @property
    def unet(self) -> Any:
        """The network as diffusers' module. It is read at the first use: ONNX Runtime needs only its weights."""
        if self._unet is None:
            from diffusers import UNet2DConditionModel

            unet = frozen(self.parts, "unet", UNet2DConditionModel, self.dtype, self.loras)
            self._unet = unet.to(self.device).eval().requires_grad_(False)
            save_memory(self._unet, self.memory)
        return self._unet

    def timestep(self, t: Tensor) -> Tensor:
        """Integer training timesteps ``(B,)`` of ``t (B,)`` in [0, 1]."""
        last = self.alphas_cumprod.shape[0] - 1
        return (t.to(self.device) * last).round().long().clamp(0, last)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma ``(B, 1, 1, 1)`` at the nearest training timestep."""
        abar = self.alphas_cumprod[self.timestep(t)].view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        """Guided eps_hat ``(B, C, h, w)``, in one call of the network for all prompts, or in several with ``micro_batch``.

        A camera-conditioned network receives ``cond.cameras``, if given, with every prompt except the negative one, so that
        guidance amplifies the view as it does the prompt. The reference picture is likewise zeros with the negative prompt,
        and so is the coarse picture.
        """
        text = stack_text(cond, guidance_scale)
        copies = text.states.shape[0] // x_t.shape[0]
        camera = self.camera(cond)
        blank = None if camera is None else unguided_pose(camera) if self.beside else torch.zeros_like(camera)
        told = _stacked(blank, camera, copies, guidance_scale)
        many, times = x_t.repeat(copies, 1, 1, 1), self.timestep(t).repeat(copies)
        if cond.coarse is not None:
            many = self.difference(many, times, _stacked(torch.zeros_like(cond.coarse), cond.coarse, copies, guidance_scale))
        given = many.to(self.dtype)
        if self.beside:
            reference = self.reference(cond)
            given = torch.cat([given, _stacked(torch.zeros_like(reference), reference, copies, guidance_scale)], dim=1)
        out = in_turn(self.ask, (given, times, told, *text), self.memory.micro_batch or None)
        return combine(self.to_noise(out, many, times), cond, guidance_scale)

    def difference(self, x_t: Tensor, steps: Tensor, coarse: Tensor) -> Tensor:
        """The noisy difference ``(B, C, h, w)`` of clean pictures to ``coarse`` ones, from the noisy pictures ``x_t``.

        alpha x0 + sigma eps - alpha coarse = alpha (x0 - coarse) + sigma eps: its noise is that of ``x_t``.
        """
        return x_t - self.alphas_cumprod[steps].sqrt().view(-1, 1, 1, 1) * coarse.to(x_t)

    def camera(self, cond: Conditioning) -> Tensor | None:
        """The network's camera input ``(B, P)``; None without one. Raises ValueError if a reference's pose is missing."""
        if self.beside and self.camera_width:
            if cond.pose is None:
                raise ValueError(NO_REFERENCE)
            return cond.pose.to(self.device, self.dtype)
        return self.features(cond.cameras) if self.camera_conditioning and cond.cameras is not None else None

    def reference(self, cond: Conditioning) -> Tensor:
        """The reference picture ``(B, C, h, w)`` that is concatenated to the noisy one. Raises ValueError if it is missing."""
        if cond.image_latents is None:
            raise ValueError(NO_REFERENCE)
        return cond.image_latents.to(self.device, self.dtype)

    def ask(self, x: Tensor, at: Tensor, camera: Tensor | None, states: Tensor, pooled: Tensor | None) -> Tensor:
        """One call of the network, ``(B, C, h, w)`` in float32, by ONNX Runtime where it is set and no gradient is needed."""
        inputs = self.inputs(x, at, camera, states, pooled)
        differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in inputs.values())
        if self.onnx is not None and not differentiated and self.onnx.fits(inputs):
            return self.onnx(inputs)
        return call_network(self.unet, **inputs).float()

    def inputs(
        self, x: Tensor, at: Tensor, camera: Tensor | None, states: Tensor, pooled: Tensor | None
    ) -> dict[str, Tensor]:  # fmt: skip
        """The network's tensors by the names of :func:`~dreamlift.priors.engine.call_network`."""
        found = {"sample": x, "timestep": at, **self.text_inputs(states, pooled)}
        if self.camera_width:
            found["camera"] = x.new_zeros(len(x), self.camera_width) if camera is None else camera
        return found

    def use_engine(self, engine: Engine) -> UsedEngine:
        """Let ``engine`` run the calls without gradients; returns the one that does.

        Raises:
            ValueError: "onnx" is wanted, but cannot run this network. "auto" then warns and leaves it to torch; it also leaves
                networks of more than :data:`AUTO_BYTES` to torch.
        """
        wanted = available(engine, self.device)
        if engine == "onnx" and self.memory.attention_slices:
            raise ValueError("ONNX Runtime does not slice attention: use --engine torch, or leave memory.attention_slices off")
        if engine == "auto" and wanted == "onnx" and self._bytes() > AUTO_BYTES:
            wanted = "torch"
        if wanted == "torch" or self.memory.attention_slices or self.dtype != torch.float32:
            self.onnx = None
        elif self.onnx is None or self._known != self._versions():
            self.onnx = None  # frees an older session first
            try:
                self.onnx = self._session()
                self._known = self._versions()
            except EngineError as error:
                if engine == "onnx":
                    raise ValueError(f"{error}; a run with --engine torch does without it") from error
                warnings.warn(f"torch runs the prior's network, at about half the speed: {error}", stacklevel=2)
        if self.onnx is None:
            _ = self.unet  # is read now
        return "torch" if self.onnx is None else "onnx"

    def _bytes(self) -> int:
        """The size of the network's weights."""
        if self._unet is None and isinstance(self.parts, FolderParts):
            return sum(file.stat().st_size for file in weight_files(self.parts.folder / "unet", self.dtype))
        return sum(weight.nbytes for weight in self.unet.parameters())

    def _versions(self) -> list[tuple[int, int]]:
        """What changes when a program changes the module's weights in place or replaces them; [] without a module."""
        weights = [] if self._unet is None else self._unet.parameters()
        return [(weight.data_ptr(), weight._version) for weight in weights]

    def _session(self) -> OnnxNetwork:
        """The network's session. diffusers is imported only if a graph has to be traced or weights have to be changed."""
        inputs = self.example()
        if not isinstance(self.parts, FolderParts):
            return OnnxNetwork(unpack(trace(self.unet, call_network, inputs)), weights_of(self.unet), inputs)
        if self._unet is None and not self.loras:
            session = ready_session(self.parts.folder / "unet", self.config, inputs)
            if session is not None:
                return session
        weights = weights_of(self.unet)
        key = graph_key(self.config, weights, inputs)
        return OnnxNetwork(find_graph(key) or traced_graph(key, self.unet, call_network, inputs), weights, inputs)

    def example(self) -> dict[str, Tensor]:
        """Inputs of two pictures with all values 0."""
        config, size = self.config, self.sample_size
        width = config.get("encoder_hid_dim") or config.get("cross_attention_dim", 1280)
        width = width if isinstance(width, int) else width[0]
        pooled = None
        if self.takes_sizes:
            pooled = torch.zeros(2, config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"])
        steps, states = torch.zeros(2, dtype=torch.long), torch.zeros(2, 4, width)
        return self.inputs(torch.zeros(2, self.channels + self.beside, size, size), steps, None, states, pooled)

    def save_memory(self, memory: Memory) -> None:
        """See :meth:`Prior.save_memory`."""
        self.memory = memory
        if memory.attention_slices:
            self.onnx = None
        if self._unet is not None:
            save_memory(self._unet, memory)

    def text_inputs(self, states: Tensor, pooled: Tensor | None) -> dict[str, Tensor]:
        """Text states ``(B, L, D)`` by the names of :func:`~dreamlift.priors.engine.call_network`; Stable Diffusion XL also
        receives the pooled ones ``(B, P)`` and the picture's size and crop."""
        found = {"states": states.to(self.device, self.dtype)}
        if self.takes_sizes:
            assert pooled is not None
            found |= {"pooled": pooled.to(found["states"]), "sizes": self.sizes(len(states))}
        return found

    def sizes(self, count: int) -> Tensor:
        """Stable Diffusion XL's input ``(B, 6)``: the picture's size, the crop's corner and the wanted size, in pixels."""
        side = self.picture_size
        sizes = torch.tensor([side, side, 0, 0, side, side]).to(self.device, self.dtype)
        return sizes.expand(count, -1)

    def features(self, cameras: Cameras) -> Tensor:
        """The network's camera input, ``(B, 8)``."""
        return camera_features(cameras.azimuth, cameras.elevation).to(self.device, self.dtype)

    def to_noise(self, out: Tensor, x_t: Tensor, steps: Tensor) -> Tensor:
        """eps_hat ``(B, C, h, w)`` from the network's output at integer ``steps (B,)``."""
        out = out[:, : self.channels]  # DeepFloyd IF's other channels predict a variance
        abar = self.alphas_cumprod[steps].view(-1, 1, 1, 1)
        if self.prediction == "v_prediction":
            return abar.sqrt() * out + (1 - abar).sqrt() * x_t
        if self.prediction == "sample":
            return (x_t - abar.sqrt() * out) / (1 - abar).sqrt().clamp_min(1e-6)
        return out


def _stacked(blank: Any, told: Any, copies: int, guidance_scale: float) -> Any:
    """What the network is told beside the texts of :func:`~dreamlift.priors.base.stack_text`, in their order."""
    if told is None or copies > 1:
        return None if told is None else torch.cat([blank, *[told] * (copies - 1)])
    return blank if guidance_scale == 0.0 else told


def camera_map(camera_input: CameraInput, width: int, rng: torch.Generator) -> nn.Module:
    """The trained map from a camera to the ``width`` values that are added to the time embedding."""
    if camera_input == "angles":
        linear = nn.Linear(CAMERA_FEATURES, width, bias=False)
        nn.init.zeros_(linear.weight)
        return linear
    layers = nn.Linear(16, width), nn.Linear(width, width)
    for layer in layers:  # torch's initialization of linear layers, drawn from rng
        bound = layer.in_features**-0.5
        for value in (layer.weight, layer.bias):
            value.data = (2.0 * torch.rand(value.shape, generator=rng) - 1.0) * bound
    return nn.Sequential(layers[0], nn.SiLU(), layers[1])


class AdaptedNetwork(Adapted):
    """A frozen network with a LoRA. Without camera conditioning a class embedding of the camera is added (ProlificDreamer).

    The class embedding is a trained map of the camera, added to the time embedding: see :data:`CameraInput`. A network that is
    conditioned on a reference picture keeps that picture and its pose, which is the camera already.
    """

    def __init__(
        self, base: DenoisingNetwork, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles"
    ) -> None:
        super().__init__()
        self.base, unet = base, base.unet
        knows_view = base.camera_conditioning or base.beside > 0
        self.camera_input: CameraInput = "angles" if knows_view else camera_input
        self.camera: nn.Module | None = None
        self.lora = LoRA(unet, rank, targets, rng)
        if not knows_view:
            self.camera = camera = camera_map(camera_input, unet.time_embedding.linear_2.out_features, rng).to(base.device)
            # A shallow copy that shares all layers and has one more.
            twin = copy(unet)
            twin._modules = dict(unet._modules)
            twin.class_embedding = camera
            self.lora.holder = (twin,)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        base, steps = self.base, self.base.timestep(t)
        if cond.coarse is not None:
            x_t = base.difference(x_t, steps, cond.coarse)
        x = x_t.to(base.dtype)
        if base.beside:
            told, x = base.camera(cond), torch.cat([x, base.reference(cond)], dim=1)
        elif cond.cameras is None:
            size = CAMERA_FEATURES if self.camera_input == "angles" else 16
            told = torch.zeros(x_t.shape[0], size, device=base.device, dtype=base.dtype)
        elif self.camera_input == "angles":
            told = base.features(cond.cameras)
        else:
            told = cond.cameras.c2w.flatten(1).to(base.device, base.dtype)

        def ask(x: Tensor, at: Tensor, camera: Any, states: Tensor, pooled: Tensor | None) -> Tensor:
            # Trained layers stay in float32, whatever the precision of the frozen layers.
            cameras = {"camera": camera} if self.camera is None else {"labels": camera.float()}
            return call_network(self.lora, x, at, **base.text_inputs(states, pooled), **cameras).float()

        batched = (x, steps, told, cond.prompt_embeds, cond.pooled_prompt_embeds)
        return base.to_noise(in_turn(ask, batched, base.memory.micro_batch or None), x_t, steps)


class NetworkPrior(Prior):
    """A prior whose predictions are those of one :class:`DenoisingNetwork`."""

    network: DenoisingNetwork

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.schedule(t)

    def predict_noise(self, x_t: Tensor, t: Tensor, cond: Conditioning, guidance_scale: float) -> Tensor:
        return self.network.predict_noise(x_t, t, cond, guidance_scale)

    def adapted(self, rank: int, targets: Targets, rng: torch.Generator, camera_input: CameraInput = "angles") -> Adapted:
        return AdaptedNetwork(self.network, rank, targets, rng, camera_input)
