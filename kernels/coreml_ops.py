"""The operators in Core ML: standard operators of MIL for each node of `torch.export`; an mlprogram knows no custom ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.errors import EdgesegError, need
from edgeseg.export.rewrites import cubic_weights, nearest_weights
from edgeseg.kernels.label_map.onnx_body import BAND, LARGE
from edgeseg.kernels.wkv.forms import CHUNK, form_for
from edgeseg.runtimes.mil_interpreter import quiet

Array = NDArray[np.floating]

ISLANDS = ("wkv", "selective_scan")
"""The operators that compute in float32 inside whatever is around them: their exponentials and long sums leave float16."""


class Make:
    """Makes the MIL operators of one node, under names by which `half_outside` knows them."""

    def __init__(self, operator: str, node: str) -> None:
        self.prefix, self.count = f"{_prefix(operator)}{node}", 0

    def __call__(self, kind: str, **inputs: Any) -> Any:
        """What one operator makes; arrays become constants of float32."""
        self.count += 1
        floats = {
            name: given.astype(np.float32) if isinstance(given, np.ndarray) and given.dtype == np.float64 else given
            for name, given in inputs.items()
        }
        builder = need("coremltools.converters.mil").Builder
        return getattr(builder, kind)(**floats, name=f"{self.prefix}_{self.count}")

    def floats(self, value: Any) -> Any:
        """A value in float32."""
        kinds = need("coremltools.converters.mil").mil.types
        return value if value.dtype == kinds.fp32 else self("cast", x=value, dtype="fp32")

    def parts(self, x: Any, axis: int) -> list[Any]:
        """A value cut into slices of one along an axis."""
        count = x.shape[axis]
        return [x] if count == 1 else list(self("split", x=x, num_splits=count, axis=axis))

    def lengthened(self, x: Any, tokens: int) -> Any:
        """`[B, T, C]` with zeros behind, to so many tokens."""
        extra = tokens - x.shape[1]
        return self("pad", x=x, pad=[0, extra, 0, 0], mode="constant", constant_val=0.0) if extra else x

    def shortened(self, x: Any, tokens: int) -> Any:
        """The first tokens of `[B, T, C]`."""
        if x.shape[1] == tokens:
            return x
        return self("slice_by_index", x=x, begin=[0, 0, 0], end=[x.shape[0], tokens, x.shape[2]])


def wkv(make: Make, decay: Any, bonus: Any, key: Any, value: Any, causal: Any) -> Any:
    """As `edgeseg.kernels.wkv`, in the form of `wkv.forms` that bears this node's decays, from constants made in float64.

    Raises:
        EdgesegError: a decay that depends on the input, or growth that no form bears in float32.
    """
    w, u = (_trained(given, name) for given, name in ((decay, "decay"), (bonus, "bonus")))
    k, v = make.floats(key), make.floats(value)
    tokens = k.shape[1]
    largest = make("reduce_max", x=k, axes=[1], keep_dims=True)
    weight = make("exp", x=make("sub", x=k, y=largest))
    both = make("concat", values=[make("mul", x=weight, y=v), weight], axis=0)
    total = make("mul", x=both, y=np.exp(u))
    if tokens > 1:
        total = make("add", x=total, y=_form(w * tokens)(make, w, both, bool(causal.val)))
    numerator, denominator = make("split", x=total, num_splits=2, axis=0)
    return make("real_div", x=numerator, y=denominator)


def _form(total_decay: Array) -> Callable[..., Any]:
    form = form_for(torch.from_numpy(total_decay), "chunk")
    if form == "pairs":
        growth = -total_decay.min()
        raise EdgesegError(
            f"wkv grows by exp({growth:.0f}) over the sequence, more than MIL's operators bear in float32"
        )
    return _doubling if form == "doubling" else _chunk


def _trained(given: Any, name: str) -> Array:
    if given.val is None:
        raise EdgesegError(f"the {name} of a wkv depends on the input; only a trained {name} can be exported")
    return np.asarray(given.val, np.float64)


def _chunk(make: Make, w: Array, x: Any, causal: bool) -> Any:
    """The sum over what came before each token, and what comes after it, `[B, T, C]`: no loop and no cumulative sum.

        x [B, n, L, C] -> x exp(q w) -> triangle [L, L] @ it            within the chunk
                                     -> sums of chunks [B, n, C] exp(p w) -> triangle [n, n] @ it, exp(-p w)   before it
        both together -> exp((1 - q) w)

    q is a token's place in its chunk and p its chunk's in the sequence, both counted from the middle so that exponents stay
    small; the other way round they change their sign.
    """
    rows, tokens, channels = x.shape
    size = min(CHUNK, tokens)
    count = -(-tokens // size)
    cut = make("reshape", x=make.lengthened(x, count * size), shape=[rows, count, size, channels])
    made = []
    for way in (1,) if causal else (1, -1):
        inner, outer = way * _places(size), way * size * _places(count)
        risen = make("mul", x=cut, y=np.exp(inner * w))
        sums = make("matmul", x=_earlier(size, way), y=risen)
        if count > 1:
            whole = make("reduce_sum", x=risen, axes=[2], keep_dims=False)
            begin = make("matmul", x=_earlier(count, way), y=make("mul", x=whole, y=np.exp(outer * w)))
            begin = make("mul", x=begin, y=np.exp(-outer * w))
            sums = make("add", x=sums, y=make("expand_dims", x=begin, axes=[2]))
        made.append(make("mul", x=sums, y=np.exp((1 - inner) * w)))
    total = made[0] if causal else make("add", x=made[0], y=made[1])
    return make.shortened(make("reshape", x=total, shape=[rows, count * size, channels]), tokens)


def _places(count: int) -> Array:
    """0 to count - 1 as `[count, 1]`, counted from the middle."""
    return np.arange(count, dtype=np.float64)[:, None] - (count - 1) / 2


def _earlier(count: int, way: int) -> Array:
    """`[count, count]`: 1 where the column comes before the row on the way, else 0."""
    before = np.tri(count, k=-1)
    return before if way > 0 else before.T


def _doubling(make: Make, w: Array, x: Any, causal: bool) -> Any:
    """The same from windows that double, S_2n(t) = S_n(t) + exp(-n w) S_n(t - n): it bears any decay."""
    made = []
    for way in (1,) if causal else (1, -1):
        window, step = _moved(make, x, way), 1
        while step < x.shape[1]:
            faded = make("mul", x=_moved(make, window, way * step), y=np.exp(-step * w))
            window = make("add", x=window, y=faded)
            step *= 2
        made.append(window)
    return made[0] if causal else make("add", x=made[0], y=made[1])


def _moved(make: Make, x: Any, by: int) -> Any:
    """`[B, T, C]` moved `by` tokens later, or earlier where negative; zeros come in."""
    rows, tokens, channels = x.shape
    kept = make("slice_by_index", x=x, begin=[0, max(0, -by), 0], end=[rows, tokens - max(0, by), channels])
    return make("pad", x=kept, pad=[max(0, by), max(0, -by), 0, 0], mode="constant", constant_val=0.0)


def selective_scan(make: Make, u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """As `selective_scan.forms.scan_plain`: chunks of L tokens side by side from nothing, from chunk to chunk, and again.

        what fades and what is new of every token [L, Bn, N, D], each in one operator, then cut into L
        h = fade h + new, L steps -> n steps over the chunks -> L steps from what each chunk begins with -> C @ h

    L is about the square root of the tokens, so that the steps are as few as they can be.
    """
    x, delta, A, B, C, D = (make.floats(each) for each in (u, delta, A, B, C, D))
    batch, tokens, channels = x.shape
    states, size = A.shape[1], max(1, round(math.sqrt(tokens)))
    count = -(-tokens // size)

    def places(given: Any, *shape: int) -> Any:
        """`[B, T, W]` as `[L, Bn, *shape]`."""
        whole = make("reshape", x=make.lengthened(given, count * size), shape=[batch * count, size, given.shape[2]])
        turned = make("transpose", x=whole, perm=[1, 0, 2])
        return make("reshape", x=turned, shape=[size, batch * count, *shape])

    rates = make("transpose", x=A, perm=[1, 0])
    steps = places(delta, 1, channels)
    fades = make.parts(make("exp", x=make("mul", x=steps, y=rates)), 0)
    taken = places(make("mul", x=delta, y=x), 1, channels)
    news = make.parts(make("mul", x=taken, y=places(B, states, 1)), 0)
    begin = None
    if count > 1:
        span = make("exp", x=make("mul", x=make("reduce_sum", x=steps, axes=[0], keep_dims=True), y=rates))
        chunks = [
            make.parts(make("reshape", x=each, shape=[batch, count, states, channels]), 1)
            for each in (span, _walk(make, fades, news, None)[-1])
        ]
        nothing = make("const", val=np.zeros((batch, 1, states, channels)))
        begins = [nothing, *_walk(make, chunks[0][:-1], chunks[1][:-1], None)]
        joined = make("concat", values=begins, axis=1)
        begin = make("reshape", x=joined, shape=[1, batch * count, states, channels])
    walked = _walk(make, fades, news, begin)
    held = walked[0] if size == 1 else make("concat", values=walked, axis=0)
    heard = make("reshape", x=make("matmul", x=places(C, 1, states), y=held), shape=[size, batch * count, channels])
    flat = make("reshape", x=make("transpose", x=heard, perm=[1, 0, 2]), shape=[batch, count * size, channels])
    return make("add", x=make.shortened(flat, tokens), y=make("mul", x=x, y=D))


def _walk(make: Make, fades: list[Any], news: list[Any], state: Any) -> list[Any]:
    """The states after each step."""
    made = []
    for fade, new in zip(fades, news, strict=True):
        state = new if state is None else make("add", x=make("mul", x=fade, y=state), y=new)
        made.append(state)
    return made


def label_map(make: Make, logits: Any, height: Any, width: Any, align_corners: Any) -> Any:
    """As `edgeseg.kernels.label_map`, int32, since an mlprogram gives no bytes out.

    Full-size logits that would be large are made a band of rows at a time: all rows at low width first, as bilinear sampling
    allows, then columns and labels.
    """
    high, wide, align = int(height.val), int(width.val), bool(align_corners.val)
    mode = "STRICT_ALIGN_CORNERS" if align else "UNALIGN_CORNERS"
    batch, classes, _, low_width = logits.shape

    def enlarged(x: Any, rows: int, columns: int) -> Any:
        return make("resize_bilinear", x=x, target_size_height=rows, target_size_width=columns, sampling_mode=mode)

    def labels(x: Any, rows: int) -> Any:
        return make("reduce_argmax", x=enlarged(x, rows, wide), axis=1, keep_dims=False)

    row = 4 * batch * classes * wide
    if row * high <= LARGE:
        return labels(logits, high)
    rows = max(1, min(high, BAND // row))
    sizes = [min(rows, high - start) for start in range(0, high, rows)]
    bands = make("split", x=enlarged(logits, high, low_width), split_sizes=sizes, axis=2)
    return make("concat", values=[labels(band, count) for band, count in zip(bands, sizes, strict=True)], axis=1)


def lerp(make: Make, start: Any, end: Any, weight: Any) -> Any:
    """PyTorch's own, which RWKV mixes neighbours with and coremltools 9 does not know."""
    return make("add", x=start, y=make("mul", x=make("sub", x=end, y=start), y=weight))


