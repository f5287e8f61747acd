"""Hyperspherical bottleneck."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from ae import (
    Sphere,
)
from ae.models.priors import prior_of
from tests.models.bottlenecks import SHAPE


def test_sphere_has_unit_norm() -> None:
    sphere, features = Sphere(SHAPE, 5), torch.randn(4, *SHAPE)
    torch.testing.assert_close(sphere(features).z.norm(dim=1), torch.ones(4))
    z = features.flatten(1) @ sphere.project_in.weight.T + sphere.project_in.bias
    torch.testing.assert_close(sphere(features).z, z / z.square().sum(1, keepdim=True).sqrt())


def points_on_the_sphere(count: int, latent: int) -> Tensor:
    return nn.functional.normalize(torch.randn(count, latent, dtype=torch.float64), dim=1).float()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_sphere_mix_follows_great_circles(fraction: float) -> None:
    """Compare with Shoemake's formula in float64."""
    start, end = points_on_the_sphere(2 * 50, 5).chunk(2)
    angle = (start.double() * end.double()).sum(1, keepdim=True).acos()
    expected = (((1 - fraction) * angle).sin() * start + (fraction * angle).sin() * end) / angle.sin()
    torch.testing.assert_close(Sphere(SHAPE, 5).mix(start, end, fraction), expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("nudge", [0.0, 1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_sphere_mix_of_equal_and_opposite_points(latent: int, nudge: float, sign: int) -> None:
    sphere = Sphere(SHAPE, latent)
    start = torch.cat([points_on_the_sphere(20, latent), torch.eye(latent)])
    end = sphere.project(sign * start + nudge * torch.randn_like(start))
    mixed = [sphere.mix(start, end, i / 8) for i in range(9)]
    for z in mixed:
        torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    torch.testing.assert_close(mixed[0], start, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[8], end, atol=1e-5, rtol=0)
    if latent > 1:  # the 0-sphere has two points and no path between them
        steps = torch.stack([(b - a).norm(dim=1) for a, b in itertools.pairwise(mixed)])
        torch.testing.assert_close(steps, steps.mean(0).expand_as(steps), atol=1e-5, rtol=1e-3)


def test_sphere_samples_are_uniform() -> None:
    torch.manual_seed(0)
    z = prior_of(Sphere(SHAPE, 3)).sample(20_000)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(len(z)))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.02, rtol=0)
    heights = z[:, 2].sort().values  # uniform in [-1, 1] (Archimedes)
    torch.testing.assert_close(heights, torch.linspace(-1, 1, len(z)), atol=0.03, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_sphere_project_has_finite_gradient_at_any_norm(scale: float) -> None:
    z = (scale * torch.randn(7, 5)).requires_grad_()
    projected = Sphere(SHAPE, 5).project(z)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(7))
    projected.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
