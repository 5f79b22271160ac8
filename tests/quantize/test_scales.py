"""Scales and rounded weights, held against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.quantize.graph import SUMS, rounded_weight
from edgeseg.quantize.ranges import scale_of
from edgeseg.quantize.scheme import BOUNDS, Scheme, Whole

KINDS: list[tuple[Whole, bool]] = [("uint8", False), ("int8", False), ("int8", True), ("int16", False), ("int16", True)]

RANGES = {
    "both signs": (-1.5, 4.0),
    "hardly below zero": (-1e-6, 6.0),
    "positive": (2.0, 5.0),
    "negative": (-5.0, -2.0),
    "constant": (0.7, 0.7),
    "zeros": (0.0, 0.0),
    "tiny": (0.0, 1e-30),
    "huge": (-3e30, 1e30),
}


@pytest.mark.parametrize("low, high", RANGES.values(), ids=list(RANGES))
@pytest.mark.parametrize(("kind", "symmetric"), KINDS, ids=str)
def test_a_range_is_covered_and_zero_is_exact(kind: Whole, symmetric: bool, low: float, high: float) -> None:
    made = scale_of(low, high, Scheme(kind, symmetric, frozenset()))
    least, most = BOUNDS[kind]
    assert isinstance(made.zero, int)
    assert least <= made.zero <= most
    assert np.isfinite(made.scale)
    assert made.scale > 1e-13  # what is below overflows when a runtime divides a bias by it
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        assert made.zero == 0
        wanted = max(-low, high) / most
    else:
        wanted = (high - low) / (most - least)
    if high - low > 1e-8:
        assert made.scale == pytest.approx(wanted, rel=1e-12)
    values = np.concatenate([np.linspace(low, high, 1001), [0.0]])
    whole = np.clip(np.rint(values / made.scale) + made.zero, least, most)
    again = (whole - made.zero) * made.scale
    assert again[-1] == 0
    # the zero is a whole number too: at an end, as much as half a step is clipped
    assert np.abs(again - values).max() <= made.scale * 0.5 * (1 + 1e-9)


def test_zero_is_exact_for_any_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high = np.sort(rng.normal(0, 10.0 ** rng.integers(-6, 6), 2) + rng.normal(0, 3))
        for kind, symmetric in KINDS:
            made = scale_of(float(low), float(high), Scheme(kind, symmetric, frozenset()))
            least, most = BOUNDS[kind]
            assert least <= made.zero <= most
            lowest, highest = ((end - made.zero) * made.scale for end in (least, most))
            slack = made.scale * 0.5 * (1 + 1e-9)
            assert lowest <= min(low, 0) + slack
            assert highest >= max(high, 0) - slack


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (6, 1, 5, 5), (6, 17)])
def test_weights_are_rounded_channel_by_channel(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape) * (10.0 ** torch.arange(-3, 3)).view(-1, *[1] * (len(shape) - 1))
    weight[2] = 0
    whole, scale = rounded_weight(weight)
    assert whole.dtype is torch.int8
    exact = weight.double().numpy().reshape(6, -1)
    wanted = np.abs(exact).max(1) / 127
    got, steps = whole.double().numpy().reshape(6, -1), scale.double().numpy()
    some = np.arange(6) != 2
    assert np.allclose(steps[some], wanted[some], rtol=1e-6)
    assert np.abs(got).max() == 127  # symmetric: there is no -128
    assert (np.abs(got[some]).max(1) == 127).all()  # each channel uses all of it
    assert (np.abs(got * steps[:, None] - exact) <= 0.5 * steps[:, None] * (1 + 1e-5)).all()
    assert not got[2].any()
    assert steps[2] >= steps[some].min()  # not so small that what is divided by it overflows


def test_no_weight_at_all() -> None:
    whole, scale = rounded_weight(torch.zeros(3, 2, 1, 1))
    assert not whole.any()
    assert scale.tolist() == [1, 1, 1]


def test_a_step_may_not_be_finer_than_its_bias_allows() -> None:
    weight, bias = torch.tensor([[1e-9, -1e-9], [1.0, 0.5]]), torch.tensor([2.0, 2.0])
    step = 0.02
    whole, scale = rounded_weight(weight, bias / (step * SUMS))
    assert (bias.double().numpy() / (step * scale.double().numpy()) < 2**31).all()
    assert whole[1].tolist() == [127, 64]
    # what the coarser step costs is nothing beside the bias, for as many inputs as a layer has
    lost = (whole[0] * scale[0] - weight[0]).abs().max().item()
    assert lost * 255 * step * 4608 < 1e-3 * 2.0 * 4.4
