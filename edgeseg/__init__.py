"""edgeseg: compact segmentation models on small devices, proven and measured.

    import edgeseg as es
    student  = es.load("runs/cam")
    artifact = es.export_model(student, es.OpenVino(), out="out/cam", size=(360, 480), bake=("pre", "labels"))
    record   = es.bench(artifact, threads=2)
    masks    = artifact.predict(image)

Every name is imported when it is first used: importing the package costs nothing, torch included.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgeseg.api import bench, load, models, verify
    from edgeseg.artifact import Artifact
    from edgeseg.data import load_data
    from edgeseg.errors import EdgesegError
    from edgeseg.export import *
    from edgeseg.export import export_model
    from edgeseg.hub import from_pretrained, push_to_hub
    from edgeseg.manifest import Sizes
    from edgeseg.quantize.model import quantize_model
    from edgeseg.runs import load_official, save
    from edgeseg.students import create, fuse

_HOME = {
    "Artifact": "edgeseg.artifact",
    "EdgesegError": "edgeseg.errors",
    "Sizes": "edgeseg.manifest",
    "bench": "edgeseg.api",
    "create": "edgeseg.students",
    "export_model": "edgeseg.export",
    "from_pretrained": "edgeseg.hub",
    "fuse": "edgeseg.students",
    "load": "edgeseg.api",
    "load_data": "edgeseg.data",
    "load_official": "edgeseg.runs",
    "models": "edgeseg.api",
    "push_to_hub": "edgeseg.hub",
    "quantize_model": "edgeseg.quantize.model",
    "save": "edgeseg.runs",
    "verify": "edgeseg.api",
}

__all__ = [
    "Artifact",
    "EdgesegError",
    "Sizes",
    "bench",
    "create",
    "export_model",
    "from_pretrained",
    "fuse",
    "load",
    "load_data",
    "load_official",
    "models",
    "push_to_hub",
    "quantize_model",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name, "edgeseg.export" if name[:1].isupper() else "")  # a target: es.OpenVino
    if not home or not hasattr(importlib.import_module(home), name):
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
