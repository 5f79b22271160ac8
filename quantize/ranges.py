"""What activations are like: observed over calibration images, and made into scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgeseg.errors import EdgesegError
from edgeseg.quantize.graph import Plan, Scale
from edgeseg.quantize.scheme import BOUNDS, Ranges, Scheme
from edgeseg.registry import Registry

BINS = 2048

SAMPLED = 1 << 16
"""Values of one map that a histogram looks at, where there are more."""

COUNTED = 16
"""Images that histograms are made of, spread over all: what is between the ends is alike from image to image."""

NOT_FINITE = "the network gives NaN or infinite values on a calibration image; it cannot be quantized"

Images = Callable[[], Iterable[Tensor]]
"""Gives the calibration images, as the graph takes them, as often as it is called."""


@dataclass
class Seen:
    """What was seen of a group of values: lowest and highest, and how many in each of `BINS` equal steps between them."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: NDArray[np.float64] | None = None

    def widen(self, value: Tensor) -> None:
        """Look at the ends."""
        low, high = (float(each) for each in torch.aminmax(value.detach()))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise EdgesegError(NOT_FINITE)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, value: Tensor) -> None:
        """Look at what lies between them, at values here and there of a large map.

        Not at every so many: with sides that are powers of two those are a few columns, the border with its padding among them.
        """
        some = value.detach().flatten()
        some = some[_places(some.numel())] if some.numel() > SAMPLED else some
        found = torch.histc(some.float(), BINS, self.low, self.high if self.high > self.low else self.low + 1)
        self.counts = (0 if self.counts is None else self.counts) + found.double().numpy()


@lru_cache(maxsize=64)
def _places(count: int) -> Tensor:
    """`SAMPLED` places in a map of so many values, the same ones every time."""
    return torch.randint(count, (SAMPLED,), generator=torch.Generator().manual_seed(0)).sort().values


class _Watching(Interpreter):
    """Runs a graph and shows every watched value to somebody."""

    def __init__(self, graph: GraphModule, watched: dict[Node, Seen], show: Callable[[Seen, Tensor], None]) -> None:
        super().__init__(graph)
        self._watched, self._show = watched, show

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self._watched:
            self._show(self._watched[n], value)
        return value


