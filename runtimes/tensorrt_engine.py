"""TensorRT: the engine that `edgeseg build` put beside an artifact's ONNX file; elsewhere ONNX Runtime stands in on the file itself.

Buffers are had from the driver (libcuda), which is wherever a GPU is, so that nothing but `tensorrt` has to be installed. It
shares the primary context of the device with TensorRT. A GPU is looked for before TensorRT is asked: without one,
`tensorrt.Runtime` ends the process (seen with 11.4).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.artifact import MANIFEST, Artifact
from edgeseg.errors import EdgesegError, MissingTool, need
from edgeseg.files import sha256
from edgeseg.runtimes.base import (
    HEAVY,
    RUNTIMES,
    Graph,
    OpenGraph,
    Opening,
    Runtime,
    Session,
    Sessions,
    listing,
    main_precision,
)
from edgeseg.runtimes.onnxruntime_session import OnnxRuntimeGraph
from edgeseg.runtimes.onnxruntime_session import version as stand_in_version
from edgeseg.runtimes.record import Execution
from edgeseg.schema import STRICT

INSTALL = "apt-get install tensorrt (Jetson: JetPack brings it), or pip install 'edgeseg[tensorrt]' where the GPU is"

PLAN_TAG, PLAN_FORMAT, PLAN_HEADER = 0x74727466, 0, 28
"""An engine begins with these two words, and bytes 24 to 27 are the version (`printPlanVersion`, samples/common/sampleEngines.cpp)."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU, as its driver describes it; `driver` is the newest CUDA that it runs, e.g. `12.6`."""

    __pydantic_config__ = STRICT
    name: str
    compute_capability: str
    driver: str

    @property
    def architecture(self) -> int:
        """87 for sm_87."""
        return int(self.compute_capability.replace(".", ""))


@dataclass(frozen=True)
class EngineCard:
    """`engine.json` beside an engine: what it was built with and for.

    sha256:      of the engine. onnx_sha256: of the ONNX file that it was made from.
    plugin:      the library with our kernels that it needs; null without.
    seconds:     that the build took.
    """

    __pydantic_config__ = STRICT
    created: str
    tensorrt: str
    gpu: Gpu
    seconds: float
    bytes: int
    sha256: str
    onnx_sha256: str
    plugin: str | None
    workspace_mb: int | None


def engine_file(onnx_file: Path) -> Path:
    """Where the engine of an ONNX file is."""
    return onnx_file.with_name("model.engine")


def card_file(onnx_file: Path) -> Path:
    """Where its description is."""
    return onnx_file.with_name("engine.json")


def artifact_of(onnx_file: Path) -> Path:
    """The folder of its artifact, which of a promptable one is above those of its two networks."""
    return next((folder for folder in onnx_file.parents[:2] if (folder / MANIFEST).exists()), onnx_file.parent)


class Driver:
    """The few functions of libcuda that are needed, each checked.

    Raises:
        MissingTool: no driver, or no GPU.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise MissingTool(f"no CUDA driver here ({error}); TensorRT runs where an NVIDIA GPU is") from error
        self("cuInit", 0)
        count, device = ctypes.c_int(), ctypes.c_int()
        self("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise MissingTool("the CUDA driver finds no GPU; TensorRT runs where an NVIDIA GPU is")
        self("cuDeviceGet", ctypes.byref(device), 0)
        self.device = device
        self._context: ctypes.c_void_p | None = None

    def __call__(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, name)(*arguments):
            kind = MissingTool if name in ("cuInit", "cuDeviceGetCount") else EdgesegError
            raise kind(f"{name} of the CUDA driver failed with error {code}")

    def gpu(self) -> Gpu:
        """The first GPU."""
        name, version = ctypes.create_string_buffer(256), ctypes.c_int()
        self("cuDeviceGetName", name, len(name), self.device)
        self("cuDriverGetVersion", ctypes.byref(version))
        parts = []
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            value = ctypes.c_int()
            self("cuDeviceGetAttribute", ctypes.byref(value), attribute, self.device)
            parts.append(value.value)
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return Gpu(name.value.decode(), f"{parts[0]}.{parts[1]}", driver)

    def use(self) -> None:
        """Make the device's primary context this thread's."""
        if self._context is None:
            self._context = ctypes.c_void_p()
            self("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self.device)
        self("cuCtxSetCurrent", self._context)

    def stream(self) -> int:
        """A new stream."""
        made = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(made), 1)  # CU_STREAM_NON_BLOCKING
        return int(made.value or 0)

    def allocate(self, count: int) -> int:
        """So many bytes on the device, at least one."""
        made = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(made), ctypes.c_size_t(max(count, 1)))
        return int(made.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Copy a contiguous array there."""
        source, count = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, count, ctypes.c_void_p(stream))

    def to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy into a contiguous array."""
        goal, count = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
        self("cuMemcpyDtoHAsync_v2", goal, ctypes.c_uint64(address), count, ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Until the stream is done."""
        self("cuStreamSynchronize", ctypes.c_void_p(stream))

    def end(self, stream: int) -> None:
        """Give a stream back."""
        self("cuStreamDestroy_v2", ctypes.c_void_p(stream))


