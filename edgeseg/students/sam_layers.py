"""The two-way transformer of SAM: a few tokens and the image take turns in listening to each other.

Kirillov et al.: Segment Anything, arXiv 2304.02643. Key names are SAM's. An image that several prompts are about comes in
once, as `[1, T, C]`, and stays one until the prompts have told it something: its keys and values are then computed once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

HEADS, DOWNSAMPLE, DEPTH = 8, 2, 2

UNSEEN = -3e4
"""A score whose exponential is 0, in float16 too."""


class Attention(nn.Module):
    """Attention of `dim` channels, narrower inside."""

    def __init__(self, dim: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`q [P, N, C]` over `k` and `v` `[P or 1, T, C]` to `[P, N, C]`; `hidden [P, T]` is added to the scores."""
        q, k, v = _heads(self.q_proj(q)), _heads(self.k_proj(k)), _heads(self.v_proj(v))
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        if hidden is not None:
            scores = scores + hidden[:, None, None]
        result: Tensor = self.out_proj((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        return result


def _heads(x: Tensor) -> Tensor:
    """`[P, N, C]` to `[P, heads, N, C / heads]`."""
    count, places, channels = x.shape
    return x.reshape(count, places, HEADS, channels // HEADS).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a ReLU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` to the same shape."""
        result: Tensor = self.lin2(F.relu(self.lin1(x)))
        return result


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens over the image, an MLP, the image over the tokens; a norm after each."""

    def __init__(self, dim: int, mlp: nn.Module, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim)
        self.cross_attn_token_to_image = Attention(dim, DOWNSAMPLE)
        self.mlp = mlp
        self.cross_attn_image_to_token = Attention(dim, DOWNSAMPLE)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))
        self.first = first

    def among(self, tokens: Tensor, code: Tensor, hidden: Tensor | None) -> Tensor:
        """The first step: the first block knows no codes yet, and replaces the tokens instead of adding to them."""
        if self.first:
            result: Tensor = self.self_attn(tokens, tokens, tokens, hidden)
            return result
        coded = tokens + code
        return tokens + self.self_attn(coded, coded, tokens, hidden)

    def forward(
        self, tokens: Tensor, image: Tensor, code: Tensor, place: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`tokens [P, N, C]` with their `code`, `image [P or 1, T, C]` with its `place`, both renewed."""
        tokens = self.norm1(self.among(tokens, code, hidden))
        seen = image + place
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + code, seen, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(seen, tokens + code, tokens, hidden))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks, and the tokens over the image once more."""

    def __init__(self, dim: int, mlp: Callable[[], nn.Module], block: type[TwoWayBlock] = TwoWayBlock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(dim, mlp(), index == 0) for index in range(DEPTH))
        self.final_attn_token_to_image = Attention(dim, DOWNSAMPLE)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, image: Tensor, place: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`tokens [P, N, C]`, `image` and its codes `place` `[P or 1, T, C]`, to tokens and image `[P, T, C]`.

        hidden: `[P, N]`, 0 for a token that is there, `UNSEEN` for one that nobody is to listen to.
        """
        code = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, code, place, hidden)
        tokens = tokens + self.final_attn_token_to_image(tokens + code, image + place, image)
        return self.norm_final_attn(tokens), image
