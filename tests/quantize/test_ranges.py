"""Range estimators on histograms, held against the values themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Laplace, StudentT

from edgeseg.errors import EdgesegError
from edgeseg.quantize.ranges import BINS, ESTIMATORS, PERCENTILE, SAMPLED, Seen, scale_of
from edgeseg.quantize.scheme import BOUNDS, Scheme

SCHEMES = {
    "uint8": Scheme("uint8", False, frozenset()),
    "int8": Scheme("int8", False, frozenset()),
    "symmetric": Scheme("int8", True, frozenset()),
    "int16": Scheme("int16", True, frozenset()),
}
EIGHT = ["uint8", "int8", "symmetric"]

VALUES: dict[str, Callable[[], Tensor]] = {
    "laplace": lambda: Laplace(0.0, 1.0).sample((300_000,)),
    "heavy": lambda: StudentT(3.0).sample((300_000,)),
    "relu": lambda: torch.randn(300_000).relu(),
    "normal": lambda: torch.randn(300_000),
    "shifted": lambda: torch.rand(100_000) + 3,
    "below": lambda: -torch.rand(100_000) - 3,
}


def drawn(name: str) -> Tensor:
    torch.manual_seed(0)
    return VALUES[name]()


def seen(values: Tensor, parts: int = 10) -> Seen:
    """What is seen of values that come in parts, in two passes."""
    made = Seen()
    for look in (made.widen, made.count):
        for one in values.chunk(parts):
            look(one)
    return made


def squares(values: Tensor, ends: tuple[float, float], scheme: Scheme) -> float:
    """Mean square error of rounding the values themselves, in float64."""
    assert scheme.activations is not None
    made, (least, most) = scale_of(*ends, scheme), BOUNDS[scheme.activations]
    exact: NDArray[np.float64] = values.double().numpy()
    again = (np.clip(np.rint(exact / made.scale) + made.zero, least, most) - made.zero) * made.scale
    return float(((again - exact) ** 2).mean())


@pytest.mark.parametrize("parts", [5, 7, 300])
def test_what_is_seen_in_parts_is_seen_of_all(parts: int) -> None:
    values = drawn("laplace")
    made = seen(values, parts)
    exact = values.double().numpy()
    assert (made.low, made.high) == (exact.min(), exact.max())
    counts, _ = np.histogram(exact, BINS, (made.low, made.high))
    assert made.counts is not None
    assert made.counts.sum() == len(exact)
    assert np.abs(made.counts - counts).sum() <= 1e-3 * len(exact)  # edges in float32


def test_a_large_map_is_looked_at_here_and_there() -> None:
    torch.manual_seed(0)
    values = torch.randn(1, 16, 200, 300)
    values[0, 3, 17, 5], values[0, 9, 199, 299] = -9.0, 8.0
    made = seen(values, 1)
    assert (made.low, made.high) == (-9, 8)  # the ends are those of all of them
    assert made.counts is not None
    assert SAMPLED <= made.counts.sum() < values.numel()
    counts, _ = np.histogram(values.double().numpy(), BINS, (-9, 8))
    shares, wanted = (np.cumsum(each) / each.sum() for each in (made.counts, counts))
    assert np.abs(shares - wanted).max() < 0.01


@pytest.mark.parametrize("name", list(VALUES))
def test_minmax_is_both_ends(name: str) -> None:
    values = drawn(name)
    ends = ESTIMATORS["minmax"](seen(values), SCHEMES["uint8"])
    assert ends == (values.min().item(), values.max().item())


@pytest.mark.parametrize("name", ["laplace", "normal", "relu", "shifted", "below"])
def test_percentile_is_where_the_quantiles_are(name: str) -> None:
    values = drawn(name)
    made = seen(values)
    low, high = ESTIMATORS["percentile"](made, SCHEMES["uint8"])
    first, last = np.quantile(values.double().numpy(), [PERCENTILE / 2, 1 - PERCENTILE / 2])
    step = (made.high - made.low) / BINS
    # the steps that they are in, whole
    assert -0.01 * step <= first - low <= 1.01 * step
    assert -0.01 * step <= high - last <= 1.01 * step


def test_percentile_does_not_see_one_value_of_a_million() -> None:
    torch.manual_seed(0)
    values = torch.randn(1_000_000).clamp(-4, 4)
    values[123] = 500.0
    made = seen(values)
    assert ESTIMATORS["minmax"](made, SCHEMES["int8"])[1] == 500
    low, high = ESTIMATORS["percentile"](made, SCHEMES["int8"])
    step = (made.high - made.low) / BINS
    assert -4 - step <= low < 0
    assert 3 < high <= 4 + step


@pytest.mark.parametrize("bits", EIGHT)
@pytest.mark.parametrize("name", ["laplace", "heavy", "relu", "normal"])
def test_mse_is_the_best_of_the_ranges(name: str, bits: str) -> None:
    values, scheme = drawn(name), SCHEMES[bits]
    made = seen(values)
    error = squares(values, ESTIMATORS["mse"](made, scheme), scheme)
    assert error < squares(values, ESTIMATORS["minmax"](made, scheme), scheme)
    best = min(squares(values, (made.low * s, made.high * s), scheme) for s in np.linspace(0.3, 1, 36))
    assert error <= 1.02 * best  # the histogram does not have every value


@pytest.mark.parametrize("bits", EIGHT)
@pytest.mark.parametrize("name", ["heavy", "relu", "normal"])
def test_entropy_does_something_and_no_harm(name: str, bits: str) -> None:
    """A vendor's tool gives minmax for it without a word; and half of a ReLU being zeros must not clip the other half."""
    values, scheme = drawn(name), SCHEMES[bits]
    made = seen(values)
    ends = ESTIMATORS["entropy"](made, scheme)
    assert ends[1] < made.high
    # it weighs shares of values, not squares: of tails without a fourth moment it clips what squares would keep
    worst = 12 if name == "heavy" else 1
    assert squares(values, ends, scheme) <= worst * squares(values, (made.low, made.high), scheme)
    clipped = ((values < ends[0]) | (values > ends[1])).double().mean().item()
    assert clipped < 1e-3