@cache
def driver() -> Driver:
    """The one driver of this process."""
    return Driver()


def here() -> bool:
    """Whether TensorRT and a GPU are."""
    if importlib.util.find_spec("tensorrt") is None:
        return False
    try:
        driver()
    except EdgesegError:
        return False
    return True


def tensorrt() -> Any:
    """The tensorrt module.

    Raises:
        MissingTool: it is not installed, or there is no GPU; the message says where to get it.
    """
    if importlib.util.find_spec("tensorrt") is None:
        raise MissingTool(f"tensorrt is not installed; {INSTALL}")
    driver()
    return need("tensorrt")


def logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says went wrong, in `said`, for the one line that is raised."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the class is known when TensorRT is
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.said.append(" ".join(message.split()))

    return Log()


def load_plugin(trt: Any, library: Path) -> None:
    """Register our operators, once per library."""
    if library not in _loaded:
        if trt.get_plugin_registry().load_library(str(library)) is None:
            raise EdgesegError(
                f"TensorRT {trt.__version__} cannot load {library}; delete it and run edgeseg build again"
            )
        _loaded.add(library)


_loaded: set[Path] = set()


def plan_version(head: bytes) -> tuple[int, ...] | None:
    """The TensorRT that wrote an engine, from its first bytes; None where this is no engine or of a format not known."""
    if len(head) < PLAN_HEADER or struct.unpack("<II", head[:8]) != (PLAN_TAG, PLAN_FORMAT):
        return None
    return tuple(head[24:PLAN_HEADER])


def check_engine(onnx_file: Path, version: str, gpu: Gpu) -> EngineCard | None:
    """The description of the engine beside an ONNX file, when that engine is whole and was built for here.

    None where the engine came without one, e.g. from trtexec, and its own header names this very version.

    Raises:
        EdgesegError: none was built, or for another file, version or GPU; what to run is named.
    """
    engine, described = engine_file(onnx_file), card_file(onnx_file)
    again = f"run edgeseg build {artifact_of(onnx_file)}"
    if not engine.exists():
        raise EdgesegError(f"no {engine.name} beside {onnx_file}; {again}")
    with engine.open("rb") as file:
        wrote = plan_version(file.read(PLAN_HEADER))
    wanted = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if wrote is not None and wrote[: len(wanted)] != wanted:
        raise EdgesegError(f"{engine} was built by TensorRT {'.'.join(map(str, wrote))}, here is {version}; {again}")
    if not described.exists():
        if wrote is None:
            raise EdgesegError(
                f"{engine} is no engine that TensorRT {version} reads, and has no {described.name}; {again}"
            )
        return None
    card = schema.read(EngineCard, described)
    for what, then, now in (
        ("another engine than its description", card.sha256, sha256(engine)),
        ("built from another file", card.onnx_sha256, sha256(onnx_file)),
        (f"built by TensorRT {card.tensorrt}, here is {version}", card.tensorrt, version),
        (f"built for {card.gpu.name}, here is {gpu.name}", card.gpu.name, gpu.name),
        (
            f"built for compute capability {card.gpu.compute_capability}",
            card.gpu.compute_capability,
            gpu.compute_capability,
        ),
    ):
        if then != now:
            raise EdgesegError(f"{engine} is {what}; {again}")
    return card


@dataclass
class Slot:
    """Memory on the device for one input or output, as large as was ever needed."""

    address: int = 0
    count: int = 0

    def reserve(self, cuda: Driver, count: int) -> int:
        """An address with room for `count` bytes."""
        if count > self.count or not self.address:
            if self.address:
                cuda.free(self.address)
            self.address, self.count = cuda.allocate(count), count
        return self.address


