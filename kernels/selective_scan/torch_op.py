"""The selective scan as an operator of PyTorch, channels innermost: one node, and its gradient is another one.

On a processor it is the C++ of `csrc/selective_scan.h`, on CUDA Triton; where neither is there, and for float64, plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeseg.kernels.selective_scan.forms import scan_plain
from edgeseg.kernels.torch_native import dense, native_or_none

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("edgeseg::selective_scan", mutates_args=())
def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """`y [B, T, D]` of `u`, `delta` `[B, T, D]`, `A [D, N]`, `B`, `C` `[B, T, N]`, `D [D]`, all float32 or all float64."""
    if u.device.type == "cuda" and u.dtype != torch.float64:
        from edgeseg.kernels.selective_scan.triton_scan import scan_cuda

        return scan_cuda(u, delta, A, B, C, D)
    native = native_or_none(u)
    if native is None:
        return scan_plain(u, delta, A, B, C, D)
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    given = [dense(each) for each in (u, delta, A, B, C, D)]
    native("selective_scan", *given, out, *u.shape, A.shape[1], typed=False)
    return out


@selective_scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@torch.library.custom_op("edgeseg::selective_scan_grad", mutates_args=())
def selective_scan_grad(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of all six for `grad`, that of the result."""
    given = (u, delta, A, B, C, D)
    if u.device.type == "cuda" and u.dtype != torch.float64:
        from edgeseg.kernels.selective_scan.triton_scan import scan_grad_cuda

        return scan_grad_cuda(*given, grad)
    native = native_or_none(u)
    if native is None:
        return _six(torch.func.vjp(scan_plain, *given)[1](grad))
    grads = [torch.empty_like(each, memory_format=torch.contiguous_format) for each in given]
    native("selective_scan_grad", *(dense(each) for each in (*given, grad)), *grads, *u.shape, A.shape[1], typed=False)
    return _six(grads)


def _six(grads: Any) -> Six:
    a, b, c, d, e, f = grads
    return a, b, c, d, e, f


@selective_scan_grad.register_fake
def _(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _six([torch.empty_like(each) for each in (u, delta, A, B, C, D)])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Six:
    return _six(selective_scan_grad(*ctx.saved_tensors, grad.contiguous()))


selective_scan.register_autograd(_backward, setup_context=_keep)
