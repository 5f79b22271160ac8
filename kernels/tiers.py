"""Every way an operator can run on this machine, each opened on a case: what `edgeseg ops test` and `ops bench` go through."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import edgeseg.runtimes  # noqa: F401 (each registers the library with its plugin)
from edgeseg.errors import EdgesegError, need
from edgeseg.kernels import executorch_runtime  # noqa: F401 (registers the library of its kernels)
from edgeseg.kernels.build import library
from edgeseg.kernels.label_map import onnx_body as label_map_body
from edgeseg.kernels.onnx_function import single
from edgeseg.kernels.operators import OPERATORS, Operator
from edgeseg.kernels.selective_scan import onnx_body as scan_body
from edgeseg.kernels.wkv import onnx_body as wkv_body
from edgeseg.registry import Registry

if TYPE_CHECKING:
    from edgeseg.runtimes.mil_interpreter import Program

Provenance = Literal["measured", "simulated"]

Run = Callable[[], NDArray[Any]]
"""One execution on the case it was opened for; a new array, or one that the next execution overwrites."""

OPSET = 20

SLOW_TO_OPEN = frozenset({"ExecuTorch plugin", "ExecuTorch graph"})
"""Tiers that take seconds on every case before they run: `edgeseg doctor` leaves them out, tests try them on fewer cases."""


@dataclass(frozen=True)
class Work:
    """An operator, by name, on a case, with inputs rounded to float16 or not, on so many threads."""

    name: str
    case: Any
    half: bool = False
    threads: int = 1

    @property
    def operator(self) -> Operator:
        """What the name stands for."""
        return OPERATORS[self.name]

    def feeds(self) -> dict[str, NDArray[Any]]:
        """The inputs, in their types."""
        halves = self.operator.halves if self.half else ()
        return {k: v.astype(np.float16) if k in halves else v for k, v in self.case.feeds().items()}

    def given(self) -> dict[str, NDArray[Any]]:
        """The inputs that come with every run."""
        return {name: array for name, array in self.feeds().items() if name not in self.operator.constant}


@dataclass(frozen=True)
class Tier:
    """One way to run an operator; called on its work it opens, or an error says why it is not to be had here.

    provenance: of its times; `simulated` where the operators of a file are interpreted: proof of what they compute, but no speed.
    """

    opens: Callable[[Work], Run]
    provenance: Provenance = "measured"

    def __call__(self, work: Work) -> Run:
        """Open it."""
        return self.opens(work)

CONVERTED: set[str] = set()
"""Tiers whose files a converter makes, in seconds each."""


TIERS: Registry[Tier] = Registry("tier")
"""`RUNTIME TIER` -> the way."""


def tier(name: str, provenance: Provenance = "measured") -> Callable[[Callable[[Work], Run]], Tier]:
    """Register under a name."""
    return lambda opens: TIERS.add(name, Tier(opens, provenance))


def timed() -> list[str]:
    """The tiers whose time says something about a device: simulated ones never enter a table of results."""
    return [name for name in TIERS if TIERS[name].provenance == "measured"]


@tier("C++")
def _host(work: Work) -> Run:
    from edgeseg.kernels import native

    native.host()
    feeds, case = work.feeds(), work.case
    if work.operator.name == "label_map":
        return lambda: native.label_map(feeds["logits"], case.high, case.align_corners, work.threads)
    if work.operator.name == "wkv":
        return lambda: native.wkv(*feeds.values(), causal=case.causal, threads=work.threads)
    return lambda: native.selective_scan(*feeds.values(), threads=work.threads)


@tier("PyTorch operator")
def _torch(work: Work) -> Run:
    torch = need("torch")
    from edgeseg.kernels.torch_native import usable

    if not usable():
        library("host")  # its error says what is missing
    return _in_torch(work, torch, _operators()[work.operator.name])


@tier("PyTorch plain")
def _plain(work: Work) -> Run:
    torch = need("torch")
    from torch.nn.functional import interpolate

    from edgeseg.kernels.selective_scan.forms import scan_plain
    from edgeseg.kernels.wkv.forms import form_for, wkv_plain

    def wkv(decay: Any, bonus: Any, key: Any, value: Any, causal: bool) -> Any:
        w, u, k, v = (each.float() for each in (decay, bonus, key, value))
        return wkv_plain(w, u, k, v, causal, form_for(w * k.shape[1])).to(value.dtype)

    def scan(*six: Any) -> Any:
        return scan_plain(*(each.float() for each in six)).to(six[0].dtype)

    def label_map(logits: Any, height: int, width: int, align: bool) -> Any:
        full = interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=align)
        return full.argmax(1).to(torch.uint8)

    return _in_torch(work, torch, {"wkv": wkv, "selective_scan": scan, "label_map": label_map}[work.operator.name])


def _operators() -> dict[str, Callable[..., Any]]:
    from edgeseg.kernels.label_map.torch_op import label_map
    from edgeseg.kernels.selective_scan.torch_op import selective_scan
    from edgeseg.kernels.wkv.torch_op import wkv

    def scan(*six: Any) -> Any:
        return selective_scan(*(each.float() for each in six)).to(six[0].dtype)  # float32 alone

    return {"wkv": wkv, "selective_scan": scan, "label_map": label_map}


def _attributes(work: Work) -> list[Any]:
    return [bool(v) if name in ("causal", "align_corners") else v for name, v in work.case.attributes().items()]


def _in_torch(work: Work, torch: Any, function: Callable[..., Any]) -> Run:
    tensors, attributes = [torch.from_numpy(array) for array in work.feeds().values()], _attributes(work)

    def run() -> Any:
        with torch.inference_mode():
            return function(*tensors, *attributes)

    return lambda: _on_threads(work.threads, run)


def _on_threads(count: int, run: Callable[[], Any]) -> NDArray[Any]:
    """The tensor that `run` makes while PyTorch has so many threads."""
    torch = need("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        made: NDArray[Any] = run().numpy()
    finally:
        torch.set_num_threads(before)
    return made


def _attributes(work: Work) -> list[int | bool]:
    """The last arguments of the operator in PyTorch."""
    return [bool(v) if name in ("causal", "align_corners") else v for name, v in work.case.attributes().items()]


def model(work: Work, wkv: wkv_body.Form, label_map: label_map_body.Form, island: bool) -> Any:
    """The operator alone as a ModelProto, with its body in the forms named."""
    operator, case, feeds = work.operator, work.case, work.feeds()
    made = single(operator.onnx, feeds, case.attributes(), OPSET, operator.constant, island)
    if operator.name == "wkv":
        form = wkv_body.form_for(feeds["decay"].astype(np.float64) * case.tokens, wkv)
        body = wkv_body.body(feeds["key"].shape, case.causal, form, OPSET)
    elif operator.name == "selective_scan":
        body = scan_body.body(feeds["u"].shape, case.states, OPSET)
    else:
        body = label_map_body.body(feeds["logits"].shape, case.high, case.align_corners, label_map, OPSET)
    made.functions.append(body)
    return made


def in_onnxruntime(work: Work, made: Any, plugin: bool) -> Run:
    """A ModelProto in ONNX Runtime."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.log_severity_level = 3
    if plugin:
        options.register_custom_ops_library(str(library("onnxruntime")))
    session = runtime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = work.given()
    return lambda: session.run(None, given)[0]


