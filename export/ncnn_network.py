"""A network in operators that pnnx turns into layers of ncnn: constants computed, ours as plain ones, truth as 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgeseg.errors import EdgesegError
from edgeseg.export.known_bad import module_of
from edgeseg.export.rewrites import bicubic_as_products, lerp_as_sum, nearest_as_products
from edgeseg.kernels.selective_scan.torch_op import selective_scan
from edgeseg.kernels.wkv.forms import form_for, wkv_plain
from edgeseg.kernels.wkv.torch_op import wkv

WKV, INDEX = wkv._opoverload, torch.ops.aten.index.Tensor

STEEP = 1e30
"""What makes a difference of float32 numbers, however small, at least 1 before it is clipped: exact for |a - b| >= 1e-30."""

FINITE = torch.finfo(torch.float32).max


def for_pnnx(program: torch.export.ExportedProgram) -> GraphModule:
    """The module of an exported program, to be traced; float32 in and out, for the inputs it was exported with.

    Raises:
        EdgesegError: the decay of a wkv depends on the input, or a type matters that float32 cannot stand for.
    """
    module = program.module()
    assert isinstance(module, GraphModule)
    for node in list(module.graph.nodes):
        checks = node.op == "call_module" or str(node.target).startswith("aten._assert_")
        if checks and not node.users:
            module.graph.erase_node(node)
    with torch.no_grad():
        fold(module)
    for node in module.graph.nodes:
        refuse_types(node)
        if node.target is WKV:
            _choose_form(module, node)
        node.target = BODIES.get(node.target, node.target)
    module.recompile()
    return module


def ours(program: torch.export.ExportedProgram) -> list[str]:
    """The operators of ours in a program, as in a manifest."""
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    return sorted(name.split(".")[1] for name in names if name.startswith("edgeseg."))


def fold(module: GraphModule) -> None:
    """Compute what depends on constants alone, such as decays and places in a map; numbers become float32, as all are in ncnn.

    add(div(arange(4), 4), image)   becomes   add(folded_0, image)
    """
    known: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(node.target)(module)
        elif node.op == "call_function" and all(each in known for each in node.all_input_nodes):
            made = [torch.fx.node.map_arg(given, known.__getitem__) for given in (node.args, node.kwargs)]
            known[node] = node.target(*made[0], **made[1])
    for index, node in enumerate(list(known)):
        value = known[node]
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        name, indexes = f"folded_{index}", any(user.target is INDEX for user in node.users)
        number = value if value.is_floating_point() or indexes else value.float()
        module.register_buffer(name, number.detach().contiguous())
        with module.graph.inserting_before(node):
            folded = module.graph.get_attr(name)
            folded.meta["val"] = value  # of the type that it had
            node.replace_all_uses_with(folded, lambda user: user not in known)
    module.graph.eliminate_dead_code()


def refuse_types(node: Node) -> None:
    """Refuse what is something else in whole numbers or truths than in float32, which is all that ncnn computes in.

    Raises:
        EdgesegError: a real number that becomes a whole one or a truth, or an operator of truths on numbers.
    """
    packet = getattr(node.target, "overloadpacket", None)
    if packet not in CONVERSIONS | TRUTHS:
        return
    kinds = [value.dtype for each in node.all_input_nodes if isinstance(value := each.meta.get("val"), Tensor)]
    if packet in TRUTHS:
        if any(kind != torch.bool for kind in kinds):
            raise EdgesegError(
                f"ncnn has 0 and 1 for truths: {packet} of numbers in {module_of(node)}; compare them first"
            )
        return
    before, after = kinds[0], node.meta["val"].dtype
    if after == torch.bool != before:
        raise EdgesegError(f"ncnn cannot make truths of {before} numbers: {packet} in {module_of(node)}; use x != 0")
    if before.is_floating_point and not (after.is_floating_point or after == torch.bool):
        raise EdgesegError(
            f"ncnn has no {after}: {packet} in {module_of(node)} would not cut the numbers; round or floor them and keep floats"
        )


def _choose_form(module: nn.Module, node: Node) -> None:
    """Append to a wkv's arguments the form that its decays bear."""
    decay, key = node.args[0], node.args[2]
    assert isinstance(decay, Node)
    assert isinstance(key, Node)
    if decay.op != "get_attr":
        raise EdgesegError("the decay of a wkv depends on the input; only a trained decay can be exported")
    total = attrgetter(str(decay.target))(module) * key.meta["val"].shape[1]
    node.args = (*node.args, form_for(total, preferred="closed"))


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The selective scan by windows that double, for pnnx takes minutes over a step per token of a chunk.

        S_2n(t) = S_n(t) + exp(A (delta summed over n tokens up to t)) S_n(t - n)

    The states of a channel stand beside each other in one axis: with an axis of their own, ncnn is wrong without a word.
    """
    tokens, (channels, count) = u.shape[1], A.shape
    left = torch.cat([delta] * count, 2) * A.T.flatten()
    states = torch.cat([delta * u * B[..., i : i + 1] for i in range(count)], 2)
    step = 1
    while step < tokens:
        states = states + left.exp() * _later(states, step)
        left = left + _later(left, step)
        step *= 2
    y = D * u
    for i, part in enumerate(states.split(channels, 2)):
        y = y + part * C[..., i : i + 1]
    return y


def _later(x: Tensor, by: int) -> Tensor:
    return F.pad(x[:, : x.shape[1] - by], (0, 0, by, 0))


def _less(a: Any, b: Any) -> Tensor:
    """1 where a < b, else 0."""
    return ((b - a) * STEEP).clamp(0, 1)


def _unlike(a: Any, b: Any) -> Tensor:
    return ((a - b).abs() * STEEP).clamp(0, 1)


def _more(a: Any, b: Any) -> Tensor:
    return _less(b, a)


def _not(a: Tensor) -> Tensor:
    return 1 - a


def _negated(compare: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda a, b: 1 - compare(a, b)


def _either(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


def _any(a: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    return a.amax(dim, keepdim)


def _where(condition: Tensor, a: Any, b: Any) -> Tensor:
    """A choice as a sum, which an infinite number that is not chosen would spoil: the largest finite one stands for it."""
    first, second = (max(-FINITE, min(FINITE, each)) if isinstance(each, (int, float)) else each for each in (a, b))
    return condition * first + (1 - condition) * second


def _masked_fill(x: Tensor, mask: Tensor, value: float) -> Tensor:
    return _where(mask, value, x)


def _same(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """For conversions between types: there is one, and what would not be the same in it is refused before."""
    return x


def _split(x: Tensor, sizes: list[int], dim: int = 0) -> list[Tensor | None]:
    """Parts of no width, which ncnn's layer refuses, are left out: nothing can be computed from them."""
    parts = iter(x.split([size for size in sizes if size], dim))
    return [next(parts) if size else None for size in sizes]


