"""The C++ of `csrc` on PyTorch's tensors, without a copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from edgeseg.errors import EdgesegError

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Element type -> its number in `host.cc`."""


def dense(tensor: Tensor) -> Tensor:
    """The tensor with its last axis innermost and no gaps."""
    return tensor.contiguous()


def native_or_none(tensor: Tensor) -> Callable[..., None] | None:
    """What calls the library on tensors like this one; None where it cannot take them or cannot be built."""
    if tensor.device.type != "cpu" or tensor.dtype not in TYPES or not usable():
        return None

    def call(name: str, *arguments: Any, typed: bool = True) -> None:
        """`arguments`: tensors and numbers in the order of `host.cc`; the type of `tensor` goes first, threads go last."""
        import ctypes

        from edgeseg.kernels import native

        given = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
        native.call(name, *([TYPES[tensor.dtype]] if typed else []), *given, torch.get_num_threads())

    return call


@cache
def usable() -> bool:
    """Whether the library is there or can be built; `edgeseg doctor` says why not."""
    from edgeseg.kernels import native

    try:
        native.host()
    except (EdgesegError, OSError):
        return False
    return True
