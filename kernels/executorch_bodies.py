"""Operators as XNNPACK takes them: the same numbers from operators that need not leave it. Each one that leaves ends a part of
the network and begins another, which costs time when it runs and much more when it is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgeseg.errors import EdgesegError
from edgeseg.export.known_bad import arguments
from edgeseg.export.rewrites import cubic_weights, lerp_as_sum
from edgeseg.kernels.label_map import onnx_body
from edgeseg.kernels.label_map.torch_op import label_map
from edgeseg.kernels.selective_scan.forms import scan_plain
from edgeseg.kernels.selective_scan.torch_op import selective_scan
from edgeseg.kernels.wkv.forms import CHUNK, Form, form_for, wkv_plain
from edgeseg.kernels.wkv.torch_op import wkv


class WkvInRows(nn.Module):
    """wkv in chunks with the tokens innermost: `[B, T, C]` of `key` and `value`; sums over tokens are products with a constant.

    A softmax over the tokens gives the weights: it differs from the exponentials by a factor that the division takes out.
    """

    own: Tensor

    def __init__(self, decay: Tensor, bonus: Tensor, tokens: int, causal: bool) -> None:
        super().__init__()
        self._size = _chunk_size(tokens)
        self._count = -(-tokens // self._size)
        rate, own = (torch.cat([each, each]).double()[:, None] for each in (decay.detach(), bonus.detach()))
        self.register_buffer("own", own.exp().float())
        self.ways = nn.ModuleList(_OneWay(rate, self._count, self._size, way) for way in ((1,) if causal else (1, -1)))

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        """As `edgeseg.kernels.wkv`."""
        k, v = single(key).mT, single(value).mT
        weight = k.softmax(-1) + 0.0 * k  # XNNPACK's softmax is 0 at a NaN
        both = torch.cat([weight * v, weight], 1)
        total = self._others(both) + both * self.own
        channels = k.shape[1]
        return (total[:, :channels] / total[:, channels:]).mT.to(value.dtype)

    def _others(self, x: Tensor) -> Tensor:
        """Sum over i != t of x_i exp(-(|t - i| - 1) rate), for `x [B, C, T]`."""
        tokens = x.shape[2]
        padding = self._count * self._size - tokens
        cut = (F.pad(x, (0, padding)) if padding else x).reshape(*x.shape[:2], self._count, self._size)
        made = [way(cut) for way in self.ways]
        total = (made[0] + made[1] if len(made) == 2 else made[0]).reshape(*x.shape[:2], -1)
        return total[:, :, :tokens] if padding else total


def _chunk_size(tokens: int) -> int:
    """Near `CHUNK`; one that divides the tokens where there is one, for padding is a copy."""
    near = sorted(range(CHUNK // 2, 2 * CHUNK + 1), key=lambda size: abs(size - CHUNK))
    return tokens if tokens <= 2 * CHUNK else next((size for size in near if tokens % size == 0), CHUNK)


class _OneWay(nn.Module):
    """Sums over what came before (`way` 1) or comes after (-1) each token of `[B, C, n, L]`: as in `edgeseg.kernels.wkv.forms`.

    Exponents are counted from the middle of a chunk, and of the sequence, so that they stay small on both sides.
    """

    rise: Tensor
    triangle: Tensor
    fall: Tensor
    all: Tensor
    outer_rise: Tensor
    outer_triangle: Tensor
    outer_fall: Tensor
    passed: Tensor

    def __init__(self, rate: Tensor, count: int, size: int, way: int) -> None:
        super().__init__()
        inner, outer = _places(size) * way, _places(count) * (size * way)
        tables = {
            "rise": (inner * rate).exp()[:, None],
            "triangle": _triangle(size, way),
            "fall": ((1 - inner) * rate).exp()[:, None],
        }
        if count > 1:
            tables |= {
                "all": torch.ones(1, size),
                "outer_rise": (
                    (outer + (1 - size) / 2) * rate
                ).exp(),  # as the next token hears it, one place beyond the last
                "outer_triangle": _triangle(count, way),
                "outer_fall": ((size - outer) * rate).exp(),
                "passed": (-(inner + (size - 1) / 2) * rate).exp()[:, None],
            }
        for name, table in tables.items():
            self.register_buffer(name, table.float().contiguous())
        self._several = count > 1

    def forward(self, cut: Tensor) -> Tensor:
        """`[B, C, n, L]`."""
        rising = cut * self.rise
        made = F.linear(rising, self.triangle) * self.fall
        if not self._several:
            return made
        whole = F.linear(rising, self.all).reshape(cut.shape[:3]) * self.outer_rise
        begin = F.linear(whole, self.outer_triangle) * self.outer_fall
        return made + begin.reshape(*cut.shape[:3], 1) * self.passed


def _places(count: int) -> Tensor:
    """0 to count - 1 counted from the middle."""
    return torch.arange(count, dtype=torch.float64) - (count - 1) / 2


def _triangle(count: int, way: int) -> Tensor:
    """Row t: 1 for what comes before t, or after it."""
    before = torch.ones(count, count).tril(-1)
    return before if way == 1 else before.T


class WkvPlain(nn.Module):
    """wkv in another form, for decays that chunks do not bear."""

    decay: Tensor
    bonus: Tensor

    def __init__(self, decay: Tensor, bonus: Tensor, causal: bool, form: Form) -> None:
        super().__init__()
        self.register_buffer("decay", decay.detach())
        self.register_buffer("bonus", bonus.detach())
        self._causal, self._form = causal, form

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        """As `edgeseg.kernels.wkv`."""
        made = wkv_plain(self.decay, self.bonus, single(key), single(value), self._causal, self._form)
        return made.to(value.dtype)


class LayerNorm(nn.Module):
    """`aten.layer_norm` over the last axis in float32, from products with a row of equal weights, which are means."""

    equal: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("equal", torch.full((1, channels), 1 / channels))
        self._eps = eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """The shape of `x`."""
        centred = x - F.linear(x, self.equal)
        made = centred * (F.linear(centred * centred, self.equal) + self._eps).rsqrt()
        made = made if weight is None else made * weight
        return made if bias is None else made + bias


class GroupNorm(nn.Module):
    """`aten.group_norm` of a map in float32. ExecuTorch's own adds a million numbers up one by one, and is off by 3e-4 then."""

    same_group: Tensor

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        blocks = torch.block_diag(*[torch.ones(channels // groups, channels // groups)] * groups)
        self.register_buffer("same_group", blocks * (groups / channels))
        self._eps = eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """`[B, C, H, W]`."""
        centred = x - self._mean(x)
        made = centred * (self._mean(centred * centred) + self._eps).rsqrt()
        made = made if weight is None else made * weight.reshape(-1, 1, 1)
        return made if bias is None else made + bias.reshape(-1, 1, 1)

    def _mean(self, x: Tensor) -> Tensor:
        """Of a group, for each of its channels: `[B, C, 1, 1]`."""
        each = x.mean((2, 3), keepdim=True)
        return F.linear(each.reshape(each.shape[:2]), self.same_group).reshape(each.shape)


class HardSigmoid(nn.Module):
    """`aten.hardsigmoid`."""

    half_width: Tensor
    slope: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("half_width", torch.tensor(3.0, dtype=dtype))
        self.register_buffer("slope", torch.tensor(1 / 6, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x`."""
        return F.relu6(x + self.half_width) * self.slope


class Bicubic(nn.Module):
    """`aten.upsample_bicubic2d` as products with constants: rows @ x @ columns."""

    rows: Tensor
    columns: Tensor

    def __init__(
        self, inner: Sequence[int], outer: Sequence[int], align_corners: bool, scales: Sequence[float] | None
    ) -> None:
        super().__init__()
        by = scales or (None, None)
        for name, before, after, scale in zip(("rows", "columns"), inner, outer, by, strict=True):
            self.register_buffer(name, cubic_weights(before, after, align_corners, scale))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, K, H, W]`."""
        return F.linear(F.linear(x, self.columns.to(x.dtype)).mT, self.rows.to(x.dtype)).mT


aten = torch.ops.aten


def single(x: Tensor) -> Tensor:
    """float32, without a node where it is that already."""
    return x if x.dtype == torch.float32 else x.float()


def _scan(*six: Tensor) -> Tensor:
    return scan_plain(*(single(each) for each in six)).to(six[0].dtype)


def _label_map(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """With the classes innermost, which takes two thirds as long; large logits rows first, then a band at a time: 0.6 for 150 classes."""
    row = 4 * logits.shape[0] * logits.shape[1] * width

    def enlarged(x: Tensor, rows: int, columns: int) -> Tensor:
        return F.interpolate(x, size=(rows, columns), mode="bilinear", align_corners=align_corners)

    def labels(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).argmax(3).to(torch.uint8)

    if row * height <= onnx_body.LARGE:
        return labels(enlarged(single(logits), height, width))
    tall = enlarged(single(logits), height, logits.shape[3])
    bands = tall.split(max(1, onnx_body.BAND // row), 2)
    return torch.cat([labels(enlarged(band, band.shape[2], width)) for band in bands], 1)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """`aten.matmul`: without the expansions of PyTorch's own, which copy."""
    if x.ndim < 3 or x.ndim != y.ndim or x.shape[:-2] != y.shape[:-2]:
        return x @ y
    made = x.reshape(-1, *x.shape[-2:]).bmm(y.reshape(-1, *y.shape[-2:]))
    return made.reshape(*x.shape[:-1], y.shape[-1])


def mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """`aten.mean.dim`: over axes of an image as an average pooling."""
    axes = sorted(axis % x.ndim for axis in dim) if dim else list(range(x.ndim))
    if x.ndim != 4 or not set(axes) <= {2, 3} or dtype is not None:
        return x.mean(axes, keepdim, dtype=dtype)
    window = [x.shape[axis] if axis in axes else 1 for axis in (2, 3)]
    made = F.avg_pool2d(x, window) if len(axes) == 1 else x.mean((2, 3), keepdim=True)
    return made if keepdim else made.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])


def average_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`aten.avg_pool2d`: padded before it where the padding counts."""
    rows, columns = (*padding, *padding)[:2] if len(padding) == 1 else padding
    if count_include_pad and not ceil_mode and (rows or columns):
        x, rows, columns = F.pad(x, (columns, columns, rows, rows)), 0, 0
    step = list(stride) or list(kernel_size)
    return F.avg_pool2d(x, list(kernel_size), step, (rows, columns), ceil_mode, count_include_pad, divisor_override)


def adaptive_average_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """`aten.adaptive_avg_pool2d`: the mean, where that is what is asked for."""
    return (
        x.mean((2, 3), keepdim=True)
        if list(output_size) == [1, 1]
        else F.adaptive_avg_pool2d(x, (output_size[0], output_size[1]))
    )


def split(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """`aten.split_with_sizes`: slices."""
    ends = np.cumsum(sizes).tolist()
    return [x.narrow(dim, end - size, size) for end, size in zip(ends, sizes, strict=True)]


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """`aten.unsqueeze`: another shape of the same numbers."""
    place = dim % (x.ndim + 1)
    return x.reshape(*x.shape[:place], 1, *x.shape[place:])


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """`aten.select`: a slice of one."""
    place = dim % x.ndim
    return x.narrow(place, index % x.shape[place], 1).reshape(*x.shape[:place], *x.shape[place + 1 :])


def repeated(x: Tensor, size: Sequence[int], implicit: bool = False) -> Tensor:
    """`aten.expand`: nothing where nothing is repeated."""
    wanted = [x.shape[i - len(size)] if side == -1 else side for i, side in enumerate(size)]
    return x.reshape(wanted) if prod(wanted) == x.numel() else x.expand(wanted)


def same(x: Tensor, memory_format: torch.memory_format | None = None) -> Tensor:
    """`aten.contiguous` and its like: every operator of ExecuTorch writes its numbers in the order of the axes."""
    return x


Function = Callable[..., Any]
Builder = Callable[[Node, GraphModule], "tuple[nn.Module, Sequence[Any]] | None"]


def _wkv_module(node: Node, network: GraphModule) -> tuple[nn.Module, Sequence[Any]]:
    """In chunks where the decays at its place allow it."""
    decay, bonus, key, value, causal = node.args
    assert isinstance(decay, Node)
    assert isinstance(bonus, Node)
    assert isinstance(key, Node)
    if decay.op != "get_attr" or bonus.op != "get_attr":
        raise EdgesegError("the decay of a wkv depends on the input; only a trained decay can be exported")
    rate, own = (attrgetter(str(each.target))(network) for each in (decay, bonus))
    tokens = key.meta["val"].shape[1]
    form = form_for(rate * tokens, preferred="chunk")
    if form == "chunk":
        return WkvInRows(rate, own, tokens, bool(causal)), (key, value)
    return WkvPlain(rate, own, bool(causal), form), (key, value)


def _layer_norm_module(node: Node, network: GraphModule) -> tuple[nn.Module, Sequence[Any]] | None:
    given = arguments(node)
    x, channels = given["input"], given["normalized_shape"]
    if len(channels) != 1 or x.meta["val"].dtype != torch.float32:  # squares would overflow float16
        return None
    return LayerNorm(channels[0], given.get("eps", 1e-5)), (x, given.get("weight"), given.get("bias"))


def _group_norm_module(node: Node, network: GraphModule) -> tuple[nn.Module, Sequence[Any]] | None:
    given = arguments(node)
    x = given["input"]
    if x.meta["val"].ndim != 4 or x.meta["val"].dtype != torch.float32:
        return None
    made = GroupNorm(x.meta["val"].shape[1], given["num_groups"], given.get("eps", 1e-5))
    return made, (x, given.get("weight"), given.get("bias"))


def _hard_sigmoid_module(node: Node, network: GraphModule) -> tuple[nn.Module, Sequence[Any]]:
    (x,) = node.args
    return HardSigmoid(node.meta["val"].dtype), (x,)


def _bicubic_module(node: Node, network: GraphModule) -> tuple[nn.Module, Sequence[Any]]:
    given = arguments(node)
    x = given["input"]
    inner, outer = x.meta["val"].shape[2:], node.meta["val"].shape[2:]
    return Bicubic(inner, outer, given["align_corners"], given.get("scale_factors")), (x,)


WKV = wkv._opoverload

OURS: dict[Any, Function] = {selective_scan._opoverload: _scan, label_map._opoverload: _label_map}
"""Our operators, of standard ones."""

MODULES: dict[Any, Builder] = {WKV: _wkv_module}
"""Likewise, where there are constants to compute."""

XNNPACK: dict[Any, Function] = {
    aten.adaptive_avg_pool2d.default: adaptive_average_pool,
    aten.alias.default: same,
    aten.avg_pool2d.default: average_pool,
    aten.clone.default: same,
    aten.contiguous.default: same,
    aten.expand.default: repeated,
    aten.lerp.Tensor: lerp_as_sum,
    aten.matmul.default: matmul,
    aten.mean.dim: mean,
    aten.select.int: select,
    aten.split_with_sizes.default: split,
    aten.unsqueeze.default: unsqueeze,
}
"""Operators of PyTorch that XNNPACK takes in another form only."""

EXACT_MODULES: dict[Any, Builder] = {aten.group_norm.default: _group_norm_module}
"""Operators that ExecuTorch's own kernels are not exact in."""

XNNPACK_MODULES: dict[Any, Builder] = {
    **EXACT_MODULES,
    aten.hardsigmoid.default: _hard_sigmoid_module,
    aten.layer_norm.default: _layer_norm_module,
    aten.upsample_bicubic2d.vec: _bicubic_module,
}
"""Likewise, where there are constants to compute."""


def without_checks(network: GraphModule) -> None:
    """Leave out what only checks types, which the exporter has put between the operators."""
    for node in list(network.graph.nodes):
        if not node.users and str(node.target).startswith("aten._assert_"):
            network.graph.erase_node(node)


def drop_unused(network: GraphModule) -> None:
    """Forget the weights that nobody reads any more; the exporter would write them."""
    graph = network.graph
    for node in [each for each in graph.nodes if each.op == "get_attr" and not each.users]:
        graph.erase_node(node)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    inside = tuple(f"{node.target}." for node in graph.nodes if node.op == "call_module")
    for name in [*dict(network.named_parameters()), *dict(network.named_buffers())]:
        if name not in read and not name.startswith(inside):
            path, _, last = name.rpartition(".")
            delattr(network.get_submodule(path), last)
    network.recompile()


def cast_first(network: GraphModule) -> None:
    """Turn pixels into floats before they are moved, not after: XNNPACK moves floats only.

    to(contiguous(permute(image)), float)   becomes   contiguous(permute(to(image, float)))
    """
    for node in list(network.graph.nodes):
        if node.target is not aten.to.dtype or node.meta["val"].dtype != torch.float32:
            continue
        moved, first = node.args[0], node
        while moved.target in MOVES and len(moved.users) == 1:
            moved, first = moved.args[0], moved
        if first is node or moved.meta["val"].is_floating_point():
            continue
        with network.graph.inserting_after(moved):
            cast = network.graph.call_function(aten.to.dtype, (moved, torch.float32))
        cast.meta["val"] = moved.meta["val"].float()
        first.replace_input_with(moved, cast)
        last = node.args[0]
        node.replace_all_uses_with(last)
        network.graph.erase_node(node)
        while last is not cast:
            last.meta["val"] = last.meta["val"].float()
            last = last.args[0]


MOVES = (aten.permute.default, aten.contiguous.default)


def rewrite(network: GraphModule, functions: Mapping[Any, Function], modules: Mapping[Any, Builder]) -> None:
    """Put functions, and modules with constants of their own, in the places of operators.

        layer_norm(x, [192], weight, bias)   becomes   body_0(x, weight, bias)

    Raises:
        EdgesegError: the decay of a wkv depends on the input.
    """
    for index, node in enumerate(list(network.graph.nodes)):
        if node.target in modules and (made := modules[node.target](node, network)) is not None:
            body, given = made
            network.add_submodule(f"body_{index}", body.eval())
            with network.graph.inserting_before(node):
                call = network.graph.call_module(f"body_{index}", tuple(given))
            node.replace_all_uses_with(call)
            network.graph.erase_node(node)
        else:
            node.target = functions.get(node.target, node.target)
    network.recompile()
