"""Runtimes execute artifacts; measuring says how long that takes, and how sure that is."""

from edgeseg.runtimes import null, onnxruntime_session, openvino_model, torch_eager  # noqa: F401 (each registers itself)
from edgeseg.runtimes.base import RUNTIMES, PromptSession, Runtime, Session, open_artifact, runtime_of

__all__ = ["RUNTIMES", "PromptSession", "Runtime", "Session", "open_artifact", "runtime_of"]
