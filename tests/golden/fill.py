"""Weights from their names alone: the rule behind the parity bundles, the same on every platform.

Every tensor is a function of its official key and of the index: splitmix64 of both, its upper 24 bits as a number in
[0, 1), stretched to a range that the kind of tensor decides. Statistics and zero-initialised scales are filled too, so
that a wrong epsilon, a wrong order of norm and activation, or a dead branch cannot hide.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(key: str, shape: Sequence[int], low: float, high: float) -> Tensor:
    """float32 `[*shape]` in [low, high), a function of `key` and the index."""
    seed = np.uint64(zlib.crc32(key.encode())) << np.uint64(32)
    z = (np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + seed) * GOLDEN
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float64) / (1 << 24)
    return torch.from_numpy((low + (high - low) * unit).astype(np.float32)).reshape(tuple(shape))


RANGES = {
    "running_mean": (-0.2, 0.2),
    "_mean": (-0.2, 0.2),
    "running_var": (0.5, 1.5),
    "_variance": (0.5, 1.5),
    "spatial_decay": (-5.0, 3.0),
    "spatial_first": (-2.0, 0.0),
    "spatial_mix_k": (0.0, 1.3),
    "spatial_mix_v": (0.0, 1.3),
    "spatial_mix_r": (0.0, 1.3),
    "layer_scale_1": (0.5, 1.5),
    "layer_scale_2": (0.5, 1.5),
    "pos_embed": (-0.5, 0.5),
    "positional_encoding_gaussian_matrix": (-2.0, 2.0),
}
"""The last part of an official name -> the range of its values; everything else goes by its shape."""


def fill(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The filled weights for official names; counters stay as they are."""
    return {key: _fill(key, value) for key, value in state.items()}


def _fill(key: str, value: Tensor) -> Tensor:
    leaf = key.rsplit(".", maxsplit=1)[-1]
    if leaf == "num_batches_tracked":
        return value.clone()
    if leaf in RANGES:
        return uniform(key, value.shape, *RANGES[leaf])
    if value.ndim >= 2:
        bound = (3.0 / int(np.prod(value.shape[1:]))) ** 0.5
        return uniform(key, value.shape, -bound, bound)
    return uniform(key, value.shape, 0.5, 1.5) if leaf == "weight" else uniform(key, value.shape, -0.2, 0.2)
