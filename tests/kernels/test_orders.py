"""Images in several directions and clouds of points: the walks themselves, and scans along them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.kernels.selective_scan.orders import ORDERS, routes, selective_scan_2d, serialise
from edgeseg.kernels.selective_scan.reference import selective_scan_reference


def test_four_routes_of_a_small_image() -> None:
    #  0 1 2
    #  3 4 5
    assert routes(2, 3, 4).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1, 0],
        [0, 3, 1, 4, 2, 5],
        [5, 2, 4, 1, 3, 0],
    ]
    assert routes(2, 3, 2).tolist() == routes(2, 3, 4)[:2].tolist()
    with pytest.raises(ValueError, match="1, 2 or 4 directions, not 3"):
        routes(2, 3, 3)


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_an_image_is_the_sum_of_its_sequences(directions: int) -> None:
    rng = np.random.default_rng(directions)
    height, width, channels, states = 5, 7, 6, 3
    u = rng.normal(size=(2, channels, height, width))
    delta = rng.uniform(0.01, 1, size=(2, directions, channels, height, width))
    A = -rng.uniform(0.1, 3, size=(directions, channels, states))
    B, C = (rng.normal(size=(2, directions, states, height, width)) for _ in range(2))
    D = rng.normal(size=channels)
    made = selective_scan_2d(*(torch.from_numpy(each) for each in (u, delta, A, B, C, D)))
    wanted = np.zeros((2, height * width, channels))
    for index, route in enumerate(routes(height, width, directions).numpy()):
        inner = [
            each.reshape(2, -1, height * width)[..., route].swapaxes(1, 2)
            for each in (u, delta[:, index], B[:, index], C[:, index])
        ]
        y = selective_scan_reference(inner[0], inner[1], A[index], inner[2], inner[3], np.zeros(channels))
        wanted[:, route] += y
    wanted += D * u.reshape(2, channels, -1).swapaxes(1, 2)
    np.testing.assert_allclose(made.flatten(2).numpy().swapaxes(1, 2), wanted, atol=1e-12)


def test_a_scan_in_four_directions_learns() -> None:
    shapes = (2, 4, 3, 5), (2, 4, 4, 3, 5), (4, 4, 2), (2, 4, 2, 3, 5), (2, 4, 2, 3, 5)
    given = [torch.rand(shape).requires_grad_() for shape in shapes]
    selective_scan_2d(given[0], given[1], -given[2], given[3], given[4]).square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in given)


@pytest.mark.parametrize("order", ORDERS)
def test_cells_that_follow_each_other_touch(order: str) -> None:
    side = 5
    axis = torch.arange(side, dtype=torch.float32)
    points = torch.cartesian_prod(axis, axis, axis)[torch.randperm(side**3, generator=torch.Generator().manual_seed(0))]
    walked = points[serialise(points, order, cells=side)]
    assert (walked.diff(dim=0).abs().sum(1) == 1).all()
    slowest, fastest = ("xyz".index(order[place]) for place in (0, 2))
    assert walked[:, slowest].diff().ge(0).all()
    assert walked[:side, fastest].tolist() == list(range(side))


def test_points_that_cannot_be_walked_are_refused() -> None:
    assert serialise(torch.zeros(0, 3)).shape == (0,)
    assert serialise(torch.ones(4, 3)).tolist() == [0, 1, 2, 3]  # all in one cell
    with pytest.raises(ValueError, match=r"got \[4, 2\], 'xyz' and 64"):
        serialise(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="'xxz'"):
        serialise(torch.zeros(4, 3), "xxz")
