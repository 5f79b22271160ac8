"""The cases every form of wkv is tried on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`tokens` x `channels`; decays over the whole sequence spread over `decay`, keys N(0, `spread`).

    within: relative RMS error that float32 may have. The closed form multiplies prefix sums by exp(+-decay / 2) and back
            and adds up to 4096 terms in a row: 1e-6 to 4e-6 measured; the doubling form adds in a tree: 2e-7.
    """

    batch: int
    tokens: int
    channels: int
    decay: tuple[float, float] = (-5.0, 3.0)
    spread: float = 1.0
    within: float = 1e-5


CASES = (
    Case(2, 1, 8),
    Case(1, 2, 8),
    Case(2, 63, 16),
    Case(1, 1000, 16),
    Case(1, 256, 16, spread=60.0),
    Case(2, 64, 8, decay=(-60.0, 78.0)),
    Case(1, 100, 8, decay=(-75.0, 400.0)),
)
