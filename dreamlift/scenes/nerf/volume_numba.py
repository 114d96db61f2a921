"""Compiled CPU kernels of volume rendering (:mod:`dreamlift.scenes.nerf.volume`); see :mod:`dreamlift.system.jit`."""

from __future__ import annotations

import math

import numpy as np

from dreamlift.system.jit import compiled


@compiled
def sample_kernel(
    rays: tuple, bounds: float, count: int, occupied: np.ndarray, low: int, high: int, out: tuple
) -> int:  # fmt: skip
    """Write the intervals of rays ``low..high`` to ``out`` from index ``low * count`` on; returns their number.

    ``rays`` is (origins (R, 3), directions (R, 3), jitter (R,)); ``occupied`` is a (G, G, G) mask, or empty for none;
    ``out`` is (ray_indices, starts, ends), each with room for every interval of every ray.
    """
    origins, directions, jitter = rays
    out_ray, out_start, out_end = out
    size = occupied.shape[0]
    scale = np.float32(size / (2.0 * bounds))
    half, bound = np.float32(0.5), np.float32(bounds)
    n = low * count
    for r in range(low, high):
        near, far = np.float32(0.0), np.float32(np.inf)
        for a in range(3):
            d = directions[r, a]
            if abs(d) < np.float32(1e-9):
                d = np.float32(1e-9)
            inverse = np.float32(1.0) / d
            one, two = (-bound - origins[r, a]) * inverse, (bound - origins[r, a]) * inverse
            near, far = max(near, min(one, two)), min(far, max(one, two))
        if not far > near:
            continue
        step = (far - near) / np.float32(count)
        ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
        dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
        end = near
        for k in range(count):
            start = end
            end = near + (np.float32(k + 1) - half + jitter[r]) * step if k + 1 < count else far
            if size > 0:
                t = half * (start + end)
                x = min(max(int((ox + t * dx + bound) * scale), 0), size - 1)
                y = min(max(int((oy + t * dy + bound) * scale), 0), size - 1)
                z = min(max(int((oz + t * dz + bound) * scale), 0), size - 1)
                if not occupied[z, y, x]:
                    continue
            out_ray[n], out_start[n], out_end[n] = r, start, end
            n += 1
    return n - low * count


@compiled
def points_kernel(rays: tuple, samples: tuple, low: int, high: int, out: np.ndarray) -> None:
    """Midpoints of samples ``low..high``; ``rays`` is (origins, directions), ``samples`` (ray_indices, starts, ends)."""
    origins, directions = rays
    ray_indices, starts, ends = samples
    for i in range(low, high):
        r = ray_indices[i]
        t = np.float32(0.5) * (starts[i] + ends[i])
        for a in range(3):
            out[i, a] = origins[r, a] + t * directions[r, a]


@compiled
def composite_forward(
    density: np.ndarray, values: np.ndarray, samples: tuple, stop: float, low: int, high: int, out: tuple
) -> None:
    """Composite rays ``low..high``: ``samples`` is (offsets, starts, ends), ``out`` is (weights, after, sums (R, 2 + C)).

    ``after`` is the transmittance behind each sample; zero after early termination.
    """
    offsets, starts, ends = samples
    weights, after, sums = out
    channels = values.shape[1]
    for r in range(low, high):
        light = np.float32(1.0)
        opacity, depth = np.float32(0.0), np.float32(0.0)
        for c in range(2, 2 + channels):
            sums[r, c] = 0.0
        for i in range(offsets[r], offsets[r + 1]):
            if light < stop:
                weights[i], after[i] = 0.0, 0.0
                continue
            tau = density[i] * (ends[i] - starts[i])
            left = light * np.float32(math.exp(-tau))
            w = light - left
            light = left
            weights[i], after[i] = w, light
            opacity += w
            depth += w * (np.float32(0.5) * (starts[i] + ends[i]))
            for c in range(channels):
                sums[r, 2 + c] += w * values[i, c]
        sums[r, 0], sums[r, 1] = opacity, depth


@compiled
def composite_backward(values: np.ndarray, samples: tuple, saved: tuple, grads: tuple, low: int, high: int, out: tuple) -> None:
    """The gradient of :func:`composite_forward` for rays ``low..high``.

    With ``g_i`` the gradient of weight i, ``d/d tau_i = after_i g_i - sum_{j>i} w_j g_j``. ``saved`` is (weights,
    after), ``grads`` is (grad_weights, or empty, and grad_sums (R, 2 + C)), ``out`` is (grad_density, grad_values).
    """
    offsets, starts, ends = samples
    weights, after = saved
    grad_weights, grad_sums = grads
    grad_density, grad_values = out
    channels = values.shape[1]
    direct = grad_weights.shape[0] > 0
    for r in range(low, high):
        behind = np.float32(0.0)
        for i in range(offsets[r + 1] - 1, offsets[r] - 1, -1):
            w = weights[i]
            if w == 0.0 and after[i] == 0.0:
                grad_density[i] = 0.0
                for c in range(channels):
                    grad_values[i, c] = 0.0
                continue
            g = grad_sums[r, 0] + grad_sums[r, 1] * (np.float32(0.5) * (starts[i] + ends[i]))
            if direct:
                g += grad_weights[i]
            for c in range(channels):
                g += grad_sums[r, 2 + c] * values[i, c]
                grad_values[i, c] = w * grad_sums[r, 2 + c]
            grad_density[i] = (after[i] * g - behind) * (ends[i] - starts[i])
            behind += w * g
