"""In which order a scan walks over what is not a sequence: an image in one, two or four directions, a cloud of points."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from edgeseg.kernels.selective_scan import selective_scan

DIRECTIONS = (1, 2, 4)


def routes(height: int, width: int, directions: int) -> Tensor:
    """Permutations `[K, H * W]` of the pixels of an image, row by row from the top left being 0, 1, 2 ...

    1: row by row; 2: and backwards; 4: and column by column, and that backwards (Liu et al.: VMamba, arXiv 2401.10166).
    """
    if directions not in DIRECTIONS or min(height, width) < 1:
        raise ValueError(f"an image of {height}x{width} is walked in 1, 2 or 4 directions, not {directions}")
    rows = torch.arange(height * width)
    columns = rows.view(height, width).T.flatten()
    return torch.stack([rows, rows.flip(0), columns, columns.flip(0)][:directions])


def selective_scan_2d(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> Tensor:
    """`y [B, D, H, W]`: the scans of an image along K routes, each with its own parameters, added up.

    u: `[B, D, H, W]`; delta: `[B, K, D, H, W]`, positive; A: `[K, D, N]`; B and C: `[B, K, N, H, W]`; D: `[D]` or nothing.

    Raises:
        ValueError: shapes that do not fit, or K that is not 1, 2 or 4.
    """
    if u.ndim != 4 or delta.ndim != 5 or B.ndim != 5 or not delta.shape[1] == len(A) == B.shape[1] == C.shape[1]:
        shapes = ", ".join(str(list(each.shape)) for each in (u, delta, A, B, C))
        raise ValueError(
            f"selective_scan_2d takes u [B, D, H, W], delta [B, K, D, H, W], A [K, D, N], B and C [B, K, N, H, W]; got {shapes}"
        )
    height, width = u.shape[2:]
    flat = u.flatten(2)
    total = torch.zeros_like(flat)
    for index, route in enumerate(routes(height, width, len(A)).to(u.device)):
        d, b, c = (each[:, index].flatten(2)[..., route] for each in (delta, B, C))
        y = selective_scan(flat[..., route], d, A[index], b, c)
        total = total + y[..., route.argsort()]  # back to the places they came from
    if D is not None:
        total = total + D[:, None] * flat
    return total.unflatten(2, (height, width))


ORDERS = tuple("".join(each) for each in permutations("xyz"))
"""From the slowest axis to the fastest."""


def serialise(points: Tensor, order: str = "xyz", cells: int = 64) -> Tensor:
    """The permutation `[N]` that walks over `points [N, 3]` so that neighbours in the sequence are neighbours in space.

    The box around the points is cut into `cells` per axis, which are walked like a field is ploughed: the second axis
    turns back at each step of the first, the third at each step of the second, so that two cells that follow each other
    always touch (Zhang et al.: Point Cloud Mamba, arXiv 2403.00762). Points of one cell keep their order.

    Raises:
        ValueError: an order that is no permutation of xyz, or points that are not `[N, 3]`.
    """
    if order not in ORDERS or points.ndim != 2 or points.shape[1] != 3 or not 1 <= cells <= 1 << 20:
        raise ValueError(
            f"points [N, 3] are walked in one of the orders {', '.join(ORDERS)} over 1 to {1 << 20} cells per axis; "
            f"got {list(points.shape)}, {order!r} and {cells}"
        )
    if not len(points):
        return torch.zeros(0, dtype=torch.long, device=points.device)
    low, high = points.amin(0), points.amax(0)
    place = (points - low) / (high - low).clamp_min(torch.finfo(points.dtype).tiny) * cells
    grid = place.long().clamp(0, cells - 1)[:, ["xyz".index(axis) for axis in order]]
    row = grid[:, 0]
    for axis in (1, 2):
        row = row * cells + torch.where(row % 2 == 0, grid[:, axis], cells - 1 - grid[:, axis])
    return row.argsort(stable=True)
