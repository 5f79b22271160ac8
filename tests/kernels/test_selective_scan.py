"""The selective scan against its definition: gradients, the gate and the rest around it, hostile inputs."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgeseg.kernels import native
from edgeseg.kernels.operators import relative_rms
from edgeseg.kernels.selective_scan import selective_scan
from edgeseg.kernels.selective_scan.cases import CASES, Case
from edgeseg.kernels.selective_scan.forms import scan_plain
from edgeseg.kernels.selective_scan.reference import selective_scan_reference
from edgeseg.kernels.selective_scan.torch_op import selective_scan as operator

SHORT = [case for case in CASES if case.tokens <= 196 and case.channels <= 384]


def test_plain_form_and_its_gradients() -> None:
    given = [torch.from_numpy(each).double().requires_grad_() for each in Case(37, 3, 2).feeds().values()]
    wanted = selective_scan_reference(*(each.detach().numpy() for each in given))
    np.testing.assert_allclose(scan_plain(*given).detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(scan_plain, given)


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_gradients_in_float32(case: Case) -> None:
    feeds = case.feeds().values()
    exact, single = (
        [torch.from_numpy(each).to(kind).requires_grad_() for each in feeds] for kind in (torch.float64, torch.float32)
    )
    weight = torch.randn(exact[0].shape, generator=torch.Generator().manual_seed(0))
    for given in (exact, single):
        (operator(*given) * weight.to(given[0].dtype)).sum().backward()
    for wanted, got in zip(exact, single, strict=True):
        assert wanted.grad is not None
        assert got.grad is not None
        size = float(wanted.grad.square().mean().sqrt())
        assert (
            float((got.grad - wanted.grad).square().mean().sqrt()) <= 1e-5 * size
        )  # sums over up to 768 channels; 3e-6 seen


def test_everything_around_the_recurrence() -> None:
    """`[B, D, T]` outside; bias and softplus on delta, the skip, the gate."""
    rng = np.random.default_rng(0)
    batch, channels, states, tokens = 2, 5, 3, 11
    u, delta, z = (torch.from_numpy(rng.normal(size=(batch, channels, tokens))) for _ in range(3))
    A = -torch.from_numpy(rng.uniform(0.1, 2, (channels, states)))
    B, C = (torch.from_numpy(rng.normal(size=(batch, states, tokens))) for _ in range(2))
    D, bias = (torch.from_numpy(rng.normal(size=channels)) for _ in range(2))
    made = selective_scan(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
    step = F.softplus(delta + bias[:, None])
    x, d, b, c = (each.transpose(1, 2).numpy() for each in (u, step, B, C))
    y = selective_scan_reference(x, d, A.numpy(), b, c, D.numpy())
    np.testing.assert_allclose(made.numpy(), y.swapaxes(1, 2) * F.silu(z).numpy(), atol=1e-12)
    plain = selective_scan(u, step, A, B, C)
    np.testing.assert_allclose(plain.numpy(), (y - D.numpy() * u.transpose(1, 2).numpy()).swapaxes(1, 2), atol=1e-12)
    halves: Any = [each.bfloat16() for each in (u, step, A, B, C)]
    assert selective_scan(*halves).dtype == torch.bfloat16


def test_rates_that_grow_and_deltas_that_forget() -> None:
    for sign, spread in ((1.0, 0.05), (-1.0, 200.0)):
        feeds = Case(100, 20, 4).feeds()
        feeds["A"] *= -sign
        feeds["delta"] = (feeds["delta"] * spread).astype(np.float32)
        made = native.selective_scan(*feeds.values())
        assert relative_rms(made, selective_scan_reference(*feeds.values())) <= 1e-5


def test_the_library_writes_all_of_its_result_and_nothing_else() -> None:
    for tokens, channels, states, threads in product((1, 65), (1, 16, 67), (1, 7, 16), (1, 3)):
        fence = np.full(tokens * channels + 128, 777, np.float32)
        out = fence[64:-64].reshape(1, tokens, channels)
        out.fill(np.nan)
        given = [*Case(tokens, channels, states).feeds().values(), out]
        native.call("selective_scan", *(native.at(each) for each in given), 1, tokens, channels, states, threads)
        assert np.isfinite(out).all()
        assert (fence[:64] == 777).all()
        assert (fence[-64:] == 777).all()


def test_nan_stays_in_its_channel() -> None:
    given = Case(70, 32).feeds()
    given["u"][0, 3, 5] = np.nan
    given["delta"][0, 4, 7] = np.nan
    assert set(np.flatnonzero(np.isnan(native.selective_scan(*given.values())).any((0, 1)))) == {5, 7}


def test_it_is_one_node_for_compilers_and_exporters() -> None:
    given = [torch.from_numpy(each).requires_grad_() for each in Case(10, 4).feeds().values()]
    torch.library.opcheck(torch.ops.edgeseg.selective_scan.default, tuple(given))


def test_shapes_that_do_not_fit_are_named() -> None:
    u, A, B = torch.zeros(1, 4, 5), torch.zeros(4, 2), torch.zeros(1, 2, 6)
    with pytest.raises(ValueError, match=r"got \[1, 4, 5\], \[1, 4, 5\], \[4, 2\], \[1, 2, 6\], \[1, 2, 6\]"):
        selective_scan(u, u, A, B, B)
    with pytest.raises(ValueError, match="T at least 1"):
        selective_scan(u[..., :0], u[..., :0], A, B[..., :0], B[..., :0])
