"""selective_scan: the recurrence of Mamba over a sequence, over an image in two or four directions, over a cloud of points."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """`y [B, D, T]`: h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t, y_t = C_t h_t + D u_t, times silu(z) where there is a gate.

    u, delta, z: `[B, D, T]`; `A [D, N]`, negative; `B` and `C` `[B, N, T]`; `D` and `delta_bias` `[D]`.

    Gu & Dao: Mamba, arXiv 2312.00752. float32 inside (float64 for float64), the type of `u` outside. Defined by
    `reference.selective_scan_reference`.

    Raises:
        ValueError: shapes that do not fit, or no token at all.
    """
    import torch
    import torch.nn.functional as F

    from edgeseg.kernels.selective_scan.torch_op import selective_scan as operator

    check(u, delta, A, B, C)
    kind = torch.float64 if u.dtype == torch.float64 else torch.float32
    step = delta.to(kind)
    if delta_bias is not None:
        step = step + delta_bias.to(kind)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    skip = u.new_zeros(u.shape[1], dtype=kind) if D is None else D.to(kind)
    inner = (each.to(kind).transpose(1, 2) for each in (u, step, B, C))
    x, d, b, c = (each.contiguous() for each in inner)
    y: Tensor = operator(x, d, A.to(kind), b, c, skip).transpose(1, 2)
    return (y if z is None else y * F.silu(z.to(kind))).to(u.dtype)


def check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    """Refuse shapes that do not fit each other, and say which they are."""
    fit = u.ndim == 3 and u.shape == delta.shape and A.ndim == 2 and A.shape[0] == u.shape[1] and u.shape[2] > 0
    if not fit or not B.shape == C.shape == (u.shape[0], A.shape[1], u.shape[2]):
        shapes = ", ".join(str(list(each.shape)) for each in (u, delta, A, B, C))
        raise ValueError(
            f"selective_scan takes u and delta [B, D, T], A [D, N], B and C [B, N, T], T at least 1; got {shapes}"
        )
