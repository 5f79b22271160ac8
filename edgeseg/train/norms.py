"""BatchNorm of all processes' images together, on a CPU too, where PyTorch's own refuses to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn


class _Normalised(torch.autograd.Function):
    """`x [B, C, ...]` normalised by the mean and variance of all processes' `x`, and both `[C]`, and of how many values they are.

    Each process's own mean, variance and count are gathered, which keeps the digits that sums of squares would lose; backwards the
    two sums that the gradient of BatchNorm has are added up. One exchange each way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        nothing = weight.new_zeros(channels)  # in float32 when x is bfloat16, so that the results are too
        mean, var = torch.batch_norm_update_stats(x, nothing, torch.ones_like(nothing), 0.0)
        mine = torch.cat([mean, var, mean.new_full((1,), x.numel() / channels)])
        every = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(every, mine)
        means, variances, counts = torch.stack(every).split([channels, channels, 1], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        # as if mean and variance did not depend on x; what is lacking is taken off behind
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
            given[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat(grads[1:])
        distributed.all_reduce(sums)
        by_weight, by_bias = sums.chunk(2)
        turn = (var + ctx.eps).rsqrt()
        slope = weight * turn.square() * by_weight / count
        offset = weight * turn * by_bias / count - slope * mean
        shape = (1, -1, *[1] * (x.ndim - 2))
        lacking = torch.addcmul(offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype))
        return grads[0] - lacking, grads[1], grads[2], None


class SyncedNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that learns from the values of all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # as PyTorch's own for CUDA, of any number of axes

    def forward(self, input: Tensor) -> Tensor:
        """As one process would with all of the images."""
        if not self.training:
            return super().forward(input)
        weight = self.weight if self.affine else input.new_ones(self.num_features, dtype=torch.float32)
        bias = self.bias if self.affine else torch.zeros_like(weight)
        made, mean, var, count = _Normalised.apply(input, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        if count <= 1:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {list(input.shape)}"
            )
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                amount = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, amount)
                self.running_var.lerp_(var * count / (count - 1), amount)
        return made


def _on_cpu(norm: Any) -> nn.Module:
    made = SyncedNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made._parameters, made._buffers = norm._parameters, norm._buffers
    return made.train(norm.training)


def synced(module: nn.Module, kind: str) -> nn.Module:
    """The module with every BatchNorm in it synced between processes on devices of this kind; weights are the same tensors.

    Only PyTorch's own: what is made of it (timm's BatchNorm with an activation) would lose what it has more.
    """
    make: Callable[[Any], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm if kind == "cuda" else _on_cpu
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return make(module)
    for name, child in module.named_children():
        swapped = synced(child, kind)
        if swapped is not child:
            module.add_module(name, swapped)
    return module
