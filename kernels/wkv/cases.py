"""The cases every form of wkv is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS, CHANNELS = (1, 2, 63, 196, 1000, 1024, 4096, 16384), (32, 192, 384, 768)
KEYS = {"N(0, 1)": (1.0, None), "N(0, 4)": (2.0, None), "one of 50": (1.0, 50.0)}
"""Their spread, and the one key that stands out."""

DECAYS = {"fresh": (-5.0, 3.0), "steep": (-30.0, 30.0)}
"""Over the whole sequence, spread over the channels: those of a fresh network, and far beyond."""


@dataclass(frozen=True)
class Case:
    """`tokens` x `channels`, keys and decays by name.

    within, half: relative RMS error that float32 and float16 may have. float32: every token adds two roundings to a sum
                  that up to 16384 tokens share, 8e-7 measured for the plugin; the closed form multiplies prefix sums by
                  exp(+-decay / 2) and back, 4e-6. float16: the rounding of keys and values alone is 7e-4.
    """

    tokens: int
    channels: int
    keys: str = "N(0, 1)"
    decays: str = "fresh"
    batch: int = 1
    causal: bool = False
    within: float = 1e-5
    half: float = 2e-3

    def feeds(self) -> dict[str, NDArray[Any]]:
        """decay, bonus, key and value in float32."""
        rng = np.random.default_rng((self.tokens, self.channels))
        spread, outlier = KEYS[self.keys]
        shape = self.batch, self.tokens, self.channels
        key = rng.normal(0, spread, shape)
        if outlier is not None:
            key[:, self.tokens // 3] = outlier
        feeds = {
            "decay": np.linspace(*DECAYS[self.decays], self.channels) / self.tokens,
            "bonus": rng.normal(size=self.channels) / self.tokens,
            "key": key,
            "value": rng.normal(size=shape),
        }
        return {name: array.astype(np.float32) for name, array in feeds.items()}

    def attributes(self) -> dict[str, int]:
        """Of the node."""
        return {"causal": int(self.causal)}


CASES = tuple(
    Case(
        tokens,
        CHANNELS[(row + column) % 4],
        keys,
        decays,
        batch=2 if tokens < 1000 else 1,
        causal=(row + column) % 3 == 2,
    )
    for row, tokens in enumerate(TOKENS)
    for column, (keys, decays) in enumerate(product(KEYS, DECAYS))
)
