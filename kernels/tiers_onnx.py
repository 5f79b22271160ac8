"""The tiers of ONNX Runtime and OpenVINO: an ONNX node with our kernel, or its body of standard operators."""

from __future__ import annotations

from typing import Any

import numpy as np

import edgeseg.runtimes  # noqa: F401 (each registers the library with its plugin)
from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.build import library
from edgeseg.kernels.label_map import onnx_body as label_map_body
from edgeseg.kernels.onnx_function import single
from edgeseg.kernels.selective_scan import onnx_body as scan_body
from edgeseg.kernels.tier import Run, Work, tier
from edgeseg.kernels.wkv import onnx_body as wkv_body

OPSET = 20


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
    island = work.half and work.name == "selective_scan"
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
    island = work.half and work.name == "selective_scan"
    made = model(work, "chunk", "in_bands", island)
    del made.functions[:]
    return in_openvino(work, made)


@tier("OpenVINO graph")
def _openvino_graph(work: Work) -> Run:
    from edgeseg.export.operators import inlined

    return in_openvino(work, inlined(model(work, "chunk", "in_bands", work.half)))