def _clamp_min(x: Tensor, least: float) -> Tensor:
    return x.clamp(least, FINITE)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """As it is, ncnn takes log(1 + y), which leaves 4 of 7 digits of y = 0.001; the factor gives back what 1 + y rounded off."""
    scaled = x * beta
    y = (-scaled.abs()).exp()
    rounded = 1 + y
    return (scaled.relu() + rounded.log() * y / (rounded - 1).clamp(1e-20, 1)) / beta


def _index(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    """Orders of the last axis in which images are walked: row by row or column by column, and backwards.

    x[..., [0, 3, 1, 4, 2, 5]]   becomes   flatten(transpose(unflatten(x, 2 rows of 3)))
    """
    *before, order = indices
    count = x.shape[-1]
    if order is None or len(indices) != x.ndim or order.shape != (count,) or any(each is not None for each in before):
        return INDEX(x, indices)
    for backwards in (False, True):
        asked = order.flip(0) if backwards else order
        step = int(asked[1] - asked[0]) if count > 1 else 1
        if step < 1 or count % step or not torch.equal(asked, torch.arange(count).view(-1, step).T.flatten()):
            continue
        made = x if step == 1 else x.unflatten(-1, (count // step, step)).transpose(-1, -2).flatten(-2)
        return made.flip(-1) if backwards else made
    return INDEX(x, indices)


aten = torch.ops.aten

CONVERSIONS = {aten.to, aten._to_copy, aten.type_as}
TRUTHS = {
    aten.any,
    *(aten.logical_not, aten.logical_and, aten.logical_or, aten.logical_xor),
    *(aten.bitwise_not, aten.bitwise_and, aten.bitwise_or, aten.bitwise_xor),
    *(aten.__and__, aten.__or__, aten.__xor__),
}
"""Operators whose bodies take 0 and 1."""

BODIES: dict[Any, Callable[..., Any]] = {
    WKV: wkv_plain,
    selective_scan._opoverload: _scan,
    aten.upsample_bicubic2d.vec: bicubic_as_products,
    aten.upsample_nearest2d.vec: nearest_as_products,
    aten.lerp.Tensor: lerp_as_sum,
    aten.split_with_sizes.default: _split,
    aten.to.dtype: _same,
    aten._to_copy.default: _same,
    aten.alias.default: _same,
    INDEX: _index,
    aten.softplus.default: _softplus,
    aten.clamp_min.default: _clamp_min,
    aten.any.dim: _any,
    aten.masked_fill.Scalar: _masked_fill,
    **dict.fromkeys((aten.lt.Tensor, aten.lt.Scalar), _less),
    **dict.fromkeys((aten.gt.Tensor, aten.gt.Scalar), _more),
    **dict.fromkeys((aten.ge.Tensor, aten.ge.Scalar), _negated(_less)),
    **dict.fromkeys((aten.le.Tensor, aten.le.Scalar), _negated(_more)),
    **dict.fromkeys((aten.ne.Tensor, aten.ne.Scalar), _unlike),
    **dict.fromkeys((aten.eq.Tensor, aten.eq.Scalar), _negated(_unlike)),
    **dict.fromkeys((aten.logical_not.default, aten.bitwise_not.default), _not),
    **dict.fromkeys((aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor), torch.mul),
    **dict.fromkeys((aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor), _either),
    **dict.fromkeys((aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar), _where),
}
"""Operator of PyTorch -> what stands for it."""
