"""The cases every form of label_map is tried on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Logits `[batch, classes, *low]` enlarged to `high`. `margin`: wins smaller than this may fall either way."""

    batch: int
    classes: int
    low: tuple[int, int]
    high: tuple[int, int]
    align_corners: bool = False
    margin: float = 1e-5  # logits are N(0, 1); float32 interpolation is off by a few ulp of 4, 1e-6


CASES = (
    Case(1, 11, (45, 60), (360, 480)),
    Case(2, 19, (16, 32), (128, 256)),
    Case(1, 3, (7, 5), (61, 33)),
    Case(1, 2, (1, 1), (9, 9)),
    Case(1, 150, (8, 8), (63, 64)),
    Case(1, 19, (16, 32), (128, 256), align_corners=True),
    Case(1, 5, (12, 12), (12, 12)),
)
