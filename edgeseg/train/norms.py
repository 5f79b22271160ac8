"""BatchNorm of all processes' images together, on a CPU too, where PyTorch's own refuses to."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.train.mesh import Gather, by_gloo


class _Normalised(torch.autograd.Function):
    """`x [B, C, ...]` normalised by the mean and variance of all processes' `x`, and both `[C]`, and of how many values they are.

    Each process's own mean, variance and count are gathered, which keeps the digits that sums of squares would lose; backwards the
    two sums that the gradient of BatchNorm has. One exchange each way.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, gather: Gather
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        nothing = weight.new_zeros(channels)  # in float32 when x is bfloat16, so that the results are too
        mean, var = torch.batch_norm_update_stats(x, nothing, torch.ones_like(nothing), 0.0)
        mine = torch.cat([mean, var, mean.new_full((1,), x.numel() / channels)])
        means, variances, counts = gather(mine).split([channels, channels, 1], 1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.gather = eps, gather
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        given_weight, given_bias = torch.ops.aten.native_batch_norm_backward(
            given[0], x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )[1:]
        by_weight, by_bias = ctx.gather(torch.cat([given_weight, given_bias])).sum(0).chunk(2)
        turn = (var + ctx.eps).rsqrt()
        scale = weight * turn
        slope = -scale * turn * by_weight / count
        offset = -scale * by_bias / count - slope * mean
        scale, slope, offset = (each.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype) for each in (scale, slope, offset))
        return torch.addcmul(offset, x, slope).addcmul_(given[0], scale), given_weight, given_bias, None, None


class SyncedNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that learns from the values of all processes."""

    gather: Gather

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # as PyTorch's own for CUDA, of any number of axes

    def forward(self, input: Tensor) -> Tensor:
        """As one process would with all of the images."""
        if not self.training:
            return super().forward(input)
        weight = self.weight if self.affine else input.new_ones(self.num_features, dtype=torch.float32)
        bias = self.bias if self.affine else torch.zeros_like(weight)
        made, mean, var, count = _Normalised.apply(input, weight, bias, self.eps, self.gather)  # type: ignore[no-untyped-call]
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


def _on_cpu(norm: Any, gather: Gather) -> nn.Module:
    made = SyncedNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made._parameters, made._buffers, made.gather = norm._parameters, norm._buffers, gather
    return made.train(norm.training)


def synced(module: nn.Module, kind: str, gather: Gather = by_gloo) -> nn.Module:
    """The module with every BatchNorm in it synced between processes on devices of this kind; weights are the same tensors.

    Only PyTorch's own: what is made of it (timm's BatchNorm with an activation) would lose what it has more.
    """
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return nn.SyncBatchNorm.convert_sync_batchnorm(module) if kind == "cuda" else _on_cpu(module, gather)
    for name, child in module.named_children():
        swapped = synced(child, kind, gather)
        if swapped is not child:
            module.add_module(name, swapped)
    return module
