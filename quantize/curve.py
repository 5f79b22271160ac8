"""Are these calibration images enough? What fewer of them make of the masks, drawn again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from edgeseg.export.deployed import ImageNetwork
from edgeseg.manifest import Enough
from edgeseg.parity import Picture, Progress
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.equalise import equalise
from edgeseg.quantize.graph import copied, plan, traced
from edgeseg.quantize.post_training import apply, document_of, feeds
from edgeseg.quantize.ranges import Seen, observe
from edgeseg.quantize.scheme import Recipe, scheme_for
from edgeseg.quantize.sensitivity import given, labels_of

SHARES = (8, 4, 2)
"""An eighth, a quarter and a half of the images are drawn."""

DRAWS = 5

CLOSE = 0.001
"""A share of the labels that makes no difference."""


def size_curve(
    network: ImageNetwork,
    target: str,
    precision: str,
    recipe: Recipe,
    chosen: CalibrationSet,
    pictures: Sequence[Picture],
    progress: Progress | None = None,
) -> list[Enough]:
    """What share of the float network's labels on `pictures` stays, in PyTorch, with fewer of the images and with all of them.

    Ranges are from the least to the greatest value, and biases as they were: each image is looked at once, however often it is drawn.
    """
    recipe, scheme = replace(recipe, ranges="minmax", bias_correction=False), scheme_for(target, precision)
    graph = traced(network)
    probes = [given(network, one) for one in pictures]
    before = [labels_of(graph, probe) for probe in probes]
    looked = copied(graph)
    if recipe.equalise:
        equalise(looked)
    marked = plan(looked, scheme, recipe)
    seen = [observe(looked, marked, partial(list, [image]), False) for image in feeds(network, chosen)]

    def kept(some: Sequence[int]) -> float:
        ends = {
            group: Seen(min(seen[i][group].low for i in some), max(seen[i][group].high for i in some))
            for group in seen[0]
        }
        after = apply(network, document_of(looked, marked, target, precision, recipe, ends), copied(graph))
        return float(
            np.mean([(labels_of(after, probe) == old).mean() for probe, old in zip(probes, before, strict=True)])
        )

    total = len(chosen.images)
    counts = sorted({max(1, total // share) for share in SHARES} - {total})
    rng, curve = np.random.default_rng(0), []
    for done, count in enumerate(counts, 1):
        drawn = [kept(rng.choice(total, count, replace=False).tolist()) for _ in range(DRAWS)]
        curve.append(Enough(count, float(np.mean(drawn)), min(drawn), max(drawn)))
        if progress:
            progress(done, len(counts) + 1)
    whole = kept(range(total))
    return [*curve, Enough(total, whole, whole, whole)]


def curve_words(curve: Sequence[Enough]) -> str:
    """The answer: all draws of half the images do as well as the whole, or more images could help."""
    *fewer, whole = curve
    if not fewer:
        return "one image is too few to say whether it is enough"
    half = fewer[-1]
    told = (
        f"{half.count} of them keep {100 * half.low:.2f} to {100 * half.high:.2f} % of the labels in {DRAWS} draws, "
        f"all of them {100 * whole.kept:.2f} %"
    )
    enough = max(abs(half.low - whole.kept), abs(half.high - whole.kept)) <= CLOSE
    return f"{whole.count} images {'are enough' if enough else 'may be too few'}: {told}"