def alias(make: Make, x: Any) -> Any:
    """What `run_decompositions` makes of a `.to` that changes nothing, which coremltools 9 does not know either."""
    return x


def bicubic(make: Make, x: Any, size: Any, align_corners: Any, scales: Any) -> Any:
    """As `export.rewrites.bicubic_as_products`: MIL has no such resizing."""
    return _resized(make, x, size, scales, partial(cubic_weights, align_corners=bool(align_corners.val)))


def nearest(make: Make, x: Any, size: Any, scales: Any) -> Any:
    """Repeats each sample; by a fraction as a product: which sample Core ML would take then, its documentation does not say."""
    (rows, height), (columns, width) = _lengths(x, size, scales)
    if height % rows or width % columns:
        return _resized(make, x, size, scales, nearest_weights)
    return make(
        "upsample_nearest_neighbor", x=x, scale_factor_height=height // rows, scale_factor_width=width // columns
    )


def _lengths(x: Any, size: Any, scales: Any) -> list[tuple[int, int]]:
    """Height before and after, and width."""
    inner = [int(side) for side in x.shape[-2:]]
    outer = _numbers(size) if size is not None else [s * by for s, by in zip(inner, _numbers(scales), strict=True)]
    if any(side % 1 for side in outer):
        raise EdgesegError(f"resizing {inner} to {outer} ends between two samples; give a size instead of a scale")
    return list(zip(inner, map(int, outer), strict=True))


