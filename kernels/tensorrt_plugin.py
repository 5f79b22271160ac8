"""The operators for TensorRT: one library of plugins, compiled by nvcc on first use and kept in the cache of `build`.

    trtexec --onnx=model.onnx --dynamicPlugins=$(python -c "from edgeseg.kernels.tensorrt_plugin import plugin; print(plugin())")

In Python `tensorrt.get_plugin_registry().load_library(str(plugin()))`, before the file is parsed or an engine is read.

The kernels use no library of CUDA and their threads never talk to each other, so the same source runs on a CPU, thread
after thread: that is the library "cuda_host", with which the tests prove the arithmetic where there is no GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import sha256
from edgeseg.kernels.build import LIBRARIES, SOURCES, Library, cache_folder, in_cache

ARCHES = (80, 87, 89, 90, 110)
"""A100, Orin, Ada, H100 and Thor; any newer one compiles the PTX of the oldest when the library is loaded."""

FLAGS = ("-std=c++17", "-O3", "-shared", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "--threads=0")

LIBRARIES.add("cuda_host", Library("cuda_host", "cuda_host.cc"))


def plugin(arches: Sequence[int] = ARCHES, tensorrt_include: Path | None = None, cuda: Path | None = None) -> Path:
    """The library of plugins for these GPUs (87 is sm_87), built now unless the cache has it, whole.

    tensorrt_include: the folder of `NvInferRuntime.h`, of TensorRT 10.0 or newer; else the usual places and `$CPATH`.
    cuda:             the folder of CUDA; else nvcc from `$PATH`, or /usr/local/cuda.

    Raises:
        MissingTool: no nvcc or no header; the message says what to install.
        EdgesegError: nvcc does not know such a GPU, or failed; the message has its words and the command.
    """
    include, nvcc = headers(tensorrt_include), compiler(cuda)
    known = _known(nvcc)
    fit = tuple(arch for arch in arches if arch in known)
    if not arches or len(fit) < len(arches):
        missing = [arch for arch in arches if arch not in known]
        raise EdgesegError(f"{nvcc} cannot compile for {missing}; it knows {known}: plugin(arches={fit or known})")
    flags = [*FLAGS, *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in sorted(arches))]
    flags.append(f"-gencode=arch=compute_{min(arches)},code=compute_{min(arches)}")
    command = [str(nvcc), *flags, "-isystem", str(include), str(SOURCES / "tensorrt.cu")]
    about = (*flags, _say(nvcc, "--version"), sha256(include / "NvInferVersion.h"), platform.machine())
    return in_cache(cache_folder(), "tensorrt", about, command)


def headers(given: Path | None = None) -> Path:
    """The folder of `NvInferRuntime.h`: the given one, or the first of `$CPATH` and the usual places."""
    triple = f"{platform.machine()}-linux-gnu"
    usual = (f"/usr/include/{triple}", "/usr/include", "/usr/local/include", "/usr/local/tensorrt/include")
    listed = [place for place in os.environ.get("CPATH", "").split(os.pathsep) if place]
    places = [given] if given else [Path(place) for place in (*listed, *usual)]
    for place in places:
        if (place / "NvInferRuntime.h").exists():
            return place
    where = ", ".join(map(str, places))
    raise MissingTool(
        f"no NvInferRuntime.h in {where}; apt-get install libnvinfer-headers-dev (from NVIDIA; JetPack has it), or give "
        "the include folder of TensorRT: plugin(tensorrt_include=...)"
    )


def compiler(given: Path | None = None) -> Path:
    """nvcc: of the given folder of CUDA, or of the path, or of /usr/local/cuda."""
    found = None if given else shutil.which("nvcc")
    nvcc = Path(found) if found else (given or Path("/usr/local/cuda")) / "bin" / "nvcc"
    if not nvcc.exists():
        raise MissingTool(
            f"no {nvcc}{'' if given else ' and no nvcc on the path'}; apt-get install cuda-toolkit (from NVIDIA) or nvidia-jetpack (Jetson), "
            "or give the folder of CUDA: plugin(cuda=...)"
        )
    return nvcc


def _known(nvcc: Path) -> tuple[int, ...]:
    """The GPUs an nvcc compiles for."""
    words = (word.removeprefix("compute_") for word in _say(nvcc, "--list-gpu-arch").split())
    return tuple(sorted({int(word) for word in words if word.isdecimal()}))


def _say(nvcc: Path, question: str) -> str:
    done = subprocess.run([str(nvcc), question], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgesegError(f"{nvcc} {question} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
