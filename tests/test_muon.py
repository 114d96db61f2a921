"""Muon against the singular value decomposition and a plain loop."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from dreamlift.toybox.training.steps import muon
from dreamlift.toybox.training.steps.muon import Muon, orthogonalized, takes


@pytest.mark.parametrize("shape", [(24, 90), (90, 24), (32, 32), (1, 12)])
def test_every_singular_value_goes_through_the_polynomial(shape):
    """The iteration acts on the singular values alone: five times s -> a s + b s^3 + c s^5, starting from s / |M|."""
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert s.min() > 0.6
    assert s.max() < 1.25
    np.testing.assert_allclose(orthogonalized(matrix).numpy(), u * s @ vt, atol=1e-6)


def test_steps_follow_the_formula():
    rng = torch.Generator().manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 10, 3, 3, generator=rng).to(memory_format=torch.channels_last))
    want, average = kernel.detach().clone(), torch.zeros(16, 10, 3, 3)
    optimizer = Muon([kernel], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        kernel.grad = torch.randn(16, 10, 3, 3, generator=rng)
        average = 0.95 * average + 0.05 * kernel.grad
        update = orthogonalized((0.05 * kernel.grad + 0.95 * average).reshape(16, 90)).reshape(16, 10, 3, 3)
        want = want * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 90**0.5 * update
        optimizer.step()
    torch.testing.assert_close(kernel.detach(), want, rtol=1e-4, atol=1e-5)
    kernel.grad = None
    optimizer.step()
    torch.testing.assert_close(kernel.detach(), want, rtol=1e-4, atol=1e-5)


def test_an_ill_conditioned_quadratic_is_solved_faster_than_by_gradient_descent():
    """|A W - B|^2 with singular values of A from 1 down to 0.01: orthogonal updates do not wait for the small ones."""
    rng = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(16, 16, generator=rng)).Q
    a, goal = q @ torch.diag(torch.logspace(0, -2, 16)), torch.randn(16, 16, generator=rng)

    def gap(make) -> float:
        weight = nn.Parameter(torch.zeros(16, 16))
        optimizer = make([weight])
        for step in range(200):
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * (1 - step / 200)
            optimizer.zero_grad()
            (a @ (weight - goal)).square().sum().backward()
            optimizer.step()
        return float((weight.detach() - goal).norm() / goal.norm())

    descent = gap(lambda p: torch.optim.SGD(p, lr=0.4))
    assert gap(lambda p: Muon(p, lr=0.1, weight_decay=0.0)) < 0.75 * descent


def test_small_and_flat_parameters_are_left_to_another():
    assert takes(nn.Parameter(torch.zeros(16, 3, 3, 3)))
    assert not takes(nn.Parameter(torch.zeros(16)))
    assert not takes(nn.Parameter(torch.zeros(64, 8)))


def test_on_threads_it_does_the_same():
    rng = torch.Generator().manual_seed(0)
    values, gradients = torch.randn(2, 6, 12, 20, generator=rng)
    results = []
    for threads in (0, 3):
        weights = [nn.Parameter(value.clone()) for value in values]
        optimizer = Muon(weights, lr=0.1)
        with ThreadPoolExecutor(3) as pool:
            optimizer.each = pool.map if threads else map
            for _ in range(2):
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.grad = gradient.clone()
                optimizer.step()
        results.append(torch.stack([weight.detach() for weight in weights]))
    assert not torch.equal(results[0], values)
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    optimizer.state[weights[0]]["momentum"] = torch.zeros(3, 3)
    with ThreadPoolExecutor(3) as pool:
        optimizer.each = pool.map
        with pytest.raises(RuntimeError):  # what goes wrong on a thread is not lost
            optimizer.step()


def test_those_of_one_shape_may_be_worked_on_together(monkeypatch):
    """As on a GPU: the same steps as one by one."""
    shapes = [(12, 9, 3, 3)] * 3 + [(20, 12)]
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    found = []
    for together in (False, True):
        if together:
            monkeypatch.setattr(muon, "_worked_together", lambda found: [found[:3], found[3:]])
        parameters = [nn.Parameter(each.clone()) for each in start]
        optimizer = Muon(parameters, lr=0.02)
        for step in range(3):
            for i, parameter in enumerate(parameters):
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + i))
            optimizer.step()
        found.append(parameters)
    for one, other, before in zip(*found, start, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert float((one - before).abs().max()) > 0.01
