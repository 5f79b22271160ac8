"""A Mamba block for images: what a network of your own is made of when it is to run on every runtime that edgeseg exports to.

Gu & Dao: Mamba, arXiv 2312.00752; Liu et al.: VMamba, arXiv 2401.10166. No student of the registry uses it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.kernels.selective_scan.orders import selective_scan_2d
from edgeseg.students.layers import LayerNorm2d

LEAST, MOST = 0.001, 0.1
"""Between these lie the deltas of a fresh block, evenly over their logarithm."""


class MambaBlock(nn.Module):
    """Widen, look at the neighbours, scan in several directions, gate, narrow; a shortcut around it all.

    dim:        channels of the map. `expand` times as many inside, `states` per channel.
    directions: 1, 2 or 4 ways to walk over the image.
    """

    def __init__(self, dim: int, states: int = 16, expand: int = 2, directions: int = 4) -> None:
        super().__init__()
        inner, self.rank = expand * dim, max(1, math.ceil(dim / 16))
        self.states, self.directions = states, directions
        self.norm = LayerNorm2d(dim, 1e-6)
        self.widen = nn.Conv2d(dim, 2 * inner, 1, bias=False)
        self.near = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.select = nn.Conv2d(inner, directions * (self.rank + 2 * states), 1, bias=False)
        self.steps = nn.Conv2d(directions * self.rank, directions * inner, 1, groups=directions)
        self.rates = nn.Parameter(torch.arange(1.0, states + 1).log().expand(directions, inner, -1).clone())
        self.skip = nn.Parameter(torch.full((inner,), float(directions)))
        self.out_norm = LayerNorm2d(inner, 1e-6)
        self.narrow = nn.Conv2d(inner, dim, 1, bias=False)
        fresh = torch.exp(torch.rand(directions * inner) * math.log(MOST / LEAST) + math.log(LEAST))
        with torch.no_grad():
            assert self.steps.bias is not None
            self.steps.bias.copy_(fresh + torch.log(-torch.expm1(-fresh)))  # softplus gives `fresh` back

    def forward(self, x: Tensor) -> Tensor:
        """`[B, dim, h, w]` to the same shape."""
        inside, gate = self.widen(self.norm(x)).chunk(2, 1)
        inside = F.silu(self.near(inside))
        chosen = self.select(inside).unflatten(1, (self.directions, -1))
        low, b, c = chosen.split([self.rank, self.states, self.states], 2)
        delta = F.softplus(self.steps(low.flatten(1, 2))).unflatten(1, (self.directions, -1))
        y = selective_scan_2d(inside, delta, -self.rates.exp(), b, c, self.skip)
        result: Tensor = x + self.narrow(self.out_norm(y) * F.silu(gate))
        return result
