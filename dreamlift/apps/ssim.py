"""The structural similarity of pictures.

    SSIM = mean over windows of (2 m_x m_y + c_1) (2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2))

with means m, variances s^2 and the covariance s_xy in windows of 11 x 11 pixels, weighted by a Gaussian with a standard
deviation of 1.5 pixels; c_1 = 0.01^2, c_2 = 0.03^2 for values in [0, 1] (Wang et al. 2004, "Image quality assessment: from
error visibility to structural similarity"). Windows that do not fit into the picture are left out, as in the authors' code.
Each channel is a picture of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2


def ssim(image: Tensor, reference: Tensor) -> float:
    """The mean structural similarity of pictures ``(B, H, W, C)`` in [0, 1], at most 1.

    Raises:
        ValueError: the shapes differ, or a side has fewer than 11 pixels.
    """
    if image.shape != reference.shape or min(image.shape[1:3]) < WINDOW:
        shapes = f"{tuple(image.shape)} and {tuple(reference.shape)}"
        raise ValueError(f"SSIM compares pictures of one shape, of at least {WINDOW} pixels a side, not {shapes}")
    x, y = (values.detach().cpu().double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] for values in (image, reference))
    line = torch.exp(-0.5 * ((torch.arange(WINDOW) - WINDOW // 2) / SIGMA).double().square())
    kernel = torch.outer(line, line) / line.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return functional.conv2d(values, kernel[None, None])

    m_x, m_y = mean(x), mean(y)
    covariance, var_x, var_y = mean(x * y) - m_x * m_y, mean(x * x) - m_x**2, mean(y * y) - m_y**2
    found = (2 * m_x * m_y + C1) * (2 * covariance + C2) / ((m_x**2 + m_y**2 + C1) * (var_x + var_y + C2))
    return float(found.mean())
