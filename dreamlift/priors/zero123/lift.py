"""A picture lifted to a coarse volume, which the U-Net of ``toybox-view`` is shown from the target's camera.

A U-Net that is told the relative pose by numbers has to learn by itself how things move when one walks around them, which
takes millions of pictures. Here geometry does it, as in pixelNeRF and GeNVS (Yu et al. 2021, https://arxiv.org/abs/2012.02190;
Chan et al. 2023, https://arxiv.org/abs/2304.02602): a small convolutional network turns the reference into a grid of density
and colour, aligned with the picture's pixels, whose colours its cells may take over. The grid is rendered from the target's
camera by the emission-absorption sum (Mildenhall et al. 2020, https://arxiv.org/abs/2003.08934, eq. 3):

    C = sum_k w_k c_k,   w_k = T_k (1 - exp(-sigma_k delta)),   T_k = exp(-sum_{j<k} sigma_j delta)

The render is the mean over all that the hidden sides could be, hence blurred there; the diffusion model draws one of them.
The network is given the picture over white, its mask and, where it is known, its elevation, which it estimates otherwise.
Lengths are in the picture's own frame: its middle is the origin, at whose depth its half side is 1 / SCALE, so that nothing has
to be guessed that a crop does not tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from dreamlift.cameras import rays_of, rescaled, turned
from dreamlift.system.files import atomic_write_bytes, atomic_write_text
from dreamlift.types import Cameras

LIFT = "lift"  # folder of the network in a prior's folder
WEIGHTS = "diffusion_pytorch_model.safetensors"

SIZE, SIDE, SLICES = 64, 32, 32  # pixels of the picture; cells a side of the grid, and in depth
SCALE = 1.05  # of pictures: their half sides per world unit at the origin; the mean over the toybox's things, in whose units
CELL = 5  # values of a cell: density, colour, and the share of the picture's own colour
PERSPECTIVE = (0.1, 0.5)  # range of the reciprocal distance of the picture's camera, per world unit
HALF_DEPTH = 1.0  # half of the grid's depth around the origin, in units of the picture's own frame
STEPS = 28  # samples of a ray
REACH = 1.1  # of the samples before and behind the origin, world units
DENSITY = 20.0  # per unit, of a cell whose value is 1
CHANNELS = 7  # of what the U-Net is shown: picture, place, opacity


class Volume(NamedTuple):
    """What is known of N pictures."""

    grid: Tensor  # (N, CELL, SLICES, SIDE, SIDE); slices go away from the camera, rows down
    picture: Tensor  # (N, 4, SIZE, SIZE) premultiplied colour in [0, 1], and mask
    frame: (
        Tensor  # (N, 3) the origin's place in the picture, from -1 to 1 to the right and down; half sides per world unit there
    )
    perspective: Tensor  # (N,) reciprocal of the distance of the picture's camera from the origin, in the picture's own frame
    elevation: Tensor  # (N,) radians, as used: told, or estimated
    estimate: Tensor  # (N,) radians, estimated


class Sight(NamedTuple):
    """A volume seen along B x R rays."""

    rgb: Tensor  # (B, R, 3) in [0, 1], premultiplied by the opacity
    place: Tensor  # (B, R, 3) position in the frame whose azimuth 0 is the reference's, premultiplied
    opacity: Tensor  # (B, R, 1)


class Block(nn.Module):
    """Two convolutions beside an identity, scaled and shifted by what is told."""

    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, inputs), nn.GroupNorm(8, outputs)])
        self.convs = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)])
        self.told = nn.Linear(told, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for part in self.convs[1].parameters():
            nn.init.zeros_(part)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.convs[0](functional.silu(self.norms[0](x))) + self.told(told)[:, :, None, None]
        return self.skip(x) + self.convs[1](functional.silu(self.norms[1](h)))


def _blocks(width: int, count: int, told: int) -> nn.ModuleList:
    return nn.ModuleList([Block(width, width, told) for _ in range(count)])


def _through(blocks: Any, x: Tensor, told: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, told)
    return x


class Lift(nn.Module):
    """From pictures with masks to volumes: a U-Net of four resolutions, 32 to 4 cells a side.

    Args:
        widths: channels of each resolution. blocks: blocks of each resolution, on the way down and on the way up.
        told: channels of what is told.
    """

    def __init__(
        self, widths: tuple[int, ...] = (48, 64, 72, 80), told: int = 32, blocks: tuple[int, ...] = (1, 3, 4, 4)
    ) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "told": told, "blocks": list(blocks)}
        self.tell = nn.Sequential(nn.Linear(3, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.stem = nn.Conv2d(4 * 4 + 2, widths[0], 3, padding=1)
        pairs = list(zip((widths[0], *widths), widths, strict=False))
        self.down = nn.ModuleList([Block(a, b, told) for a, b in pairs])
        self.look = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.SiLU())  # at the whole picture
        self.head = nn.Linear(widths[-1], 3)  # elevation's sine and cosine, perspective
        self.spread = nn.Linear(widths[-1], widths[-1])
        ups = list(zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True))
        self.up = nn.ModuleList([Block(a + b, a, told) for a, b in ups])
        sizes = list(zip(widths, blocks, strict=True))
        self.more_down = nn.ModuleList([_blocks(width, count - 1, told) for width, count in sizes])
        self.more_up = nn.ModuleList([_blocks(width, count - 1, told) for width, count in reversed(sizes[:-1])])
        self.last = Block(widths[0], widths[0], told)
        self.norm = nn.GroupNorm(8, widths[0])
        self.out = nn.Conv2d(widths[0], CELL * SLICES, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(torch.tensor([0.4, 0.9, 0.0]))
            bias = torch.zeros(CELL, SLICES)
            bias[0] = -2.0
            self.out.weight.mul_(0.5)
            self.out.bias = nn.Parameter(bias.flatten())

    def forward(self, pictures: Tensor, elevation: Tensor, known: Tensor, frame: Tensor | None = None) -> Volume:
        """Volumes of ``pictures (N, 4, 64, 64)``, premultiplied colour in [0, 1] and mask.

        Args:
            elevation: ``(N,)`` radians, used where ``known (N,)``.
            frame: ``(N, 3)`` of pictures in another frame than their own, as those of the training set are.
        """
        if frame is None:
            frame = pictures.new_tensor([0.0, 0.0, SCALE]).expand(len(pictures), -1)
        told = torch.stack([known * elevation.sin(), known * elevation.cos(), known], dim=-1)
        told = self.tell(told)
        white = torch.cat([pictures[:, :3] + 1 - pictures[:, 3:], pictures[:, 3:]], dim=1) * 2 - 1
        centres = (torch.arange(SIDE, device=pictures.device) + 0.5) / SIDE * 2 - 1
        where = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None].expand(len(pictures), -1, -1, -1)
        x = self.stem(torch.cat([functional.pixel_unshuffle(white, SIZE // SIDE), where], dim=1))
        kept = []
        for level, (block, more) in enumerate(zip(self.down, self.more_down, strict=True)):
            if level:
                kept.append(x)
                x = functional.avg_pool2d(x, 2)
            x = _through(more, block(x, told), told)
        whole = self.look(x.mean(dim=(2, 3)))
        found = self.head(whole).float()
        x = x + self.spread(whole)[:, :, None, None]
        for block, more in zip(self.up, self.more_up, strict=True):
            x = torch.cat([kept.pop(), functional.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1)
            x = _through(more, block(x, told), told)
        x = self.last(x, told)
        grid = self.out(functional.silu(self.norm(x))).float().unflatten(1, (CELL, SLICES))
        grid = torch.cat([functional.softplus(grid[:, :1]), grid[:, 1:].sigmoid()], dim=1)
        estimate = torch.atan2(found[:, 0], found[:, 1])
        used = torch.where(known > 0, elevation, estimate)
        low, high = PERSPECTIVE
        return Volume(grid, pictures, frame, low + (high - low) * found[:, 2].sigmoid(), used, estimate)


def inside(volume: Volume, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``points (N, R, K, 3)``, of the frame whose azimuth 0 is the reference's, lie in the grids: ``(N, R, K, 3)``, from
    -1 to 1 to the right, down and away. With the length of a world unit in the pictures' own frames, ``(N, 1, 1)``."""
    x, y, z = points.unbind(-1)
    sine, cosine = (f(volume.elevation)[:, None, None] for f in (torch.sin, torch.cos))
    up, away = y * cosine - z * sine, -y * sine - z * cosine
    u, v, scale = (each[:, None, None] for each in volume.frame.unbind(-1))
    larger = scale / SCALE
    away = larger * away
    scale = scale / (1 + volume.perspective[:, None, None] * away)
    return torch.stack([u + scale * x, v - scale * up, away / HALF_DEPTH], dim=-1), larger