@pytest.mark.parametrize("ranges", list(ESTIMATORS))
def test_sixteen_bits_need_no_clipping(ranges: str) -> None:
    values, scheme = drawn("laplace"), SCHEMES["int16"]
    ends = ESTIMATORS[ranges](seen(values), scheme)
    if ranges != "percentile":
        assert ends == (values.min().item(), values.max().item())
    assert squares(values, ends, scheme) < 1e-3


@pytest.mark.parametrize("ranges", list(ESTIMATORS))
@pytest.mark.parametrize("bits", list(SCHEMES))
@pytest.mark.parametrize("value", [0.0, 0.7, -3.0, 255.0])
def test_a_value_that_never_changes_is_kept(ranges: str, bits: str, value: float) -> None:
    values, scheme = torch.full((1000,), value), SCHEMES[bits]
    ends = ESTIMATORS[ranges](seen(values), scheme)
    within = scale_of(*ends, scheme).scale / 2
    assert squares(values, ends, scheme) <= within**2 * (1 + 1e-9)
    assert within < max(abs(value), 1) / 200


@pytest.mark.parametrize("ranges", list(ESTIMATORS))
@pytest.mark.parametrize("name", ["shifted", "below"])
def test_a_range_of_one_sign_reaches_to_zero(ranges: str, name: str) -> None:
    values, scheme = drawn(name), SCHEMES["uint8"]
    made = scale_of(*ESTIMATORS[ranges](seen(values), scheme), scheme)
    assert made.zero == (0 if name == "shifted" else 255)
    assert squares(values, ESTIMATORS[ranges](seen(values), scheme), scheme) <= (4 / 255) ** 2 / 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    values = torch.ones(1000)
    values[500] = bad
    with pytest.raises(EdgesegError, match="NaN or infinite values on a calibration image") as raised:
        seen(values)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(1, 32, 180, 240), (1, 32, 256, 512), (1, 8, 512, 1024)])
def test_a_histogram_sees_every_column_alike(shape: tuple[int, ...]) -> None:
    """Sides that are powers of two must not make it look at the border, where padding shows, more than it weighs."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    value[..., 0] *= 4  # wide, but one column
    seen = Seen()
    seen.widen(value)
    seen.count(value)
    assert seen.counts is not None
    steps = np.linspace(seen.low, seen.high, len(seen.counts) + 1)
    found = np.sqrt(np.average(((steps[1:] + steps[:-1]) / 2) ** 2, weights=seen.counts))
    assert found == pytest.approx(float(value.std()), rel=0.02)
