"""LiteRT through the C interface of its own library: the one way to hand it operators of ours.

Files without any run in it as well, and better than in LiteRT's `Interpreter`: bodies of composites are put in the place of
their nodes, so that XNNPACK takes a network as a whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, MissingTool, need

ALIGNED, BEYOND = 64, 128
"""Bytes: where LiteRT wants memory to begin, and how far past its end XNNPACK may read."""

CPU = 1
"""The processor, in LiteRT's set of accelerators."""

INLINING = "runtime_options_string"
"""Any options of this name make LiteRT put the bodies of composites in their nodes' place, for XNNPACK to take; without, it
calls each body as a function, on one thread."""

TYPES = {1: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 9: np.int8, 10: np.float16}
"""LiteRT's number of an element type -> NumPy's type."""

MEANINGS = {
    1: "an argument is wrong",
    3: "it does not run, see what it wrote on stderr",
    501: "no LiteRT file, or a damaged one",
}
"""Status -> what it says."""


class Options(ctypes.Structure):
    """What a kernel of ours is added with, as in `litert.cc`."""

    _fields_ = (("threads", c_int64), ("attributes", c_int64 * 3))


@dataclass(frozen=True)
class Custom:
    """A kernel for the operators that a file calls `name`: its address and options."""

    name: str
    kernel: int
    options: Options


class _Layout(ctypes.Structure):
    _fields_ = (("rank", c_uint32, 7), ("strided", c_uint32, 1), ("dims", c_int32 * 8), ("strides", c_uint32 * 8))


class _Type(ctypes.Structure):
    _fields_ = (("element", c_int), ("layout", _Layout))


class CompiledModel:
    """A file, compiled for the processor.

    profile:         keep account of operators, which costs time.
    inputs, outputs: by name, the arrays that it reads and writes: fill, `run`, read. They outlive the model.

    Raises:
        EdgesegError: the file is damaged; `run`: it has an operator that there is no kernel for.
    """

    def __init__(self, file: bytes, threads: int, customs: Sequence[Custom] = (), profile: bool = False) -> None:
        self._profile = profile
        self._made: list[tuple[str, c_void_p]] = []
        self._kept = _memory(file), customs  # LiteRT reads them for as long as the model lives
        try:
            model = self._make("Model", "ModelFromBuffer", environment(), _at(self._kept[0]), c_size_t(len(file)))
            self._compiled = self._make("CompiledModel", "CompiledModel", environment(), model, self._options(threads))
            signature = c_void_p()
            _call("GetModelSignature", model, c_size_t(0), byref(signature))
            self.inputs, self._in = self._arrays(signature, "Input")
            self.outputs, self._out = self._arrays(signature, "Output")
        except EdgesegError:
            self.close()
            raise

    def _options(self, threads: int) -> c_void_p:
        options = self._make("Options", "Options")
        _call("SetOptionsHardwareAccelerators", options, c_int(CPU))
        profiling = f"enable_profiling = {str(self._profile).lower()}"
        for about, text in (("xnnpack", f"num_threads = {threads}"), (INLINING, profiling)):
            _call("AddOpaqueOptions", options, _opaque(about, text))
        for each in self._kept[1]:
            name, version, kernel = c_char_p(each.name.encode()), c_int(1), c_void_p(each.kernel)
            _call("AddCustomOpKernelOption", options, name, version, kernel, byref(each.options))
        return options

    def _arrays(self, signature: c_void_p, side: str) -> tuple[dict[str, NDArray[Any]], Any]:
        count = c_size_t()
        _call(f"GetNumSignature{side}s", signature, byref(count))
        arrays = {}
        for index in range(count.value):
            name, tensor, kind = c_char_p(), c_void_p(), _Type()
            _call(f"GetSignature{side}Name", signature, c_size_t(index), byref(name))
            _call(f"GetSignature{side}TensorByIndex", signature, c_size_t(index), byref(tensor))
            _call("GetRankedTensorType", tensor, byref(kind))
            shape = tuple(kind.layout.dims[: kind.layout.rank])
            if kind.element not in TYPES or min(shape, default=1) < 1:
                raise EdgesegError(
                    f"{side.lower()} {name.value!r} has type {kind.element} and shape {shape}; export one size"
                )
            dtype = np.dtype(TYPES[kind.element])
            size = dtype.itemsize * int(np.prod(shape))
            memory = _memory(bytes(size))
            size_and_owner = c_size_t(size), None
            self._make("TensorBuffer", "TensorBufferFromHostMemory", byref(kind), _at(memory), *size_and_owner)
            arrays[(name.value or b"").decode()] = memory[:size].view(dtype).reshape(shape)
        handles = [handle for what, handle in self._made if what == "TensorBuffer"][-len(arrays) :]
        return arrays, (c_void_p * len(arrays))(*handles)

    def run(self) -> None:
        """From `inputs` to `outputs`."""
        given, made = (c_size_t(len(self._in)), self._in), (c_size_t(len(self._out)), self._out)
        _call("RunCompiledModel", self._compiled, c_size_t(0), *given, *made)

    def profiled(self, runs: int) -> str:
        """What LiteRT writes of its operators in that many runs; for a model made with `profile`."""
        profiler, summary = c_void_p(), c_void_p()
        _call("CompiledModelGetProfiler", self._compiled, byref(profiler))
        _call("StartProfiler", profiler)
        for _ in range(runs):
            self.run()
        _call("StopProfiler", profiler)
        _call("GetProfileSummary", profiler, self._compiled, byref(summary))
        try:
            return ctypes.string_at(summary.value or 0).decode("utf-8", "replace")
        finally:
            ctypes.CDLL(None).free(summary)  # the text is the caller's

    @property
    def delegated(self) -> bool:
        """Whether XNNPACK runs all of it."""
        whole = c_bool()
        _call("CompiledModelIsFullyAccelerated", self._compiled, byref(whole))
        return whole.value

    def close(self) -> None:
        """Let go of the model."""
        while self._made:
            what, handle = self._made.pop()
            getattr(litert(), f"LiteRtDestroy{what}")(handle)

    def _make(self, what: str, how: str, *arguments: Any) -> c_void_p:
        handle = c_void_p()
        _call(f"Create{how}", *arguments, byref(handle))
        self._made.append((what, handle))
        return handle


