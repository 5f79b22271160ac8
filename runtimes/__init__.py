"""Runtimes execute artifacts; measuring says how long that takes, and how sure that is."""

from edgeseg.runtimes import null, onnxruntime_session, openvino_model, torch_eager
from edgeseg.runtimes.base import RUNTIMES, Runtime, Session, open_artifact, runtime_of

__all__ = [
    "RUNTIMES",
    "Runtime",
    "Session",
    "null",
    "onnxruntime_session",
    "open_artifact",
    "openvino_model",
    "runtime_of",
    "torch_eager",
]