def see(volume: Volume, origins: Tensor, directions: Tensor, jitter: Tensor | None = None) -> Sight:
    """The volumes along rays ``(N, R, 3)`` of the frame whose azimuth 0 is the reference's.

    ``jitter (N, R)`` in [0, 1) moves the samples; without it they are in the middles of their intervals.
    """
    delta = 2 * REACH / STEPS
    ticks = torch.arange(STEPS, device=origins.device) * delta - REACH
    nearest = -(origins * directions).sum(-1, keepdim=True)  # to the origin
    t = nearest + ticks + delta * (0.5 if jitter is None else jitter[..., None])  # (N, R, K)
    points = origins[:, :, None] + t[..., None] * directions[:, :, None]
    where, larger = inside(volume, points)
    cells = functional.grid_sample(volume.grid, where[..., None, :], align_corners=False)[..., 0]  # (N, CELL, R, K); 0 outside
    own = functional.grid_sample(volume.picture, where[..., :2], align_corners=False)
    share = cells[:, 4:] * own[:, 3:]
    color = cells[:, 1:4] * (1 - share) + cells[:, 4:] * own[:, :3]  # the picture is premultiplied
    optical = DENSITY * delta * larger * cells[:, 0]
    behind = optical.cumsum(dim=-1)
    weights = torch.exp(optical - behind) - torch.exp(-behind)
    rgb = torch.einsum("nrk,ncrk->nrc", weights, color)
    return Sight(rgb, torch.einsum("nrk,nrkx->nrx", weights, points), weights.sum(-1, keepdim=True))