@tier("ONNX Runtime plugin")
def _ort_plugin(work: Work) -> Run:
    island = work.half and work.operator.name == "selective_scan"
    return in_onnxruntime(work, model(work, "closed", "at_once", island), plugin=True)


@tier("ONNX Runtime graph")
def _ort_graph(work: Work) -> Run:
    return in_onnxruntime(work, model(work, "closed", "at_once", work.half), plugin=False)


def in_openvino(work: Work, made: Any) -> Run:
    """A ModelProto of standard operators, or of ours with the extension loaded, in OpenVINO."""
    from edgeseg.runtimes.openvino_model import core

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": work.threads,
        "NUM_STREAMS": 1,
    }
    network = core().read_model(made.SerializeToString())
    try:
        request = core().compile_model(network, "CPU", options).create_infer_request()
    except RuntimeError as error:
        raise EdgesegError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error
    given = work.given()
    return lambda: np.asarray(request.infer(given, share_inputs=True, share_outputs=True)[0])


@tier("OpenVINO plugin")
def _openvino_plugin(work: Work) -> Run:
    from edgeseg.runtimes.openvino_model import core, extend

    extend(core(), library("openvino"))
    island = work.half and work.operator.name == "selective_scan"
    made = model(work, "chunk", "in_bands", island)
    del made.functions[:]
    return in_openvino(work, made)


@tier("OpenVINO graph")
def _openvino_graph(work: Work) -> Run:
    from edgeseg.export.operators import inlined

    return in_openvino(work, inlined(model(work, "chunk", "in_bands", work.half)))


def in_mil(work: Work, islands: Sequence[str]) -> Program:
    """The operator alone in Core ML's operators, read back from its file; in half precision with float32 inside of `islands`."""
    torch = need("torch")
    from edgeseg.kernels.coreml_ops import half_outside, save_package
    from edgeseg.runtimes.mil_interpreter import read_package

    tensors = {name: torch.from_numpy(array) for name, array in work.feeds().items()}
    function, attributes = _operators()[work.operator.name], _attributes(work)

    class Alone(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, given: dict[str, Any]) -> Any:
            return function(*({**tensors, **given}[name] for name in tensors), *attributes)

    exported = torch.export.export(Alone().eval(), ({name: tensors[name] for name in work.given()},))
    with tempfile.TemporaryDirectory() as folder:
        precision = half_outside(islands) if work.half else None
        return read_package(save_package(exported, Path(folder) / "operator.mlpackage", precision))


@tier("Core ML graph", provenance="simulated")
def _coreml_graph(work: Work) -> Run:
    from edgeseg.kernels.coreml_ops import ISLANDS

    program = in_mil(work, ISLANDS)
    feeds = dict(zip((entry.name for entry in program.inputs), work.given().values(), strict=True))
    return lambda: program.run(feeds)[program.outputs[0]]
