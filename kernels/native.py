"""The operators on NumPy arrays, by the C++ of `csrc`: no PyTorch and no runtime needed."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.kernels.build import LIBRARIES, Library, library

LIBRARIES.add("host", Library("host", "host.cc"))

Floats = NDArray[np.float32]

TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Element type -> its number in `host.cc`; NumPy has no bfloat16, whose bits come as uint16."""


@cache
def host() -> ctypes.CDLL:
    """The library, built on first use."""
    loaded = ctypes.CDLL(str(library("host")))
    for name in ("label_map", "wkv", "wkv_grad", "selective_scan", "selective_scan_grad"):
        getattr(loaded, f"edgeseg_{name}").restype = None
    return loaded


def call(name: str, *arguments: Any) -> None:
    """A function of the library: addresses from `at`, everything else as a long."""
    getattr(host(), f"edgeseg_{name}")(*(a if isinstance(a, ctypes.c_void_p) else ctypes.c_long(a) for a in arguments))


def at(array: NDArray[Any] | None) -> ctypes.c_void_p:
    """Where a dense array lies; null for none."""
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def default_threads() -> int:
    """As many as there are processors."""
    return os.cpu_count() or 1


def label_map(
    logits: Floats, size: tuple[int, int], align_corners: bool = False, threads: int = 0
) -> NDArray[np.uint8]:
    """As `edgeseg.kernels.label_map`, for float32 or float16."""
    logits = np.ascontiguousarray(logits)
    labels = np.empty((logits.shape[0], *size), np.uint8)
    call(
        "label_map",
        TYPES[logits.dtype.name],
        at(logits),
        at(labels),
        *logits.shape,
        *size,
        align_corners,
        threads or default_threads(),
    )
    return labels


def wkv(decay: Floats, bonus: Floats, key: Floats, value: Floats, *, causal: bool = False, threads: int = 0) -> Floats:
    """As `edgeseg.kernels.wkv`, for float32 or float16 keys and values."""
    decay, bonus = (np.ascontiguousarray(each, np.float32) for each in (decay, bonus))
    key, value = (np.ascontiguousarray(each) for each in (key, value))
    out = np.empty_like(value)
    given = (at(each) for each in (decay, bonus, key, value, out))
    call("wkv", TYPES[value.dtype.name], *given, *value.shape, causal, threads or default_threads())
    return out


def selective_scan(u: Floats, delta: Floats, A: Floats, B: Floats, C: Floats, D: Floats, *, threads: int = 0) -> Floats:
    """`u` and `delta` `[B, T, D]`, `A [D, N]`, `B` and `C` `[B, T, N]`, `D [D]` to `[B, T, D]`."""
    given = [np.ascontiguousarray(each, np.float32) for each in (u, delta, A, B, C, D)]
    out = np.empty_like(given[0])
    call("selective_scan", *(at(each) for each in (*given, out)), *u.shape, A.shape[1], threads or default_threads())
    return out
