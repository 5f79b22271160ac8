"""A training state in one safetensors file: tensors as tensors, everything else as JSON in its header. Nothing unpickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.files import aside


def save_state(path: Path, state: Any) -> None:
    """Store a nest of dicts, lists, tensors, numbers and strings, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_flatten(state, tensors), allow_nan=False)
    with aside(path) as part:
        part.write_bytes(save(tensors, metadata={"state": skeleton}))  # save_file hides a full disk in its own error


def load_state(path: Path) -> Any:
    """The nest that `save_state` stored, on the CPU.

    Raises:
        EdgesegError: the file is cut off, or is no training state of edgeseg.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no dict)
        return _build(json.loads(header["state"]), tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise EdgesegError(f"{path} is not a whole training state of edgeseg ({error})") from error


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`{1: tensor, "a": [2.0]}` becomes `{"d": [[1, {"t": "0"}], ["a", {"l": [2.0]}]]}`: JSON that keeps the keys' types."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"t": name}
    if isinstance(value, dict):
        return {"d": [[key, _flatten(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"l": [_flatten(entry, tensors) for entry in value]}
    return value


def _build(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "t" in value:
        return tensors[value["t"]]
    if "d" in value:
        return {key: _build(entry, tensors) for key, entry in value["d"]}
    return [_build(entry, tensors) for entry in value["l"]]


def rng_state() -> dict[str, Tensor]:
    """The state of torch's generators that training draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Put the generators back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
