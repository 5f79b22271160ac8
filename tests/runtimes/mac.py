"""What stands in for Core ML on a Mac that is a process of this machine: coremltools' `MLModel`, with our interpreter inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.runtimes.mil_interpreter import model_file, parse, read_package


class Model:
    """A package; answers as Core ML does, with float32 for whole numbers too."""

    def __init__(self, package: str, units: Any) -> None:
        self._spec, self._program = parse(model_file(Path(package))), read_package(Path(package))

    def get_spec(self) -> Any:
        return self._spec

    def get_compiled_model_path(self) -> str:
        return "model.mlmodelc"

    def predict(self, given: dict[str, Any]) -> dict[str, NDArray[Any]]:
        feeds = {
            name: value if isinstance(value, np.ndarray) else np.asarray(value)[None] for name, value in given.items()
        }
        return {name: made.astype(np.float32) for name, made in self._program.run(feeds).items()}
