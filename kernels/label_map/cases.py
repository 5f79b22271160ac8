"""The cases every form of label_map is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Logits N(0, 1) `[batch, classes, *low]` enlarged to `high`.

    margin: wins smaller than this may fall either way: float32 interpolation is off by a few ulp of 4, 1e-6.
    half:   the same for logits rounded to float16, by 1e-3 each.
    within: the share of the other pixels that may have another label: none.
    """

    batch: int
    classes: int
    low: tuple[int, int]
    high: tuple[int, int]
    align_corners: bool = False
    margin: float = 1e-5
    half: float = 5e-3
    within: float = 0.0

    def feeds(self) -> dict[str, NDArray[Any]]:
        """The logits in float32."""
        rng = np.random.default_rng((self.classes, *self.low))
        return {"logits": rng.normal(size=(self.batch, self.classes, *self.low)).astype(np.float32)}

    def attributes(self) -> dict[str, int]:
        """Of the node."""
        return {"height": self.high[0], "width": self.high[1], "align_corners": int(self.align_corners)}


CASES = (
    Case(1, 11, (45, 60), (360, 480)),
    Case(2, 19, (16, 32), (128, 256)),
    Case(1, 3, (7, 5), (61, 33)),
    Case(1, 2, (1, 1), (9, 9)),
    Case(1, 150, (8, 8), (63, 64)),
    Case(1, 256, (5, 9), (40, 72)),
    Case(1, 19, (16, 32), (128, 256), align_corners=True),
    Case(1, 4, (6, 7), (1, 1), align_corners=True),
    Case(1, 5, (12, 12), (12, 12)),
    Case(1, 6, (20, 30), (7, 11)),
    Case(1, 150, (64, 64), (512, 512)),
)