@cache
def litert() -> ctypes.CDLL:
    """LiteRT's library, its functions open to libraries that are loaded after it."""
    package = Path(str(need("ai_edge_litert").__file__)).parent
    file = next(iter(sorted(package.glob("libLiteRt.*"))), None)
    if file is None:
        raise MissingTool(f"no libLiteRt in {package}; pip install 'ai-edge-litert>=2.3'")
    library = ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    for what in ("CompiledModel", "Model", "Options", "TensorBuffer"):
        getattr(library, f"LiteRtDestroy{what}").restype = None
    return library


def _opaque(about: str, text: str) -> c_void_p:
    """Options as LiteRT keeps them: its own copy of a text."""
    system, made = ctypes.CDLL(None), c_void_p()
    system.strdup.restype = c_void_p
    copy = c_void_p(system.strdup(f"{text}\n".encode()))
    _call("CreateOpaqueOptions", c_char_p(about.encode()), copy, system.free, byref(made))
    return made


@cache
def environment() -> c_void_p:
    """What all models of this process live in."""
    made = c_void_p()
    _call("CreateEnvironment", c_int(0), None, byref(made))
    return made


def _call(name: str, *arguments: Any) -> None:
    status = getattr(litert(), f"LiteRt{name}")(*arguments)
    if status:
        why = MEANINGS.get(status, "see what it wrote on stderr")
        raise EdgesegError(f"LiteRT answers {name} with status {status}: {why}")


def _memory(content: bytes) -> NDArray[np.uint8]:
    """A copy that begins and ends as LiteRT wants it."""
    raw = np.zeros(len(content) + ALIGNED + BEYOND, np.uint8)
    begin = -raw.ctypes.data % ALIGNED
    raw[begin : begin + len(content)] = np.frombuffer(content, np.uint8)
    return raw[begin:]


def _at(array: NDArray[Any]) -> c_void_p:
    return c_void_p(array.ctypes.data)
