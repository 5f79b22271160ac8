"""What takes an operator's place is that operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from edgeseg.export.rewrites import (
    average_pool_of_padded,
    bicubic_as_products,
    lerp_as_sum,
    nearest_as_products,
)
from edgeseg.kernels.executorch_bodies import XNNPACK_MODULES, rewrite

X = torch.randn(2, 3, 23, 31, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(46, 62), (45, 60), (23, 31), (7, 90), (128, 31)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_bicubic(size: tuple[int, int], align_corners: bool) -> None:
    wanted = F.interpolate(X, size=size, mode="bicubic", align_corners=align_corners)
    # PyTorch finds the places in float32: 1e-5 of a sample at most
    assert (bicubic_as_products(X, size, align_corners) - wanted).abs().max() <= 5e-5


@pytest.mark.parametrize("size", [(46, 62), (45, 60), (23, 31), (7, 90), (128, 31), (1, 1)])
def test_nearest(size: tuple[int, int]) -> None:
    assert torch.equal(nearest_as_products(X, size), F.interpolate(X, size=size, mode="nearest"))


@pytest.mark.parametrize("inner", [(1, 31), (23, 1), (1, 1)])
def test_a_map_one_pixel_wide(inner: tuple[int, int]) -> None:
    thin = X[..., : inner[0], : inner[1]]
    assert torch.equal(nearest_as_products(thin, (60, 45)), F.interpolate(thin, size=(60, 45), mode="nearest"))
    wanted = F.interpolate(thin, size=(60, 45), mode="bicubic", align_corners=False)
    assert (bicubic_as_products(thin, (60, 45)) - wanted).abs().max() <= 5e-5  # as above


@pytest.mark.parametrize("inner", [(23, 31), (7, 9), (4, 5), (1, 3)])
@pytest.mark.parametrize(
    "scales", [(1.5, 1.7), (2.0, 2.0), (1.3, 1.3), (2.2, 3.2), (1.1, 1.2), (0.7, 1.0), (3.0, 5.9)], ids=str
)
def test_a_scale_is_not_the_size_it_ends_at(inner: tuple[int, int], scales: tuple[float, float]) -> None:
    """PyTorch samples at 1 / scale, also where the sides do not come out whole."""
    x = X[..., : inner[0], : inner[1]]
    if int(inner[0] * scales[0]) < 1:
        return
    assert torch.equal(
        nearest_as_products(x, None, scales), F.interpolate(x, scale_factor=list(scales), mode="nearest")
    )
    wanted = F.interpolate(x, scale_factor=list(scales), mode="bicubic")
    assert (bicubic_as_products(x, None, False, scales) - wanted).abs().max() <= 5e-5  # as above


@pytest.mark.parametrize("options", [{"scale_factor": 1.5}, {"size": (10, 13)}, {"scale_factor": 1.5, "align": True}])
def test_bicubic_for_xnnpack(options: dict[str, Any]) -> None:
    class Enlarged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            given = {name: value for name, value in options.items() if name != "align"}
            return F.interpolate(x, mode="bicubic", align_corners=options.get("align", False), **given)

    x = X[..., :7, :9]
    module = torch.export.export(Enlarged(), (x,)).module()
    assert isinstance(module, GraphModule)
    rewrite(module, {}, XNNPACK_MODULES)
    assert any(node.op == "call_module" and str(node.target).startswith("body_") for node in module.graph.nodes)
    assert (module(x) - Enlarged()(x)).abs().max() <= 5e-5  # as above


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": [3], "stride": [2], "padding": [1]},
        {"kernel_size": [3], "stride": [2], "padding": [1], "count_include_pad": False},
        {"kernel_size": [5, 3], "stride": [4, 2], "padding": [2, 1], "count_include_pad": False},
        {"kernel_size": [3]},
        {"kernel_size": [3], "stride": [2], "padding": [1], "ceil_mode": True},
        {"kernel_size": [2], "stride": [2], "divisor_override": 3},
    ],
)
def test_average_pooling(options: dict[str, Any]) -> None:
    assert torch.allclose(average_pool_of_padded(X, **options), F.avg_pool2d(X, **options), atol=1e-6)


def test_lerp() -> None:
    end, weight = torch.rand_like(X), torch.rand(1, 3, 1, 1)
    assert torch.allclose(lerp_as_sum(X, end, weight), torch.lerp(X, end, weight), atol=1e-6)