@torch.inference_mode()
def observe(graph: GraphModule, chosen: Plan, images: Images, histograms: bool) -> dict[int, Seen]:
    """Group -> what was seen of it; histograms take a second pass over some of the images."""
    seen = {group: Seen() for group in chosen.groups.values()}
    watched = {node: seen[group] for node, group in chosen.groups.items()}
    for show in (Seen.widen, Seen.count) if histograms else (Seen.widen,):
        watcher, every = _Watching(graph, watched, show), list(images())
        for image in every if show is Seen.widen else every[:: max(1, len(every) // COUNTED)]:
            watcher.run(image)
    return seen


def scales(seen: dict[int, Seen], scheme: Scheme, ranges: Ranges) -> dict[int, Scale]:
    """Group -> the scale that its estimator gives."""
    return {group: scale_of(*ESTIMATORS[ranges](one, scheme), scheme) for group, one in seen.items()}


def scale_of(low: float, high: float, scheme: Scheme) -> Scale:
    """The scale of a range; zero is always one of its whole numbers, since padding and ReLU are made of zeros."""
    assert scheme.activations is not None
    least, most = BOUNDS[scheme.activations]
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:  # nothing but zeros: any scale is right, but tiny ones overflow in runtimes
        high = 1.0
    if scheme.symmetric:
        return Scale(float(max(-low, high, 1e-8) / most), 0)
    scale = float(max(high - low, 1e-8) / (most - least))
    return Scale(scale, int(np.clip(round(least - low / scale), least, most)))


Estimator = Callable[[Seen, Scheme], tuple[float, float]]
ESTIMATORS: Registry[Estimator] = Registry("range estimator")
"""Name -> from what was seen to lowest and highest."""


def _minmax(seen: Seen, scheme: Scheme) -> tuple[float, float]:
    return seen.low, seen.high


PERCENTILE = 1e-4
"""The share of values, half of it at each end, that `percentile` leaves out."""


def _percentile(seen: Seen, scheme: Scheme) -> tuple[float, float]:
    counts, edges = _histogram(seen)
    share = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(share, PERCENTILE / 2, side="right"))
    last = int(np.searchsorted(share, 1 - PERCENTILE / 2))
    return float(edges[first]), float(edges[min(last + 1, BINS)])


SHRINKS = np.linspace(1.0, 0.3, 71)
"""The ranges that are tried, as shares of the whole one."""


def _mse(seen: Seen, scheme: Scheme) -> tuple[float, float]:
    """The range with the least mean square of rounding and clipping."""
    counts, edges = _histogram(seen)
    middle = (edges[1:] + edges[:-1]) / 2
    used = counts > 0
    counts, middle = counts[used], middle[used]

    def error(low: float, high: float) -> float:
        return float((counts * (_rounded(middle, low, high, scheme) - middle) ** 2).sum())

    return min(((seen.low * s, seen.high * s) for s in SHRINKS), key=lambda ends: error(*ends))


ABSENT = 1e-4
"""What counts as seen, of one value, where a rounded histogram has nothing: the divergence from nothing is infinite."""


def _entropy(seen: Seen, scheme: Scheme) -> tuple[float, float]:
    """The range whose rounded histogram is nearest to the real one by Kullback and Leibler's divergence (Migacz, GTC 2017)."""
    counts, edges = _histogram(seen)
    counts = _without_zeros(counts, edges)
    middle = (edges[1:] + edges[:-1]) / 2
    share = counts / counts.sum()

    def divergence(low: float, high: float) -> float:
        inside = (middle >= low) & (middle <= high)
        clipped = np.clip(middle, low, high)
        # what is clipped counts at the ends of the real one and nowhere in the rounded one: that is the price of clipping
        real = np.bincount(np.clip(np.digitize(clipped, edges) - 1, 0, BINS - 1), share, BINS)
        whole = np.round(_rounded(middle, low, high, scheme, whole=True)).astype(int)
        whole -= whole.min()
        there = real > 0
        total = np.bincount(whole, share * inside * there, whole.max() + 1)
        number = np.bincount(whole, there, whole.max() + 1)
        spread = np.where(there, total[whole] / np.maximum(number[whole], 1), 0)
        spread = np.maximum(spread / max(spread.sum(), 1e-30), ABSENT / counts.sum())
        return float((real[there] * np.log(real[there] / spread[there])).sum())

    return min(((seen.low * s, seen.high * s) for s in SHRINKS), key=lambda ends: divergence(*ends))


def _without_zeros(counts: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """The histogram with no more zeros than there are values beside them.

    Zero is exact in every range. Half of what a ReLU gives is zeros, and with them that range is nearest whose steps are as fine
    as the histogram's around zero: 1.8 of 4.8 for a normal distribution.
    """
    at = int(np.searchsorted(edges, 0.0, side="right")) - 1
    if not 0 <= at < BINS:
        return counts
    beside = counts[[index for index in (at - 1, at + 1) if 0 <= index < BINS]].max()
    return np.concatenate([counts[:at], [min(counts[at], max(beside, 1.0))], counts[at + 1 :]])


def _rounded(values: NDArray[Any], low: float, high: float, scheme: Scheme, whole: bool = False) -> NDArray[Any]:
    assert scheme.activations is not None
    least, most = BOUNDS[scheme.activations]
    at = scale_of(low, high, scheme)
    number = np.clip(np.round(values / at.scale) + at.zero, least, most)
    return number if whole else (number - at.zero) * at.scale


def _histogram(seen: Seen) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert seen.counts is not None
    high = seen.high if seen.high > seen.low else seen.low + 1
    return seen.counts, np.linspace(seen.low, high, BINS + 1)


for _name, _estimator in {"minmax": _minmax, "percentile": _percentile, "mse": _mse, "entropy": _entropy}.items():
    ESTIMATORS.add(_name, _estimator)
