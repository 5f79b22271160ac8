"""wkv as an operator of PyTorch: `torch.compile` and `torch.export` see one node, and its gradient is another one.

On a processor it is the C++ of `csrc/wkv.h`, on CUDA Triton; where neither is there, and for float64, plain PyTorch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgeseg.kernels.torch_native import dense, native_or_none
from edgeseg.kernels.wkv.forms import Form, form_of, wkv_plain


@torch.library.custom_op("edgeseg::wkv", mutates_args=())
def wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """`[B, T, C]` in the type of `value`; `decay [C]` and `bonus [C]` float32 (float64 with float64 values)."""
    if key.device.type == "cuda" and key.dtype != torch.float64:
        from edgeseg.kernels.wkv.triton_scan import wkv_cuda

        return wkv_cuda(decay, bonus, key, value, causal)
    native = native_or_none(key)
    if native is None:
        return _plain(decay, bonus, key, value, causal, form_of(decay, key, causal))
    out = torch.empty_like(value, memory_format=torch.contiguous_format)
    given = [dense(each) for each in (decay, bonus, key, value)]
    native("wkv", *given, out, *key.shape, causal)
    return out


@wkv.register_fake
def _(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


@torch.library.custom_op("edgeseg::wkv_grad", mutates_args=())
def wkv_grad(
    decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of decay, bonus, key and value for `grad`, that of `out`."""
    if key.device.type == "cuda" and key.dtype != torch.float64:
        from edgeseg.kernels.wkv.triton_scan import wkv_grad_cuda

        return wkv_grad_cuda(decay, bonus, key, value, out, grad, causal)
    native = native_or_none(key)
    if native is None:
        form = form_of(decay, key, causal)
        given = decay, bonus, key, value
        first, second, third, fourth = torch.func.vjp(partial(_plain, causal=causal, form=form), *given)[1](grad)
        return first, second, third, fourth
    floats = [dense(each.float()) for each in (decay, bonus, key, value, out, grad)]
    grads = [torch.empty_like(each) for each in floats[:4]]
    native("wkv_grad", *floats, *grads, *key.shape, causal, typed=False)
    return grads[0], grads[1], grads[2].to(key.dtype), grads[3].to(value.dtype)


@wkv_grad.register_fake
def _(
    decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(decay), torch.empty_like(bonus), torch.empty_like(key), torch.empty_like(value)


def _plain(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool, form: Form) -> Tensor:
    kind = torch.promote_types(torch.float32, key.dtype)  # float32 inside, or float64
    w, u, k, v = (each.to(kind) for each in (decay, bonus, key, value))
    return wkv_plain(w, u, k, v, causal, form).to(value.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4], output)
    ctx.causal = inputs[4]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    decay, bonus, key, value, out = ctx.saved_tensors
    return (*wkv_grad(decay, bonus, key, value, out, grad.contiguous(), ctx.causal), None)


wkv.register_autograd(_backward, setup_context=_keep)
