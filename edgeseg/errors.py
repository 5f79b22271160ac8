"""What can go wrong, and the exit code each kind ends a command with.

EdgesegError            1   the caller's mistake: one line that says what, what arrived, what to do
├── MissingTool         5   an extra, a tool or a device is not there; the message names the install line
├── ParityFailed        2   an artifact's masks are not the student's masks
├── AccuracyGate        3   the task metric fell below what was allowed
├── BudgetExceeded      4   latency, memory or energy above the budget
└── InvalidMeasurement  6   throttled, too few samples, or too noisy to say anything
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar


class EdgesegError(Exception):
    """A mistake that one line explains. `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class MissingTool(EdgesegError):
    """A needed extra, tool or device is missing; the message says how to get it."""

    exit_code = 5


class ParityFailed(EdgesegError):
    """The masks of an artifact are not the masks of the student it was made from."""

    exit_code = 2


class AccuracyGate(EdgesegError):
    """The task metric is worse than the gate allows."""

    exit_code = 3


class BudgetExceeded(EdgesegError):
    """Latency, memory or energy is above the budget."""

    exit_code = 4


class InvalidMeasurement(EdgesegError):
    """A measurement that must not be quoted: throttled, too short, too few samples, too noisy."""

    exit_code = 6


EXTRAS = {
    "ai_edge_litert": "litert",
    "coremltools": "coreml",
    "datasets": "datasets",
    "executorch": "executorch",
    "flatbuffers": "litert",
    "huggingface_hub": "hub",
    "litert_torch": "litert",
    "ncnn": "ncnn",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "onnxslim": "onnx",
    "openvino": "openvino",
    "optuna": "tune",
    "pnnx": "ncnn",
    "qai_hub": "aihub",
    "ray": "cluster",
    "segmentation_models_pytorch": "smp",
    "tensorboard": "tensorboard",
    "tensorrt": "tensorrt",
    "timm": "timm",
    "transformers": "transformers",
}
"""Optional module -> the extra of this package that brings it."""


def import_trusted(module: str) -> None:
    """Import a module of somebody's networks that the user has named, from where the user is too."""
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise EdgesegError(f"cannot import {module}: {error}; name a module that Python finds from here") from error


def require(*modules: str) -> None:
    """Nothing when all of these optional modules are installed, without importing them.

    Raises:
        MissingTool: one is not; the message says which extra brings it.
    """
    for module in modules:
        try:
            there = importlib.util.find_spec(module) is not None
        except (ValueError, ModuleNotFoundError):  # switched off, or not even what it is a part of
            there = False
        if not there:
            top = module.split(".", maxsplit=1)[0]
            raise MissingTool(f"{top} is not installed; pip install 'edgeseg[{EXTRAS[top]}]'")


def need(module: str) -> ModuleType:
    """Import an optional module when it is used, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.split(".", maxsplit=1)[0]
        if error.name is None or error.name.split(".", maxsplit=1)[0] != top:
            raise  # it is there, but broken: show why
        raise MissingTool(f"{top} is not installed; pip install 'edgeseg[{EXTRAS[top]}]'") from error
