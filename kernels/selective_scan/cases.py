"""The cases every form of the selective scan is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS, CHANNELS, STATES = (1, 2, 63, 196, 1000, 1024, 4096, 16384), (32, 192, 384, 768), (16, 1, 7)
DELTAS = {"small": (-4.0, 1.0), "large": (0.0, 1.0), "long memory": (-8.0, 1.0)}
"""Mean and spread of what softplus makes the deltas of: those of a trained Mamba, steps that forget at once, and none that do."""


@dataclass(frozen=True)
class Case:
    """`tokens` x `channels` x `states`, deltas by name; A is -1 to -N as Mamba starts with.

    within: relative RMS error that float32 may have. Decays are in 0..1 and are multiplied one after the other, so roundings
            die out with the memory: 2e-7 measured, 1e-6 where nothing is forgotten.
    half:   with u, delta, B and C rounded to float16, 7e-4 in trials.
    """

    tokens: int
    channels: int
    states: int = 16
    deltas: str = "small"
    batch: int = 1
    within: float = 1e-5
    half: float = 2e-3

    def feeds(self) -> dict[str, NDArray[Any]]:
        """u, delta, A, B, C and D in float32."""
        rng = np.random.default_rng((self.tokens, self.channels, self.states))
        shape, beside = (self.batch, self.tokens, self.channels), (self.batch, self.tokens, self.states)
        feeds = {
            "u": rng.normal(size=shape),
            "delta": np.log1p(np.exp(rng.normal(*DELTAS[self.deltas], shape))),
            "A": -np.tile(np.arange(1.0, self.states + 1), (self.channels, 1)),
            "B": rng.normal(size=beside),
            "C": rng.normal(size=beside),
            "D": rng.normal(size=self.channels),
        }
        return {name: array.astype(np.float32) for name, array in feeds.items()}

    def attributes(self) -> dict[str, int]:
        """Of the node: none."""
        return {}


CASES = tuple(
    Case(tokens, CHANNELS[(row + column) % 4], states, deltas, batch=2 if tokens < 1000 else 1)
    for row, tokens in enumerate(TOKENS)
    for column, (deltas, states) in enumerate(product(DELTAS, STATES))
    if tokens < 4096 or column % 4 == row % 4 or (states == 16 and deltas == "small")
)
