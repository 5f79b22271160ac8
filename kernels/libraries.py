"""All libraries at once: for `edgeseg ops build` and `edgeseg doctor`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import edgeseg.runtimes  # noqa: F401 (each registers the library with its plugin)
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.kernels import executorch_runtime, litert_plugin, native, tensorrt_plugin  # noqa: F401 (register theirs)
from edgeseg.kernels.build import LIBRARIES, library, toolchain


@dataclass(frozen=True)
class Built:
    """`state` is `ok`, `missing` or `broken`; `detail` the file, or why there is none."""

    name: str
    state: str
    detail: str


def build_all(machine: str = "native", out: Path | None = None) -> list[Built]:
    """Every library that can be built for a machine; with `out` copied there under plain names.

    Raises:
        MissingTool: there is no compiler for the machine at all.
    """
    toolchain(machine)
    made = []
    for name in LIBRARIES:
        try:
            file = library(name, machine)
        except MissingTool as error:
            made.append(Built(name, "missing", str(error)))
        except EdgesegError as error:
            made.append(Built(name, "broken", str(error)))
        else:
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                file = Path(shutil.copy2(file, out / f"libedgeseg_{name}.so"))
            made.append(Built(name, "ok", str(file)))
    return made