def _numbers(given: Any) -> list[float]:
    """The numbers of a constant, or of a list of them."""
    values: list[Any] = given if isinstance(given, list) else list(given.val)
    return [float(each.val if hasattr(each, "val") else each) for each in values]


def _resized(make: Make, x: Any, size: Any, scales: Any, weights: Callable[[int, int], Tensor]) -> Any:
    """`x [B, K, h, w]` at another size: rows @ x @ columns."""
    rows, columns = (weights(*lengths).double().numpy() for lengths in _lengths(x, size, scales))
    return make("matmul", x=rows, y=make("matmul", x=x, y=columns, transpose_y=True))


LOWERINGS: dict[str, Callable[..., Any]] = {
    "edgeseg::wkv": wkv,
    "edgeseg::selective_scan": selective_scan,
    "edgeseg::label_map": label_map,
    "lerp": lerp,
    "alias": alias,
    "upsample_bicubic2d.vec": bicubic,
    "upsample_nearest2d.vec": nearest,
}
"""Operator as coremltools calls it -> what makes it."""


def _of_truths(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """A function in the place of an operator where both arguments are truths; else PyTorch keeps its own."""
    return lambda x, y: function(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


SPELLINGS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.__and__.Tensor: _of_truths(torch.logical_and),
    torch.ops.aten.__or__.Tensor: _of_truths(torch.logical_or),
}
"""Operators of PyTorch that coremltools 9 knows under another name only."""


@cache
def register() -> None:
    """Teach coremltools these operators; once per process."""
    frontend = need("coremltools.converters.mil.frontend.torch.ops")
    for name, made in LOWERINGS.items():

        def lower(context: Any, node: Any, made: Callable[..., Any] = made) -> None:
            result = made(Make(made.__name__, node.name), *frontend._get_inputs(context, node))
            context.add(result, torch_name=node.name)

        lower.__name__ = name  # what it is registered under
        frontend.register_torch_op(lower, override=True)


def half_outside(islands: Sequence[str] = ISLANDS) -> Any:
    """The `compute_precision` of float16 everywhere but inside the operators named."""
    prefixes = tuple(_prefix(name) for name in islands)
    with quiet():
        transform = need("coremltools").transform
    return transform.FP16ComputePrecision(lambda op: not op.name.startswith(prefixes))


TINY = float(np.finfo(np.float16).tiny)
"""The smallest number that float16 has all its bits for; processors may take smaller ones for 0."""


def scales_in_half(program: Any) -> None:
    """Raise the scales of activations in a program of `torch.export` to what float16 can divide by; in place.

    A smaller one is that of a value which was 0, or next to it, on every calibration image.
    """
    for node in program.graph.nodes:
        marked = str(node.target).startswith("quantized_decomposed.")
        if marked and isinstance(node.args[1], float) and node.args[1] < TINY:
            node.args = (node.args[0], TINY, *node.args[2:])


def _prefix(operator: str) -> str:
    return f"edgeseg_{operator}__"


WRONG = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What coremltools raises for a network that it does not take; it has no error of its own."""


def convert(program: Any, deployment: str = "iOS17", precision: Any = None, **given: Any) -> Any:
    """The program of `torch.export` as coremltools' model.

    deployment: as `coremltools.target` has it. precision: as coremltools has it, else float32. given: its `inputs`, `outputs`.

    Raises:
        EdgesegError: an operator that coremltools does not know, or a wkv that Core ML cannot have.
    """
    with quiet():
        tools = need("coremltools")
        register()
        try:
            return tools.convert(
                deepcopy(program.run_decompositions(SPELLINGS)),  # its folding of biases was seen to write into ours
                minimum_deployment_target=getattr(tools.target, deployment),
                compute_precision=precision or tools.precision.FLOAT32,
                skip_model_load=True,
                **given,
            )
        except (EdgesegError, *WRONG) as error:
            clear_frames(error.__traceback__)  # they hold a temporary folder that would complain when it goes later
            why = " ".join(str(error).split())
            raise EdgesegError(f"cannot convert the network to Core ML: {why}") from error


def save_package(program: Any, path: Path, precision: Any = None, deployment: str = "iOS17") -> Path:
    """The program of `torch.export` as an .mlpackage; raises as `convert` does."""
    made = convert(program, deployment, precision)
    with quiet():
        made.save(str(path))
    return path