def shown(volume: Volume, cameras: Cameras, azimuth: Tensor, backdrop: Tensor, side: int = SIDE) -> Tensor:
    """What the U-Net is shown ``(B, 7, side, side)`` beside the noisy pictures of B ``cameras``, about in [-1, 1].

    The picture over ``backdrop (B, 3)``, the places as the network draws them, and the opacity. ``azimuth (B,)`` of the
    references, radians.
    """
    rays = rays_of(rescaled(cameras, side / cameras.width))
    # To the frame whose azimuth 0 is the reference's.
    origins, directions = (turned(each.flatten(1, 2), -azimuth[:, None]) for each in (rays.origins, rays.directions))
    near = torch.linalg.cross(origins, directions).norm(dim=-1) < REACH  # the others meet nothing
    kept = near.any(0)
    sight = see(volume, origins[:, kept], directions[:, kept])
    rgb = sight.rgb + (1 - sight.opacity) * backdrop[:, None]
    found = torch.cat([2 * rgb - 1, sight.place + sight.opacity - 1, 2 * sight.opacity - 1], dim=-1)
    empty = torch.cat([2 * backdrop - 1, -torch.ones(len(backdrop), 4, device=backdrop.device)], dim=-1)
    values = empty[:, None].repeat(1, side * side, 1)
    values[:, kept] = found
    return values.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def coarse_picture(lifted: Tensor, place: Tensor, packing: int) -> Tensor:
    """The pictures ``(B, 3 p^2, h, w)`` of which the U-Net draws only what is missing, packed as its own pictures are.

    Args:
        lifted: ``(B, 7, h, w)`` of :func:`shown`. place: ``(B,)`` 1 where places are drawn instead of colours.
        packing: p, pixels a side of the packed pictures' cells.
    """
    picture = torch.where(place[:, None, None, None] > 0, lifted[:, 3:6], lifted[:, :3])
    large = functional.interpolate(picture, scale_factor=float(packing), mode="bilinear", align_corners=False)
    return functional.pixel_unshuffle(large, packing)


def save_lift(lift: Lift, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json and the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(dtype).contiguous() for k, v in lift.state_dict().items()}
    atomic_write_bytes(folder / WEIGHTS, save(state, {"format": "pt"}))
    atomic_write_text(folder / "config.json", json.dumps({"_class_name": "Lift", **lift.config}, indent=2) + "\n")


def load_lift(folder: Path) -> Lift:
    """The network of a folder of :func:`save_lift`, in float32."""
    return make_lift(json.loads((folder / "config.json").read_text()), load_file(folder / WEIGHTS))


def make_lift(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Lift:
    """The network with these settings and weights, in float32, not trained further.

    Raises:
        ValueError: the weights are not those of such a network.
    """
    try:
        lift = Lift(tuple(config["widths"]), config["told"], tuple(config["blocks"]))
        lift.load_state_dict({k: v.float() for k, v in state.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"the {LIFT} of the model is not that of toybox-view: {type(error).__name__}") from error
    return lift.eval().requires_grad_(False)
