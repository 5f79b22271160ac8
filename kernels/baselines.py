"""What people would do without our operators, in the same runtimes: for `edgeseg ops bench` to be compared with, never deployed."""

from __future__ import annotations

from typing import Any

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.onnx_function import OUTPUT
from edgeseg.kernels.tier import Run, Work
from edgeseg.kernels.tiers_onnx import OPSET, in_onnxruntime, in_openvino
from edgeseg.registry import Registry

BASELINES: Registry[Any] = Registry("baseline")
"""Name -> what opens it; as `tiers.TIERS`."""


def loop(work: Work) -> Any:
    """The operator with ONNX's `Scan` over the tokens, or for labels a plain upsampling and argmax, as a ModelProto."""
    name = work.operator.name
    text = {"wkv": _wkv, "selective_scan": _selective_scan, "label_map": _label_map}[name](work.case)
    onnx = need("onnx")
    made = need("onnx.parser") and onnx.parser.parse_model(text)
    feeds = work.feeds()
    fixed = [onnx.numpy_helper.from_array(feeds[each], each) for each in work.operator.constant]
    made.graph.initializer.extend(fixed)
    kept = [entry for entry in made.graph.input if entry.name not in work.operator.constant]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    return made


def _header(inputs: str, out: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : {OPSET}]>\nbaseline ({inputs}) => ({out} {OUTPUT})'


def _wkv(case: Any) -> str:
    # what a step needs besides is handed on as a state: OpenVINO reads no step that looks outside itself
    if case.causal:
        raise EdgesegError("the baseline of wkv looks both ways")
    b, t, c = case.batch, case.tokens, case.channels
    inputs = f"float[{c}] decay, float[{c}] bonus, float[{b},{t},{c}] key, float[{b},{t},{c}] value"

    def scan(direction: int) -> str:
        way = f"scan_input_directions = [{direction}, {direction}], scan_output_directions = [{direction}, {direction}]"
        return f"""f{direction}_end, n{direction}_end, d{direction}_end, n{direction}, d{direction} = Scan <num_scan_inputs = 2, scan_input_axes = [1, 1],
    scan_output_axes = [1, 1], {way}, body = step{direction} (float[{c}] f, float[{b},{c}] n, float[{b},{c}] d, float[{b},{c}] xt, float[{b},{c}] et)
      => (float[{c}] ff, float[{b},{c}] nn, float[{b},{c}] dd, float[{b},{c}] no, float[{b},{c}] do) {{
        ff = Identity(f)
        no = Identity(n)
        do = Identity(d)
        nf = Mul(n, f)
        nn = Add(nf, xt)
        df = Mul(d, f)
        dd = Add(df, et)
      }}> (fade, start, start, x, e)"""

    return f"""{_header(inputs, f"float[{b},{t},{c}]")} {{
  axis = Constant <value_ints = [1]>()
  most = ReduceMax <keepdims = 1>(key, axis)
  low = Sub(key, most)
  e = Exp(low)
  x = Mul(e, value)
  minus = Neg(decay)
  fade = Exp(minus)
  size = Constant <value_ints = [{b}, {c}]>()
  zero = Constant <value_float = 0.0>()
  start = Expand(zero, size)
  {scan(0)}
  {scan(1)}
  own = Exp(bonus)
  xo = Mul(x, own)
  eo = Mul(e, own)
  n_both = Add(n0, n1)
  n = Add(n_both, xo)
  d_both = Add(d0, d1)
  d = Add(d_both, eo)
  {OUTPUT} = Div(n, d)
}}"""


def _selective_scan(case: Any) -> str:
    b, t, c, s = case.batch, case.tokens, case.channels, case.states
    inputs = (
        f"float[{b},{t},{c}] u, float[{b},{t},{c}] delta, float[{c},{s}] A, "
        f"float[{b},{t},{s}] B, float[{b},{t},{s}] C, float[{c}] D"
    )
    return f"""{_header(inputs, f"float[{b},{t},{c}]")} {{
  size = Constant <value_ints = [{b}, {c}, {s}]>()
  zero = Constant <value_float = 0.0>()
  start = Expand(zero, size)
  x = Mul(delta, u)
  rates, end, y = Scan <num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1],
    body = step (float[{c},{s}] a, float[{b},{c},{s}] h, float[{b},{c}] dt, float[{b},{c}] xt, float[{b},{s}] bt, float[{b},{s}] ct)
      => (float[{c},{s}] aa, float[{b},{c},{s}] hh, float[{b},{c}] yt) {{
        aa = Identity(a)
        last = Constant <value_ints = [2]>()
        first = Constant <value_ints = [1]>()
        d3 = Unsqueeze(dt, last)
        da = Mul(d3, a)
        fade = Exp(da)
        kept = Mul(fade, h)
        x3 = Unsqueeze(xt, last)
        b3 = Unsqueeze(bt, first)
        new = Mul(x3, b3)
        hh = Add(kept, new)
        c3 = Unsqueeze(ct, first)
        seen = Mul(hh, c3)
        yt = ReduceSum <keepdims = 0>(seen, last)
      }}> (A, start, delta, x, B, C)
  skip = Mul(D, u)
  {OUTPUT} = Add(y, skip)
}}"""


def _label_map(case: Any) -> str:
    b, k, (h, w), (height, width) = case.batch, case.classes, case.low, case.high
    mode = "align_corners" if case.align_corners else "half_pixel"
    return f"""{_header(f"float[{b},{k},{h},{w}] logits", f"uint8[{b},{height},{width}]")} {{
  sizes = Constant <value_ints = [{b}, {k}, {height}, {width}]>()
  full = Resize <mode = "linear", coordinate_transformation_mode = "{mode}">(logits, , , sizes)
  best = ArgMax <axis = 1, keepdims = 0>(full)
  {OUTPUT} = Cast <to = 2>(best)
}}"""


def _name(work: Work) -> str:
    return "upsample + argmax" if work.operator.name == "label_map" else "Scan"


def in_runtime(runtime: str, work: Work) -> tuple[str, Run]:
    """The baseline of an operator in a runtime, and what it is called."""
    made = loop(work)
    run = in_onnxruntime(work, made, plugin=False) if runtime == "ONNX Runtime" else in_openvino(work, made)
    return f"{runtime} {_name(work)}", run


RUNTIMES = ("OpenVINO", "ONNX Runtime")
"""The runtimes that a baseline exists in: those that read ONNX."""
