"""Runtimes execute artifacts; measuring says how long that takes, and how sure that is."""

from edgeseg.runtimes import (  # noqa: F401 (each registers itself)
    coreml_model,
    executorch_method,
    litert_model,
    ncnn_net,
    null,
    onnxruntime_session,
    openvino_model,
    tensorrt_engine,
    torch_eager,
)
from edgeseg.runtimes.base import RUNTIMES, PromptSession, Runtime, Session, open_artifact, runtime_of

__all__ = ["RUNTIMES", "PromptSession", "Runtime", "Session", "open_artifact", "runtime_of"]