class EngineGraph:
    """One engine on the first GPU, run on a stream of its own; inputs and outputs are copied, as a camera's would be."""

    def __init__(self, opening: Opening) -> None:
        self._trt, self._cuda, self._opening = tensorrt(), driver(), opening
        self._gpu = self._cuda.gpu()
        self._cuda.use()
        card = check_engine(opening.file, str(self._trt.__version__), self._gpu)
        self._plugin = Path(card.plugin) if card is not None and card.plugin is not None else None
        if self._plugin is not None:
            load_plugin(self._trt, self._plugin)
        self._log = logger(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        engine = engine_file(opening.file)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            again = f"run edgeseg build {artifact_of(opening.file)}"
            raise EdgesegError(f"TensorRT cannot open {engine}: {self._why()}; {again}")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EdgesegError(f"TensorRT cannot run {engine}: {self._why()}; is the GPU out of memory?")
        self._slots: dict[str, Slot] = {}
        self._stream = self._cuda.stream()

    def _why(self) -> str:
        return self._log.said[-1] if self._log.said else "it does not say why"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for one set of inputs."""
        self._cuda.use()
        kept = [self._give(name, array) for name, array in feeds.items()]  # until the copies are done
        made = [self._take(name) for name in self._opening.outputs]
        if not self._context.execute_async_v3(self._stream):
            raise EdgesegError(f"TensorRT cannot run {self._opening.file.with_name('model.engine')}: {self._why()}")
        for name, array in zip(self._opening.outputs, made, strict=True):
            self._cuda.to_host(array, self._slots[name].address, self._stream)
        self._cuda.wait(self._stream)
        del kept
        return made

    def _give(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        """Copy an input to the device; the array that is being copied."""
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        if array.dtype != kind:
            raise EdgesegError(f"the input {name} is {kind}, got {array.dtype}")
        whole = np.ascontiguousarray(array)
        if not self._context.set_input_shape(name, whole.shape):
            least, _, most = self._engine.get_tensor_profile_shape(name, 0)
            raise EdgesegError(
                f"the input {name} is {tuple(least)} to {tuple(most)} in this engine, got {whole.shape}; export with more "
                "prompts or places"
            )
        self._context.set_tensor_address(name, self._slot(name, whole.nbytes))
        self._cuda.to_device(self._slots[name].address, whole, self._stream)
        return whole

    def _take(self, name: str) -> NDArray[Any]:
        """Make room for an output; the array that it is going to."""
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        array = np.empty(tuple(self._context.get_tensor_shape(name)), kind)
        self._context.set_tensor_address(name, self._slot(name, array.nbytes))
        return array

    def _slot(self, name: str, count: int) -> int:
        return self._slots.setdefault(name, Slot()).reserve(self._cuda, count)

    def execution(self, feeds: Mapping[str, NDArray[Any]]) -> Execution:
        """From the engine's inspector: the layers, and the types that the products among them give."""
        inspector = self._engine.create_engine_inspector()
        layers = layers_of(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        types = precisions(layers)
        settings = {
            "gpu": self._gpu.name,
            "compute_capability": self._gpu.compute_capability,
            "cuda_driver": self._gpu.driver,
            "data_transfers": "on",
            "cuda_graph": "off",
            "arithmetic": listing(types),
        } | self._opening.tiers(self._plugin)
        placed = {"GPU": len(layers)} if layers else None
        version = str(self._trt.__version__)
        return Execution("tensorrt", version, self._opening.threads, main_precision(types), placed, settings)

    def close(self) -> None:
        """Let go of the engine and of its memory, in the order that TensorRT wants."""
        self._cuda.use()
        for slot in self._slots.values():
            self._cuda.free(slot.address)
        self._cuda.end(self._stream)
        del self._context, self._engine, self._runtime


def layers_of(text: str) -> list[dict[str, Any]]:
    """The layers in what the inspector says; none where the engine was built without details (then they are names)."""
    try:
        layers = json.loads(text).get("Layers", [])
    except json.JSONDecodeError:
        return []
    return [layer for layer in layers if isinstance(layer, dict)]


KINDS = (("int8", r"int8"), ("fp16", r"fp16|half"), ("bf16", r"bf16|bfloat"), ("fp8", r"fp8"), ("fp32", r"fp32|float"))
"""Our word for a type -> TensorRT's, in the description of a tensor's format, e.g. `Channel major FP16 format where ...`."""


def precisions(layers: list[dict[str, Any]]) -> Counter[str]:
    """How many layers that carry the arithmetic compute in what type, after their first input."""
    counts: Counter[str] = Counter()
    for layer in layers:
        words = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')} {layer.get('Name', '')}".lower()
        given = [entry for entry in layer.get("Inputs", []) if isinstance(entry, dict)]
        if not given or not any(heavy in words for heavy in (*HEAVY, "cask")):
            continue
        said = str(given[0].get("Format/Datatype", given[0].get("Datatype", ""))).lower()
        kind = next((ours for ours, theirs in KINDS if re.search(theirs, said)), None)
        if kind is not None:
            counts[kind] += 1
    return counts


class StandIn(OnnxRuntimeGraph):
    """ONNX Runtime on the file that an engine is made from, without rounding biases to whole numbers, which TensorRT does not."""

    without = ("WeightBiasQuantization",)


def open_graph(opening: Opening) -> Graph:
    """The engine where one can run, else what stands in for it."""
    return EngineGraph(opening) if here() else StandIn(opening)


@dataclass(frozen=True)
class EngineSessions(Sessions):
    """Sessions in TensorRT, but for the first proof of a fresh export, whose engine is still to be built: that is the stand-in's."""

    @property
    def fresh(self) -> tuple[OpenGraph, str | None]:
        """The stand-in, wherever this is: nobody builds an engine of a file that is looked at once."""
        return StandIn, "onnxruntime"

    def __call__(self, artifact: Artifact, threads: int) -> Session:
        """An artifact and a number of threads to a session."""
        if artifact.manifest.ledger is None and not engine_file(artifact.model_file).exists():
            return Sessions(StandIn)(artifact, threads)
        return super().__call__(artifact, threads)


def version() -> str:
    """The installed TensorRT, or what stands in for it."""
    return str(tensorrt().__version__) if here() else f"none (onnxruntime {stand_in_version()} stands in)"


RUNTIMES.add(
    "tensorrt",
    Runtime("tensorrt", version, EngineSessions(open_graph), provenance="measured" if here() else "simulated"),
)
