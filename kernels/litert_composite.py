"""Our operators in LiteRT: each is a composite, a name and attributes with a body of standard operators.

LiteRT runs the body in the composite's place, wherever it runs at all; `litert_plugin` puts our kernel there instead.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node, map_arg
from torch.nn.functional import interpolate

from edgeseg.errors import EdgesegError, need
from edgeseg.export.rewrites import average_pool_of_padded, bicubic_as_products, lerp_as_sum, nearest_as_products
from edgeseg.kernels.label_map.torch_op import label_map
from edgeseg.kernels.litert_plugin import DOMAIN
from edgeseg.kernels.selective_scan.forms import scan_plain
from edgeseg.kernels.selective_scan.torch_op import selective_scan
from edgeseg.kernels.wkv.forms import Form, form_for, wkv_plain
from edgeseg.kernels.wkv.torch_op import wkv

NOTHING = 1e-38
"""The converter would leave out a sum with 0 times something."""


def convert(program: torch.export.ExportedProgram, given: Mapping[str, Tensor]) -> bytes:
    """The LiteRT file of a program that takes `given` by name: inputs keep their names, outputs are `output_0` and so on.

    Raises:
        EdgesegError: the decay of a wkv depends on the input, or an operator that the converter does not know.
    """
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")  # it would go to stdout, which is for documents
    litert_torch = need("litert_torch")
    composites = Composites(program)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = litert_torch.convert(composites, sample_kwargs=dict(given), quant_config=_rounding(program))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        words = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EdgesegError(f"litert_torch cannot convert the network: {words.strip()[:300]}") from error
    return bytes(made.model_content())


def single(
    operator: str, feeds: Mapping[str, NDArray[Any]], constant: Sequence[str], attributes: Mapping[str, int]
) -> bytes:
    """The LiteRT file of one operator with the shapes and types of `feeds`; those named in `constant` are part of it."""
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    module = _Single(OPERATORS[operator], tensors, constant, attributes)
    given = {name: tensor for name, tensor in tensors.items() if name not in constant}
    return convert(torch.export.export(module.eval(), (), given), given)


class _Single(nn.Module):
    def __init__(
        self, operator: Any, feeds: Mapping[str, Tensor], constant: Sequence[str], attributes: Mapping[str, int]
    ) -> None:
        super().__init__()
        self._operator, self._names = operator, list(feeds)
        self._attributes = [bool(v) if name in FLAGS else v for name, v in attributes.items()]
        for name in constant:
            self.register_buffer(name, feeds[name])

    def forward(self, **given: Tensor) -> Any:
        inputs = [given[name] if name in given else getattr(self, name) for name in self._names]
        return self._operator(*inputs, *self._attributes)


def _rounding(program: torch.export.ExportedProgram) -> Any:
    """What tells the converter that a program has marks of quantization, null where it has none."""
    if not any(str(node.target).startswith("quantized_decomposed.") for node in program.graph.nodes):
        return None
    quantizers = need("litert_torch.quantize.pt2e_quantizer")
    fixed = quantizers.PT2EQuantizer().set_global(quantizers.get_symmetric_quantization_config(is_per_channel=True))
    return need("litert_torch.quantize.quant_config").QuantConfig(
        pt2e_quantizer=fixed
    )  # only whether it is static is read


class Composites(nn.Module):
    """An exported program that does the same, with a composite for each of our operators: what `litert_torch` converts.

    What depends on weights alone is computed here, once: decays, which choose the form of each wkv, and the routes over an
    image, which are sorted, and LiteRT sorts nothing.
    """

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module()
        self.training = False  # what `eval` says, which an exported module refuses
        known = _known(self.program)
        self.forms = {node: _form(node, known) for node in self.program.graph.nodes if node.target == WKV}
        needed = [node for node in known if node.op != "get_attr" and any(user not in known for user in node.users)]
        self.folded = [node for node in needed if isinstance(known[node], Tensor)]
        for node in self.folded:
            self.register_buffer(f"folded_{node.name}", known[node])

    def forward(self, **given: Tensor) -> Any:
        """As the program."""
        folded = {node: getattr(self, f"folded_{node.name}") for node in self.folded}
        return _Composing(self.program, self.forms, folded).run(*given.values())


class _Composing(Interpreter):
    """Runs a graph node by node, and our operators as their composites."""

    def __init__(self, graph: GraphModule, forms: Mapping[Node, Form], folded: Mapping[Node, Tensor]) -> None:
        super().__init__(graph)
        self._forms, self._folded = forms, folded

    def run_node(self, n: Node) -> Any:
        if n in self._folded and str(n.target) == WHOLE_WEIGHT:
            # the converter wants to round a weight itself, which gives the same numbers
            (_, *how), _ = self.fetch_args_kwargs_from_env(n)
            marks = torch.ops.quantized_decomposed
            rounded = marks.quantize_per_channel.default(self._folded[n], *how)
            return marks.dequantize_per_channel.default(rounded, *how)
        if n in self._folded:
            return self._folded[n]
        if n.target not in BODIES:
            return super().run_node(n)
        args, _ = self.fetch_args_kwargs_from_env(n)
        return BODIES[n.target](*args, **({"form": self._forms[n]} if n.target == WKV else {}))


def _known(graph: GraphModule) -> dict[Node, Any]:
    """Node -> its value, for all that depend on weights alone."""
    known: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(graph)
        elif node.op == "call_function" and all(each in known for each in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
    return known


def _form(node: Node, known: Mapping[Node, Any]) -> Form:
    """The form of a wkv node that its decays allow."""
    decay, _, key = node.args[:3]
    if decay not in known:
        raise EdgesegError(f"the decay of {node.name} depends on the input; only a trained decay can be exported")
    assert isinstance(decay, Node)
    assert isinstance(key, Node)
    return form_for(known[decay] * key.meta["val"].shape[1], preferred="chunk")


def _composite(name: str, attributes: Mapping[str, int], body: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """The body in float32 between marks that the converter makes a composite of."""
    builder = need("litert_torch.hlfb").StableHLOCompositeBuilder(f"{DOMAIN}{name}", dict(attributes))
    marked = builder.mark_inputs(*(each.float() for each in given))
    made: Tensor = builder.mark_outputs(body(*(marked if isinstance(marked, tuple) else [marked])))
    return made


def _wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool, form: Form) -> Tensor:
    def body(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
        told = k.sum(1, keepdim=True)  # XNNPACK's exp(NaN) is 0, so NaN is passed on beside it
        return wkv_plain(w, u, k, v, causal, form) + NOTHING / (told * told + 1)

    return _composite("wkv", {"causal": int(causal)}, body, decay, bonus, key, value).to(value.dtype)


def _selective_scan(*six: Tensor) -> Tensor:
    return _composite("selective_scan", {}, scan_plain, *six).to(six[0].dtype)


def _label_map(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    def body(x: Tensor) -> Tensor:
        # Classes innermost, which is how LiteRT enlarges. Bands of rows would save no memory: XNNPACK makes all of them
        # before the first is asked for its labels.
        full = interpolate(x, size=(height, width), mode="bilinear", align_corners=align_corners)
        return full.permute(0, 2, 3, 1).argmax(3).to(torch.uint8)

    attributes = {"height": height, "width": width, "align_corners": int(align_corners)}
    return _composite("label_map", attributes, body, logits)


WKV = wkv._opoverload

WHOLE_WEIGHT = "quantized_decomposed.dequantize_per_channel.default"
"""What stands behind the weights of a quantized layer."""

BODIES: dict[Any, Callable[..., Tensor]] = {
    WKV: _wkv,
    selective_scan._opoverload: _selective_scan,
    label_map._opoverload: _label_map,
    torch.ops.aten.upsample_bicubic2d.vec: bicubic_as_products,  # as it is, it comes with 17 transpositions
    torch.ops.aten.upsample_nearest2d.vec: nearest_as_products,  # by a fraction LiteRT takes another sample than PyTorch
    torch.ops.aten.avg_pool2d.default: average_pool_of_padded,  # as it is, XNNPACK does not take it
    torch.ops.aten.lerp.Tensor: lerp_as_sum,
}
"""Operator of PyTorch -> its composite, or what LiteRT does better."""

OPERATORS = {"wkv": wkv, "selective_scan": selective_scan, "label_map": label_map}
FLAGS = ("causal", "align_corners")
"""The attributes that are true or false."""
