"""What runs on a device: one file for Python 3.8 or newer with NumPy and a runtime, sent over the connection and never installed.

Requests are JSON lines on stdin, answers and events JSON lines on stdout; `devices/channel.py` has the other end. There are
two processes. The keeper answers about the device, takes files, holds the lock and ends everything when the other end is
gone: at the end of stdin, or after `SILENCE_S` without a word. The measurer has the runtime and nothing else to do; the
keeper carries its lines, so that it may crash, hang or print what it likes, and says how it ended.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import (  # noqa: UP035  Python 3.8 evaluates
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Generator,
    Iterator,
    NoReturn,
    Protocol,
    Sequence,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Marks = NDArray[np.int64]

PROTOCOL = 1
"""The other end refuses another number."""

SILENCE_S = 10
"""Without a word for so long the other end is taken for gone."""

CHUNK_NS = 250_000_000
"""How often samples are sent on: what was measured until a crash is not lost."""

BLOCK = 8 << 20
"""Bytes that are written or read before the other end hears of it: a large file on a slow card takes its time."""

ROOM = 16 << 20
"""Bytes that stay free on the device."""

AGENT = "edgeseg-agent.py"
"""This file, among those of a measurer that begins with the start of Python."""

SYS = Path("/sys")

Step = Callable[[Any], Any]
Message = Dict[str, Any]  # noqa: UP006  as above


# -- timing: the measuring process of this machine uses these too ------------------------------------------------------


def loop(steps: Sequence[Step], given: Any, marks: Marks, first: int, enough: int, until: int, stop: int) -> int:
    """Time samples into `marks` from row `first` on; returns the row after the last.

    It ends when row `enough` is filled and the clock has passed `until` ns, or when it has passed `stop`, or with `marks`.
    """
    clock = time.perf_counter_ns
    columns = list(enumerate(steps, 1))
    for row in range(first, len(marks)):
        value = given
        marks[row, 0] = now = clock()
        for column, step in columns:
            value = step(value)
            marks[row, column] = now = clock()
        if (now >= until and row + 1 >= enough) or now >= stop:
            return row + 1
    return len(marks)


WAKE_NS = 500_000
"""A sleep may end this much late."""


def frames(run: Step, given: Any, marks: Marks, fps: float) -> Iterator[int]:
    """Take frames as a camera gives them into `marks`: arrival, start, end. After each, the number that were taken.

    The newest frame is taken, older ones are dropped. While it waits for one the processor rests, as it does behind a
    camera, until half a ms before.
    """
    clock, period = time.perf_counter_ns, 1e9 / fps
    begin, frame = clock(), 0
    for row in range(len(marks)):
        now = clock()
        frame = max(frame, int((now - begin) / period))
        arrival = begin + round(frame * period)
        if arrival - now > WAKE_NS:
            time.sleep((arrival - now - WAKE_NS) / 1e9)
        start = clock()
        while start < arrival:
            start = clock()
        run(given)
        marks[row] = arrival, start, clock()
        frame += 1
        yield row + 1


def side_by_side(runs: Sequence[Step], given: Any, rows: int) -> Generator[Marks, None, None]:
    """Run networks at once, a thread each, frame after frame: every `CHUNK_NS` what was finished meanwhile, by its start.

    Runtimes let go of Python's lock while they compute. What they are at when the caller has enough is no sample: all of them
    were busy throughout what it has. Close it, so that they end. At most `rows` samples of each.
    """
    np, clock = need("numpy", "numpy"), time.perf_counter_ns
    marks = [np.empty((rows, 2), np.int64) for _ in runs]
    done, over, wrong = [0] * len(runs), threading.Event(), []

    def work(index: int) -> None:
        try:
            for row in range(rows):
                if over.is_set():
                    return
                start = clock()
                runs[index](given)
                marks[index][row] = start, clock()
                done[index] = row + 1
        except Exception as error:  # noqa: BLE001  raised below, where somebody hears of it
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(runs))]
    try:
        for thread in threads:
            thread.start()
        before = list(done)
        while True:
            time.sleep(CHUNK_NS / 1e9)
            if wrong:
                raise wrong[0]
            after = list(done)
            new = np.concatenate([own[before[at] : after[at]] for at, own in enumerate(marks)])
            before = after
            if len(new):
                yield new[np.argsort(new[:, 0], kind="stable")]
            elif not any(thread.is_alive() for thread in threads):
                return
    finally:
        over.set()
        for thread in threads:
            thread.join()


class PeakMemory:
    """Most memory this process had resident, in bytes, over the moments that are the model's; null where nobody says.

    Linux: VmHWM, which can be set back; ru_maxrss cannot, and starts with that of the process that started this one.
    """

    def __init__(self) -> None:
        self.forget()
        self.before = self.peak = self._now()

    @property
    def growth(self) -> int | None:
        """The peak above what was there before."""
        return None if self.peak is None or self.before is None else self.peak - self.before

    def note(self) -> None:
        """Count the peak since the last `forget`."""
        self.peak = max(filter(None, (self.peak, self._now())), default=None)

    def forget(self) -> None:
        """Do not count what came before: not the model, but preparing its input."""
        with suppress(OSError):  # not Linux, or /proc is read-only: the peak then includes the preparation
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def _now(self) -> int | None:
        status = Path("/proc/self/status")
        if status.exists():
            lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
            return int(lines["VmHWM"].split()[0]) * 1024
        if sys.platform == "darwin":
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return None


# -- pictures: this machine prepares them with these too ---------------------------------------------------------------


def opencv() -> Any:
    """OpenCV, which only the whole way from a photo needs."""
    return need("cv2", "opencv-python-headless")


def decode(data: bytes) -> Any:
    """JPEG or PNG bytes to RGB `[H, W, 3]`; null for what is none."""
    np, cv2 = need("numpy", "numpy"), opencv()
    if not data:
        return None
    raw = np.frombuffer(data, np.uint8)
    if hasattr(cv2, "IMREAD_COLOR_RGB"):
        return cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR)  # before OpenCV 4.11, as distributions have it
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def prepare(image: Any, spec: Message) -> Any:
    """RGB `[H, W, 3]` of any size to an input: resized (bilinear), and normalised unless that is baked in.

    spec: `height`, `width`, `baked`, where that is `pre` its `colour`, else `mean`, `std`, `layout`, `dtype`.
    """
    np, height, width = need("numpy", "numpy"), spec["height"], spec["width"]
    if image.shape[:2] != (height, width):
        cv2 = opencv()
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if "pre" in spec["baked"]:
        return np.ascontiguousarray(image[..., ::-1] if spec["colour"] == "BGR" else image)[None]
    mean, std = np.asarray(spec["mean"]), np.asarray(spec["std"])
    scaled = image * (1 / (255 * std)).astype(np.float32) - (mean / std).astype(np.float32)
    planes = scaled if spec["layout"] == "NHWC" else scaled.transpose(2, 0, 1)
    return np.ascontiguousarray(planes[None], dtype=spec["dtype"])


def labels(output: Any) -> Any:
    """An output to its label map `[H, W]`: `labels [1, H, W]`, `logits [1, K, H, W]`, or the logits of one mask `[1, 1, H, W]`."""
    if output.ndim == 3:
        label_map = output[0]
    else:
        label_map = output[0, 0] > 0 if output.shape[1] == 1 else output[0].argmax(axis=0)
    return label_map.astype("uint8", copy=False)


def enlarge(label_map: Any, height: int, width: int) -> Any:
    """A label map `[h, w]` at another size, nearest neighbour of pixel centres: labels cannot be averaged."""
    cv2 = opencv()
    return cv2.resize(label_map, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


# -- the device --------------------------------------------------------------------------------------------------------


def facts(sys_: Path = SYS) -> Message:
    """What this machine is and which runtimes it has, from its own words; null where it does not say."""
    return {
        "name": platform.node() or "unknown",
        "model": board(sys_),
        "cpu": cpu_name(sys_=sys_),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "boot_id": text(Path("/proc/sys/kernel/random/boot_id")) or sysctl("kern.bootsessionuuid"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "runtimes": {name: version for name in DISTRIBUTIONS for version in [installed(name)] if version},
    }


def state(sys_: Path = SYS) -> Message:
    """Load, clocks, temperature and governor now; null where the system does not say."""
    clock_khz = number(sys_ / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    clusters = [number(path) for path in sorted(sys_.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq"))]
    zones = [number(path) for path in sorted(sys_.glob("class/thermal/thermal_zone*/temp"))]
    degrees = [zone / 1000 for zone in zones if zone is not None and zone > 0]  # a dead sensor reads 0 or less
    return {
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cpu_mhz": clock_khz / 1000 if clock_khz else None,
        "temperature_c": max(degrees, default=None),
        "governor": text(sys_ / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clusters_mhz": [khz / 1000 for khz in clusters if khz],
    }


def sysctl(name: str) -> str | None:
    """What macOS says of itself under a name; null elsewhere."""
    return words_of("sysctl", "-n", name) if sys.platform == "darwin" else None


def words_of(*command: str) -> str | None:
    """What a command prints; null where it fails or is not there."""
    return (told(command) or "").strip() or None


def memory_bytes() -> int:
    """The memory of this machine; 0 where it does not say."""
    with suppress(AttributeError, ValueError, OSError):  # not Unix, or no such name
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(sysctl("hw.memsize") or 0)


def cores() -> int:
    """Logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def board(sys_: Path = SYS) -> str | None:
    """The board's name in its device tree, e.g. `Raspberry Pi 5 Model B Rev 1.0`, or Apple's of a Mac, e.g. `Mac14,2`."""
    return (text(sys_ / "firmware/devicetree/base/model") or "").rstrip("\0") or sysctl("hw.model")


ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
"""Arm's part numbers, which are all that /proc/cpuinfo says there."""


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo"), sys_: Path = SYS) -> str | None:
    """The processor: `model name` on x86, Arm's parts (`Cortex-A55, Cortex-A76`), else the board's name."""
    parts = set()
    for line in (text(cpuinfo) or "").splitlines():
        key, _, value = (word.strip() for word in line.partition(":"))
        if key == "model name" and value:
            return value
        if key == "CPU part":
            parts.add(ARM_PARTS.get(value, f"Arm part {value}"))
    return ", ".join(sorted(parts)) or sysctl("machdep.cpu.brand_string") or board(sys_) or platform.processor() or None


def text(path: Path) -> str | None:
    """What a file says; null for no such sensor, or one that may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def number(path: Path) -> float | None:
    """The number in a file, or null."""
    found = text(path)
    return float(found) if found is not None and found.lstrip("-").isdigit() else None


def busy_s() -> float | None:
    """Processor time that the whole machine has spent on anything since it started, all cores, in s."""
    if sys.platform == "darwin":
        return mach_busy_s()
    words = (text(Path("/proc/stat")) or "").split(maxsplit=9)
    if words[:1] != ["cpu"]:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has ended for want of memory since it started, in any group; 0 where it does not say."""
    counts = dict(line.split(" ", 1) for line in (text(vmstat) or "").splitlines() if " " in line)
    return int(counts.get("oom_kill", 0))


def own_task(kernel: Any) -> Any:
    """What macOS calls this process."""
    import ctypes

    return ctypes.c_uint32.in_dll(kernel, "mach_task_self_")


def mach_busy_s() -> float | None:
    """That of macOS, from HOST_CPU_LOAD_INFO of `host_statistics`: ticks of 10 ms, 32 bits each, of user, system, idle and nice."""
    import ctypes

    kernel, cpu_load_info = ctypes.CDLL(None), 3
    ticks, count = (ctypes.c_uint32 * 4)(), ctypes.c_uint32(4)
    host = kernel.mach_host_self()
    failed = kernel.host_statistics(host, cpu_load_info, ticks, ctypes.byref(count))
    kernel.mach_port_deallocate(own_task(kernel), host)  # each question makes one more
    user, system, _, nice = ticks
    return None if failed else (user + system + nice) / os.sysconf("SC_CLK_TCK")


# -- sensors: this machine's are read with these too -------------------------------------------------------------------


class Watcher:
    """Sensors beside what is measured: their texts as they are, and when. What they mean is for the other end to say.

    rounds:  `every_s`, the `files` that are read then, the `commands` that are run.
    streams: commands that print lines until they are ended; the first that is there is listened to, as `stream`.
    idle:    there is nothing to read.
    """

    def __init__(self, rounds: Sequence[Message], streams: Sequence[Sequence[str]]) -> None:
        self._rounds = rounds
        self.stream = next((index for index, words in enumerate(streams) if shutil.which(words[0])), None)
        self._process = None if self.stream is None else printing(streams[self.stream])
        self.idle = self._process is None and not any(each["files"] or each["commands"] for each in rounds)

    def run(self, over: int) -> Message:
        """What was read until something arrived at a descriptor: for each round when and what, null where nothing; the lines.

        Times are in s of the clock that times samples. `begun`: from when on.
        """
        begun = time.perf_counter()
        due = [begun if each["files"] or each["commands"] else float("inf") for each in self._rounds]
        read: list[list[Any]] = [[] for _ in due]
        lines: list[Any] = []
        stream = None if self._process is None or self._process.stdout is None else Lines(self._process.stdout.fileno())
        while True:
            wait_s = max(0.0, min(due) - time.perf_counter())
            ends = [over] if stream is None else [over, stream.descriptor]
            ready = select.select(ends, [], [], None if wait_s == float("inf") else wait_s)[0]
            if over in ready:
                break
            if stream and ready:
                stream = stream if stream.fill() else None
                lines += [[time.perf_counter(), line] for line in text_lines(stream)]
            for index, each in enumerate(self._rounds):
                now = time.perf_counter()
                if now >= due[index]:
                    read[index].append([now, [*map(quick_text, each["files"]), *map(told, each["commands"])]])
                    due[index] = max(due[index] + each["every_s"], time.perf_counter())
        self.close()
        return {"begun": begun, "rounds": read, "lines": lines}

    def close(self) -> None:
        """End what prints."""
        if self._process is not None and self._process.stdout is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()


def printing(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A command whose lines are read; one that asks for a password is to fail."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(words, bufsize=0, stdin=nothing, stdout=subprocess.PIPE, stderr=nothing)


def text_lines(lines: Lines | None) -> list[str]:
    """The whole lines that have arrived."""
    return [line.decode("utf-8", "replace") for line in iter(lines.next, None)] if lines else []


def texts(pattern: str, root: Path = Path("/")) -> dict[str, str]:
    """Path -> text of the sensors' files that fit a pattern below a root; one that is asleep, or for root alone, is not there."""
    found = {f"/{path.relative_to(root)}": quick_text(str(path)) for path in sorted(root.glob(pattern.lstrip("/")))}
    return {path: said for path, said in found.items() if said is not None}


def told(words: Sequence[str]) -> str | None:
    """What a command prints, in the language of the formats; null where it fails or is not there."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,  # one that asks for a password is to fail
            capture_output=True,
            timeout=5,
            check=True,
            env=dict(os.environ, LC_ALL="C"),
        )
        return done.stdout.decode("utf-8", "replace")
    return None


def quick_text(path: str) -> str | None:
    """What a sensor's file says, in a third of the time that `text` takes; null for one that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace").strip("\0 \n")
    except OSError:  # a sensor that is asleep
        return None
    finally:
        os.close(descriptor)


# -- runtimes ----------------------------------------------------------------------------------------------------------


class Trouble(Exception):
    """What the other end is told instead of an answer: a kind that it knows, and a line."""

    def __init__(self, kind: str, line: str) -> None:
        super().__init__(line)
        self.kind = kind


DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", ["onnxruntime", "onnxruntime-gpu"]),
    "litert": ("ai_edge_litert", ["ai-edge-litert"]),
    "tflite-runtime": ("tflite_runtime", ["tflite-runtime"]),
    "openvino": ("openvino", ["openvino"]),
    "coreml": ("coremltools", ["coremltools"]),
    "numpy": ("numpy", ["numpy"]),
}
"""What to look for: the module, and what may bring it."""


def installed(name: str) -> str | None:
    """The version of a runtime that is installed, without importing it."""
    module, packages = DISTRIBUTIONS[name]
    if importlib.util.find_spec(module) is None:
        return None
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return "unknown"


def need(module: str, package: str) -> Any:
    """Import a runtime, or say that it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, but broken: show why
        raise Trouble("missing", package) from error


class Net(Protocol):
    """A network file in a runtime, made from its name and what was `asked`, which imports the runtime."""

    version: str

    def load(self) -> None:
        """Open the file."""

    def run(self, feeds: Message) -> list[Any]:
        """The outputs for one set of inputs."""

    def words(self, feeds: Message) -> Message:
        """What the runtime says of how it runs; may run once more."""


class OnnxRuntime:
    """ONNX Runtime on the CPU, with the options that edgeseg takes for it everywhere."""

    def __init__(self, file: str, asked: Message) -> None:
        self._file, self._threads, self._outputs = file, asked["threads"], asked["outputs"]
        self._ort = need("onnxruntime", "onnxruntime")
        self.version = str(self._ort.__version__)

    def load(self) -> None:
        """Open the file."""
        self._session = self._open(self._options())

    def _options(self) -> Any:
        ort = self._ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        return options

    def _open(self, options: Any) -> Any:
        return self._ort.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: Message) -> list[Any]:
        """The outputs for one set of inputs."""
        outputs: list[Any] = self._session.run(self._outputs, feeds)
        return outputs

    def words(self, feeds: Message) -> Message:
        """What the runtime wrote about each kernel of one more run."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
            session = self._open(options)
            session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event["args"]]
        kept = ("provider", "op_name", "input_type_shape")
        return {
            "nodes": [{key: node[key] for key in kept} for node in nodes],
            "providers": self._session.get_providers(),
        }


class LiteRt:
    """LiteRT's interpreter on the CPU, or that of tflite-runtime."""

    def __init__(self, file: str, asked: Message) -> None:
        self._file, self._threads, self._names = file, asked["threads"], asked["outputs"]
        try:
            self._kind = need("ai_edge_litert.interpreter", "ai-edge-litert").Interpreter
            self.version = importlib.metadata.version("ai-edge-litert")
        except Trouble:
            if installed("tflite-runtime") is None:
                raise
            self._kind = need("tflite_runtime.interpreter", "tflite-runtime").Interpreter
            self.version = f"tflite-runtime {importlib.metadata.version('tflite-runtime')}"

    def load(self) -> None:
        """Open the file."""
        self._model = self._kind(model_path=self._file, num_threads=self._threads)
        self._model.allocate_tensors()
        signature = next(iter(self._model._get_full_signature_list().values()))
        self._inputs, outputs = signature["inputs"], signature["outputs"]
        self._outputs = [outputs[name] for name in self._names]

    def run(self, feeds: Message) -> list[Any]:
        """The outputs for one set of inputs."""
        for name, value in feeds.items():
            self._model.set_tensor(self._inputs[name], value)
        self._model.invoke()
        return [self._model.get_tensor(index) for index in self._outputs]

    def words(self, feeds: Message) -> Message:
        """Operators and the element types of their first outputs, delegates among them."""
        types = {tensor["index"]: tensor["dtype"].__name__ for tensor in self._model.get_tensor_details()}
        nodes = self._model._get_ops_details()
        return {"operators": [[node["op_name"], types.get(next(iter(node["outputs"]), -1))] for node in nodes]}


HALF = "half"
"""For INFERENCE_PRECISION_HINT: what `half` says of the processor."""


def half(core: Any) -> str:
    """The half precision that OpenVINO takes by itself on this processor, since it is fast in it; f16 where that is none.

    Processors that have both need not be fast in both: one with AMX took 0.43 of the time of f32 in bf16 and 1.41 in f16.
    """
    own = str(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
    return own if own in ("bf16", "f16") else "f16"


class OpenVino:
    """OpenVINO on the CPU."""

    def __init__(self, file: str, asked: Message) -> None:
        self._file, self._asked = file, asked
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or importing it reports to its makers
        self._ov = need("openvino", "openvino")
        self.version = str(self._ov.__version__).partition("-")[0]

    def load(self) -> None:
        """Open the file."""
        core, options = self._ov.Core(), dict(self._asked["options"])
        if options.get("INFERENCE_PRECISION_HINT") == HALF:
            options["INFERENCE_PRECISION_HINT"] = half(core)
        self._model = core.compile_model(core.read_model(self._file), "CPU", options)
        self._request = self._model.create_infer_request()
        self._outputs = [self._model.output(name) for name in self._asked["outputs"]]

    def run(self, feeds: Message) -> list[Any]:
        """The outputs for one set of inputs."""
        made = self._request.infer(feeds, share_inputs=True, share_outputs=False)
        return [made[output] for output in self._outputs]

    def words(self, feeds: Message) -> Message:
        """The kind and precision of each operator that it executes, and the properties that were asked for."""
        nodes = [node.get_rt_info() for node in self._model.get_runtime_model().get_ordered_ops()]
        said = [[str(node[key].astype(str)) for key in ("layerType", "runtimePrecision")] for node in nodes]
        properties = {name: self._word(self._model.get_property(name)) for name in self._asked["read_back"]}
        return {"operators": said, "properties": properties, "devices": self._model.get_property("EXECUTION_DEVICES")}

    @staticmethod
    def _word(value: Any) -> str:
        return str(value.get_type_name() if hasattr(value, "to_dtype") else getattr(value, "name", value))


class CoreMl:
    """Core ML on a Mac, through coremltools, on the compute units that were asked for. It takes no number of threads."""

    def __init__(self, file: str, asked: Message) -> None:
        self._package, self._names = str(Path(file).parent), asked["outputs"]
        self._tools = need("coremltools", "coremltools")
        self._units = self._tools.ComputeUnit[asked["compute_units"].upper()]
        self.version = str(self._tools.__version__)

    def load(self) -> None:
        """Compile and open the package."""
        self._model = self._tools.models.MLModel(self._package, compute_units=self._units)
        self._spec = self._model.get_spec()
        whole = self._tools.proto.FeatureTypes_pb2.ArrayFeatureType.INT32
        self._pictures = pictures(self._spec)
        self._outputs = {
            each.name: (list(each.type.multiArrayType.shape), each.type.multiArrayType.dataType == whole)
            for each in self._spec.description.output
        }

    def run(self, feeds: Message) -> list[Any]:
        """The outputs for one set of inputs, in the shapes and types that the file declares."""
        np = need("numpy", "numpy")
        made = self._model.predict({name: self._given(name, array) for name, array in feeds.items()})
        outputs = []
        for name in self._names:
            shape, whole = self._outputs[name]
            outputs.append(np.array(made[name], np.int32 if whole else np.float32).reshape(shape))
        return outputs

    def _given(self, name: str, array: Any) -> Any:
        """An input as coremltools takes it: a picture of PIL, or float32."""
        np = need("numpy", "numpy")
        if name in self._pictures:
            rgb = (
                array[0][..., ::-1] if self._pictures[name] else array[0]
            )  # Core ML puts it in the declared order again
            return need("PIL.Image", "pillow").fromarray(np.ascontiguousarray(rgb))
        return np.ascontiguousarray(array, np.float32)

    def words(self, feeds: Message) -> Message:
        """What the file declares, and on which device Core ML means to run each operator; null before macOS 14.4, which has no plans."""
        try:
            plans = need("coremltools.models.compute_plan", "coremltools").MLComputePlan
            plan = plans.load_from_path(self._model.get_compiled_model_path(), self._units)
        except (RuntimeError, ValueError):
            placed = None
        else:
            placed = planned(plan)
        return {
            "units": self._units.name.lower(),
            "macos": platform.mac_ver()[0],
            "operators": declared(self._spec),
            "placed": placed,
        }


def planned(plan: Any) -> list[str]:
    """The device, as coremltools calls its class, of each operator that a compute plan has on one."""
    block = plan.model_structure.program.functions["main"].block
    usages = [plan.get_compute_device_usage_for_mlprogram_operation(each) for each in block.operations]
    return [type(each.preferred_compute_device).__name__ for each in usages if each is not None]


def pictures(spec: Any) -> dict[str, bool]:
    """The inputs that a parsed package takes as pictures, and whether its operators see blue first."""
    images = [each for each in spec.description.input if each.type.WhichOneof("Type") == "imageType"]
    return {each.name: each.type.imageType.colorSpace == each.type.imageType.BGR for each in images}


def main_function(spec: Any) -> Any:
    """The program of a parsed package, and the one block of it."""
    function = dict(spec.mlProgram.functions)["main"]  # asked itself, a map makes what is not there
    return function, dict(function.block_specializations)[function.opset]


def declared(spec: Any) -> list[Any]:
    """The operators of a parsed package without its constants: kind, element type, and the kinds of those that made its inputs."""
    kind = importlib.import_module("coremltools.proto.MIL_pb2").DataType.Name
    steps = [each for each in main_function(spec)[1].operations if each.type != "const"]
    makers = {made.name: step.type for step in steps for made in step.outputs}
    return [
        [
            step.type,
            kind(step.outputs[0].type.tensorType.dataType),
            {key: makers.get(each.arguments[0].name, "") for key, each in step.inputs.items() if each.arguments},
        ]
        for step in steps
    ]


class Null:
    """No model, only time that passes as told, and faults as told: `runtimes/null.py` says what the options mean."""

    version = "1"

    def __init__(self, file: str, asked: Message) -> None:
        self._options, self._calls = asked["options"], 0
        self._shape, self._dtype = asked["shape"], asked["dtype"]

    def load(self) -> None:
        """There is nothing to open but the numbers it gives."""
        self._result = need("numpy", "numpy").full(self._shape, 0.5, self._dtype)
        self._steps = [list(step) for step in self._options["steps"]]

    def run(self, feeds: Message) -> list[Any]:
        """Constant numbers, after the time of this call has passed."""
        begin = time.perf_counter_ns()
        self._calls += 1
        if self._options["prints"]:
            os.write(1, b"null runtime: a line that is no event\n")
        if self._options["fault"] and self._calls >= self._options["fault_at"]:
            self._go_wrong(self._options["fault"])
        if len(self._steps) > 1 and self._steps[0][0] == 0:
            self._steps.pop(0)
        self._steps[0][0] -= 1
        ns = self._steps[0][1]
        if self._options["sleep"]:
            time.sleep(ns / 1e9)
        else:
            while time.perf_counter_ns() - begin < ns:
                pass
        return [self._result]

    def _go_wrong(self, fault: str) -> None:
        signals = {"segv": signal.SIGSEGV, "kill": signal.SIGKILL, "ill": signal.SIGILL}
        if fault in signals:
            os.kill(os.getpid(), signals[fault])
        elif fault == "exit":
            os.write(2, b"the null runtime gives up\n")
            os._exit(3)
        elif fault == "raise":
            raise RuntimeError("the null runtime was told to raise")
        elif fault == "hang":
            time.sleep(3600)
        elif fault == "nan":
            self._result.fill(float("nan"))
        elif fault == "flip":
            self._result[:, -1].fill(1)

    def words(self, feeds: Message) -> Message:
        """The number of calls, and what it claims."""
        return {"calls": self._calls, "executes": self._options["executes"]}


RUNTIMES: dict[str, Callable[[str, Message], Net]] = {
    "onnxruntime": OnnxRuntime,
    "litert": LiteRt,
    "openvino": OpenVino,
    "coreml": CoreMl,
    "null": Null,
}


class Prompted:
    """An encoder and a decoder with one prompt, run one after the other as `runtimes/base.py` does."""

    def __init__(self, encoder: Net, decoder: Net, maps: Sequence[str], prompt: dict[str, Any]) -> None:
        np = need("numpy", "numpy")
        self._encoder, self._decoder, self._maps, self.version = encoder, decoder, maps, encoder.version
        self._prompt = {name: np.asarray(values, np.float32) for name, values in prompt.items()}

    def load(self) -> None:
        """Open both files."""
        self._encoder.load()
        self._decoder.load()

    def run(self, feeds: Message) -> list[Any]:
        """The best mask."""
        return self.answer(self.look(feeds))

    def look(self, feeds: Message) -> Message:
        """What the decoder is given of an image."""
        made = self._encoder.run(feeds)
        return {**{name: made[index] for index, name in enumerate(self._maps)}, **self._prompt}

    def answer(self, seen: Message) -> list[Any]:
        """The best mask of an image that was looked at."""
        masks, quality = self._decoder.run(seen)
        return [masks if masks.ndim == 3 else masks[:, [int(quality[0].argmax())]]]

    def words(self, feeds: Message) -> Message:
        """What the runtime says of each."""
        return {"encoder": self._encoder.words(feeds), "decoder": self._decoder.words(self.look(feeds))}


UNSUPPORTED = (
    "not_implemented",
    "no op registered",
    "is not a registered",
    "unresolved custom op",
    "didn't find op",
    "unsupported operation",
    "not supported opset",
)
"""What runtimes say of an operator that they do not have."""

NO_MEMORY = (
    "bad_alloc",
    "cannot allocate memory",
    "failed to allocate",
    "failed to map segment",
    "memory allocation",
    "out of memory",
)


def trouble(error: BaseException) -> Trouble:
    """What a runtime raised, as an outcome."""
    if isinstance(error, Trouble):
        return error
    line = " ".join(str(error).split()) or type(error).__name__
    small = line.lower()
    if isinstance(error, MemoryError) or any(word in small for word in NO_MEMORY):
        return Trouble("out_of_memory", line)
    if any(word in small for word in UNSUPPORTED):
        return Trouble("unsupported_operator", line)
    return Trouble("error", f"{type(error).__name__}: {line}")


# -- the measurer ------------------------------------------------------------------------------------------------------


class Lines:
    """The lines that arrive at a file descriptor, unbuffered, so that waiting for more can be told from having more."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._kept = descriptor, b""

    def ready(self) -> bool:
        """Whether something has arrived."""
        return b"\n" in self._kept or bool(select.select([self.descriptor], [], [], 0)[0])

    def fill(self) -> bool:
        """Take what has arrived, or wait for it; false at the end."""
        data = os.read(self.descriptor, 1 << 16)
        self._kept += data
        return bool(data)

    def next(self) -> bytes | None:
        """A whole line, or null while there is none."""
        line, end, rest = self._kept.partition(b"\n")
        if not end:
            return None
        self._kept = rest
        return line

    def take(self, most: int) -> bytes:
        """What has arrived that is no line, at most so many bytes."""
        taken, self._kept = self._kept[:most], self._kept[most:]
        return taken


def say(descriptor: int, message: Message) -> None:
    """Write a message, all of it."""
    put(descriptor, json.dumps(message).encode())


def put(descriptor: int, line: bytes) -> None:
    """Write a line, all of it."""
    data = line + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


class Measurer:
    """One network and what it is fed."""

    def __init__(self, requests: int, answers: int, begun: int | None = None) -> None:
        self._requests, self._answers = Lines(requests), answers
        self._begun, self._waited = begun, 0

    def serve(self) -> None:
        """Answer until there are no more requests."""
        while True:
            line = self._requests.next()
            if line is None:
                begin = time.perf_counter_ns()
                if not self._requests.fill():
                    return
                self._waited += time.perf_counter_ns() - begin
                continue
            request = json.loads(line)
            del request["child"]
            if request["do"] == "enough":  # of a series that had just ended by itself
                continue
            try:
                answer = getattr(self, request.pop("do"))(**request)
            except Exception as error:  # noqa: BLE001  whatever a runtime raises is an outcome
                found = trouble(error)
                answer = {"event": "error", "kind": found.kind, "line": str(found)}
            say(self._answers, answer)

    def open(
        self,
        runtime: str,
        file: str,
        image: str,
        name: str,
        layout: str,
        asked: Message,
        decoder: Message | None = None,
    ) -> Message:
        """Open the network and run it once; what it draws is part of the answer. `load_ms` is without any import.

        `ready_ms`: from the start of Python on, if that was for this; without what was waited for the other end.
        """
        np = need("numpy", "numpy")

        def made() -> Net:
            net: Net = RUNTIMES[runtime](file, asked)
            if not decoder:
                return net
            second = RUNTIMES[runtime](decoder["file"], {**asked, "outputs": decoder["outputs"]})
            return Prompted(net, second, asked["outputs"], decoder["prompt"])

        self._made, self._net, self._layout = made, made(), layout
        feeds = {name: np.load(image)}
        self.memory = PeakMemory()
        begin = time.perf_counter_ns()
        self._net.load()
        load_ns = time.perf_counter_ns() - begin
        self.memory.note()
        self.memory.forget()
        begin = time.perf_counter_ns()
        output = self._run(feeds)
        first_ns = time.perf_counter_ns() - begin
        ready_ns = self._begun and time.perf_counter_ns() - self._begun - self._waited
        self.memory.note()
        self._feeds, self._labels, self._threads = feeds, labels(output).copy(), asked["threads"]
        return {
            "event": "opened",
            "version": self._net.version,
            "load_ms": load_ns / 1e6,
            "first_ms": first_ns / 1e6,
            "ready_ms": ready_ns and ready_ns / 1e6,
            "peak_memory_bytes": self.memory.peak,
            "model_memory_bytes": self.memory.growth,
            "labels": drawn(self._labels),
        }

    def draw(self, file: str) -> Message:
        """The labels of another input."""
        (name,) = self._feeds
        made = self._run({name: need("numpy", "numpy").load(file)})
        return {"event": "drawn", "labels": drawn(labels(made))}

    def measure(
        self,
        warmup_count: int,
        warmup_s: float,
        max_s: float,
        fps: float | None = None,
        streams: int | None = None,
        photo: str | None = None,
        spec: Message | None = None,
    ) -> Message:
        """Time the network: the warm-up, then chunk after chunk until the other end has enough, or `max_s` have passed.

        fps: as frames of a camera come. streams: so many of it at once. photo: the whole way instead, from its bytes to a
        label map of its size.
        """
        np = need("numpy", "numpy")
        clock = time.perf_counter_ns
        steps: Sequence[Step] = [self._run]
        if isinstance(self._net, Prompted) and not fps and not streams:
            steps = [self._net.look, self._net.answer]
        given: Any = self._feeds
        if photo and spec:
            steps, given = self._whole(Path(photo), spec)
        marks = np.empty((1 << 20, len(steps) + 1), np.int64)
        gc.collect()
        gc.disable()
        self.memory.forget()
        begin = clock()
        until, stop = begin + int(warmup_s * 1e9), begin + int(max_s * 1e9)
        self._send("warmup", marks[: loop(steps, given, marks, 0, warmup_count, until, stop)])
        runs = self._streams(streams or 0, warmup_count)
        self.memory.note()
        busy, own, begin = busy_s(), time.process_time(), clock()
        stop = begin + int(max_s * 1e9)
        count = crc = 0
        series = self._camera(fps, stop) if fps else self._chunks(steps, given, marks, stop)
        with closing(side_by_side(runs, given, len(marks)) if runs else series) as chunks:
            for chunk in chunks:
                crc, count = self._send("chunk", chunk, crc), count + len(chunk)
                if clock() >= stop or self._told():
                    break
        wall_s, own, after = (clock() - begin) / 1e9, time.process_time() - own, busy_s()
        gc.enable()
        last, whole = self._run(self._feeds), self._labels
        if photo:
            whole = labels(steps[2](steps[1](steps[0](given))))
        return {
            "event": "done",
            "count": count,
            "crc": crc,
            "others_cores": None if busy is None or after is None else max(0.0, (after - busy - own) / wall_s),
            "peak_memory_bytes": self.memory.peak,
            "model_memory_bytes": self.memory.growth,
            "unchanged": float(np.mean(labels(last) == self._labels)),
            "nonfinite": int(last.size - np.count_nonzero(np.isfinite(last))),
            "alike": float(np.mean(whole == self._labels)),
        }

    def _streams(self, count: int, warmup_count: int) -> list[Step]:
        """The network so many times, each warm."""
        nets = [self._net] * min(count, 1)
        while len(nets) < count:
            nets.append(self._made())
            nets[-1].load()
            for _ in range(warmup_count):
                nets[-1].run(self._feeds)
        return [net.run for net in nets]

    def _chunks(self, steps: Sequence[Step], given: Any, marks: Marks, stop: int) -> Generator[Marks, None, None]:
        while True:
            yield marks[: loop(steps, given, marks, 0, 1, time.perf_counter_ns() + CHUNK_NS, stop)]

    def _camera(self, fps: float, stop: int) -> Generator[Marks, None, None]:
        np, clock = need("numpy", "numpy"), time.perf_counter_ns
        marks, sent, until = np.empty((1 << 20, 3), np.int64), 0, clock() + CHUNK_NS
        for row in frames(self._run, self._feeds, marks, fps):
            if clock() >= min(until, stop):
                yield marks[sent:row]
                sent, until = row, clock() + CHUNK_NS

    def _whole(self, photo: Path, spec: Message) -> tuple[list[Step], bytes]:
        """The steps from the bytes of a photo to a label map of its size, and the bytes."""
        data = photo.read_bytes()
        height, width = decode(data).shape[:2]
        (name,) = self._feeds
        opencv().setNumThreads(self._threads)
        return [
            decode,
            lambda image: {name: prepare(image, spec)},
            self._run,
            lambda output: enlarge(labels(output), height, width),
        ], data

    def burst(self, seconds: float, count: int) -> Message:
        """A short series: at least `count` samples and `seconds`."""
        marks = need("numpy", "numpy").empty((1 << 20, 2), "int64")
        begin = time.perf_counter_ns()
        gc.disable()
        done = loop([self._run], self._feeds, marks, 0, count, begin + int(seconds * 1e9), begin + int(3600e9))
        gc.enable()
        return {"event": "burst", **packed(marks[:done])}

    def watch(self, rounds: Sequence[Message], streams: Sequence[Sequence[str]]) -> Message:
        """Read sensors until the other end has enough: it measures in another process. Sent at the end, for that costs nothing then."""
        watcher = Watcher(rounds, streams)
        say(self._answers, {"event": "watching", "stream": watcher.stream})
        said = watcher.run(self._requests.descriptor)
        self._told()
        return {"event": "watched", "data": base64.b64encode(zlib.compress(json.dumps(said).encode())).decode()}

    def _run(self, feeds: Message) -> Any:
        """An output, `[1, K, H, W]` or `[1, H, W]`."""
        made = self._net.run(feeds)[0]
        return made.transpose(0, 3, 1, 2) if made.ndim == 4 and self._layout == "NHWC" else made

    def _send(self, event: str, marks: Marks, crc: int = 0) -> int:
        said = packed(marks)
        say(self._answers, {"event": event, **said})
        return zlib.crc32(said["data"].encode(), crc)

    def _told(self) -> bool:
        """Whether the other end has enough, or is gone."""
        if not self._requests.ready():
            return False
        return not self._requests.fill() or self._requests.next() is not None

    def execution(self) -> Message:
        """The runtime's own words on how it ran; asked last, since some open the model again to tell."""
        return {"event": "execution", "words": self._net.words(self._feeds)}


def packed(marks: Marks) -> Message:
    """Samples as they are sent."""
    return {"columns": marks.shape[1], "data": base64.b64encode(marks.astype("<i8").tobytes()).decode()}


def drawn(label_map: Any) -> Message:
    """A label map as it is sent."""
    return {"shape": list(label_map.shape), "data": base64.b64encode(zlib.compress(label_map.tobytes())).decode()}


# -- the keeper --------------------------------------------------------------------------------------------------------


class Keeper:
    """What the other end talks to, for as long as it is there."""

    def __init__(self) -> None:
        self._stdin, self._lock, self._folder = Lines(0), -1, Path()
        self._children: dict[int, Child] = {}
        self._said = 0.0
        self._seen, self._still_since = (b"", 0), 0.0

    def serve(self) -> NoReturn:
        """Answer until the other end is gone, then end everything."""
        with suppress(OSError):  # the leader of a session already is one
            os.setpgid(0, 0)
        signal.signal(signal.SIGALRM, lambda *_: self._leave())
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            say(1, {"event": "hello", "protocol": PROTOCOL, "pid": os.getpid(), "facts": facts(), "state": state()})
            while True:
                signal.alarm(SILENCE_S)  # from the last word on, and whatever this is waiting in
                if not self._wait():
                    break
        except BrokenPipeError:
            pass
        self._leave()

    def _wait(self) -> bool:
        """Handle what arrives first; false at the end of stdin."""
        while True:
            children = list(self._children.items())
            ends = [end for _, child in children for end in (child.output.descriptor, child.words)]
            ready = select.select([0, *ends], [], [])[0]
            for number, child in children:
                if child.words in ready:
                    child.listen()
                if child.output.descriptor in ready:
                    self._carry(number, child)
            if 0 in ready:
                if not self._stdin.fill():
                    return False
                while True:
                    line = self._stdin.next()
                    if line is None:
                        return True
                    self._answer(line)

    def _carry(self, number: int, child: Child) -> None:
        """The measurer's whole lines, and how it ended if it did."""
        more = child.output.fill()
        while True:
            line = child.output.next()
            if line is None:
                break
            put(1, line)
        if not more:
            del self._children[number]
            say(1, {"event": "exit", "name": child.name, **child.end()})

    def _answer(self, line: bytes) -> None:
        request = json.loads(line)
        do = request.get("do")
        if do == "ping":
            return self._alive()
        if do in ("open", "draw", "measure", "watch", "enough", "burst", "execution"):
            if request["child"] in self._children:
                self._children[request["child"]].tell(line)
            return None
        del request["do"]
        try:
            return say(1, getattr(self, f"do_{do}")(**request))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return say(1, {"event": "error", "kind": "device", "line": f"{where}{error.strerror or error}"})

    def do_state(self) -> Message:
        """Load, clocks, temperature, and the processor time that was spent, by all and by this."""
        return {"event": "state", "state": state(), "spent": [busy_s(), sum(os.times()[:4])]}

    def do_look(self, pattern: str) -> Message:
        """Sensors' files."""
        return {"event": "looked", "files": texts(pattern)}

    def do_run(self, words: Sequence[str]) -> Message:
        """What a command of the device prints."""
        return {"event": "ran", "said": told(words)}

    def do_lock(self, folder: str, lock: str, who: str, silence_s: float) -> Message:
        """Have the device for oneself, or hear who has it; an agent whose lock stands still for `silence_s` is ended."""
        import fcntl  # not on Windows, where the rest of this file is imported too

        self._folder = Path(folder).expanduser()
        (self._folder / "files").mkdir(parents=True, exist_ok=True)
        self._lock = open_lock(Path(lock).expanduser())
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._busy(silence_s)
        for part in self._folder.glob("files/*.part"):  # of one that was cut off
            part.unlink()
        shutil.rmtree(self._folder / "open", ignore_errors=True)  # likewise
        sign_lock(self._lock, who, group=os.getpgrp() == os.getpid())
        return {"event": "locked"}

    def _busy(self, silence_s: float) -> Message:
        """Who has it, and the end of one that shows no sign of life while this looks on.

        How old the lock is says nothing: clocks jump. That it is the same, by the steady clock of the device that both are on, does.
        """
        seen = os.pread(self._lock, 4096, 0), os.fstat(self._lock).st_mtime_ns
        os.close(self._lock)
        self._lock = -1
        if seen != self._seen:
            self._seen, self._still_since = seen, time.monotonic()
        holder = signed(seen[0])
        silent = time.monotonic() - self._still_since > silence_s
        if silent and holder.get("group") and is_agent(holder["pid"]):
            with suppress(ProcessLookupError):
                os.killpg(holder["pid"], signal.SIGKILL)
        return {"event": "busy", "who": holder.get("who", "somebody")}

    def _alive(self) -> None:
        """Say so, to whoever waits for the lock too; in the middle of something long, which is no reason to leave, as well."""
        signal.alarm(SILENCE_S)
        if self._lock >= 0:
            os.utime(self._lock)
        say(1, {"event": "pong"})

    def do_unlock(self) -> Message:
        """Let others have the device."""
        self._end()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1
        return {"event": "unlocked"}

    def do_stock(self, files: dict[str, int]) -> Message:
        """Which of the files, by their SHA-256, are not there whole; room is made for them among those long unused."""
        store = self._folder / "files"
        missing = [sha for sha in files if not self._whole(store / sha, sha)]
        wanted = sum(files[sha] for sha in missing) + ROOM
        old = sorted(
            (path for path in store.iterdir() if path.name not in files), key=lambda path: path.stat().st_mtime
        )
        while missing and self._free(store) < wanted and old:
            old.pop(0).unlink()
        return {"event": "stock", "missing": missing, "wanted": wanted, "free": self._free(store), "folder": str(store)}

    @staticmethod
    def _free(folder: Path) -> int:
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize

    def _whole(self, path: Path, sha: str) -> bool:
        """Whether a file is what its name says; one that is not is removed."""
        if not path.exists():
            return False
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(BLOCK), b""):
                digest.update(block)
                self._alive()
        if digest.hexdigest() != sha:
            path.unlink()
            return False
        os.utime(path)
        return True

    def do_store(self, sha: str, count: int) -> Message:
        """Take a file of `count` bytes, which follow the line."""
        path = self._folder / "files" / sha
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                synced = count
                while count:
                    data = self._stdin.take(count)
                    if not data:
                        self._more()
                    count -= len(data)
                    file.write(data)
                    if synced - count >= BLOCK or not count:
                        file.flush()
                        os.fsync(file.fileno())
                        self._alive()
                        synced = count
        except OSError:
            while count:  # what follows is still the file, not requests
                self._more()
                count -= len(self._stdin.take(count))
            raise
        part.rename(path)
        if not self._whole(path, sha):
            return {"event": "error", "kind": "device", "line": f"{sha[:12]} arrived damaged; is the disk all right?"}
        return {"event": "stored"}

    def _more(self) -> None:
        """Wait for more of a file; over a slow line too, each piece is a word, and now and then one is said."""
        if not self._stdin.fill():
            self._leave()
        signal.alarm(SILENCE_S)
        if time.monotonic() - self._said > 1:
            self._said = time.monotonic()
            self._alive()

    def do_start(self, child: int, name: str, files: dict[str, str], cold: bool = False) -> Message:
        """A fresh measurer, beside those there are, in a folder that has these files by their names; `cold`: Python too."""
        place = self._folder / "open" / str(child)
        place.mkdir(parents=True)
        for path, sha in files.items():
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(self._folder / "files" / sha, target)
            except OSError:  # a file system without links
                self._copied(self._folder / "files" / sha, target)
        self._children[child] = Child(place, name, cold)
        return {"event": "started", "pid": self._children[child].pid}

    def _copied(self, source: Path, target: Path) -> None:
        """Copy a file; an SD card takes its time, which is no reason to leave."""
        with source.open("rb") as file, target.open("wb") as copy:
            while True:
                block = file.read(BLOCK)
                if not block:
                    return
                copy.write(block)
                self._alive()

    def do_end(self, child: int) -> Message:
        """End one measurer, if it has not ended by itself."""
        if child in self._children:
            self._children.pop(child).end(kill=True)
        shutil.rmtree(self._folder / "open" / str(child), ignore_errors=True)
        return {"event": "ended"}

    def _end(self) -> None:
        for child in list(self._children):
            self.do_end(child)

    def _leave(self) -> NoReturn:
        self._end()
        os._exit(0)


def open_lock(path: Path) -> int:
    """The lock file, which all users of a device share."""
    try:  # a file of somebody else's in a folder like /tmp may be opened, but not with O_CREAT
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        os.fchmod(descriptor, 0o666)
        return descriptor


def sign_lock(lock: int, who: str, group: bool) -> None:
    """Write who has it, for those who wait; `group`: a process group that may be ended when it shows no sign of life."""
    about = {"pid": os.getpid(), "group": group, "who": who, "since": time.time()}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(about).encode(), 0)


def signed(data: bytes) -> Message:
    """Who has a lock, from what its file says; empty where that is about to be written, or is something else."""
    said = None
    with suppress(ValueError):
        said = json.loads(data)
    return said if isinstance(said, dict) else {}


def is_agent(pid: int) -> bool:
    """Whether a process is one of these: what a lock file says need not be true."""
    said = text(Path(f"/proc/{pid}/cmdline")) or (
        words_of("ps", "-p", str(pid), "-o", "command=") if sys.platform == "darwin" else None
    )
    return "agent.py" in (said or "")


class Child:
    """The measurer, seen from the keeper."""

    def __init__(self, place: Path, name: str, cold: bool) -> None:
        self.name, begun = name, time.perf_counter_ns()
        requests, self._requests = os.pipe()
        answers, writing = os.pipe()
        self.output, self._tail = Lines(answers), b""
        self.words, printing = os.pipe()
        keeper, self._oom_kills = os.getpid(), oom_kills()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _die_with(keeper)
                for number, descriptor in enumerate((requests, printing, printing)):
                    os.dup2(descriptor, number)  # what a runtime prints is not the other end's business
                for descriptor in (self._requests, answers, self.words):
                    os.close(descriptor)  # or the end of the requests would never be seen
                os.chdir(place)
                if cold:
                    os.set_inheritable(writing, True)
                    os.execv(sys.executable, [sys.executable, AGENT, str(writing), str(begun)])
                Measurer(0, writing).serve()
            except BaseException as error:  # noqa: BLE001  a fork must not come back
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        for descriptor in (requests, writing, printing):
            os.close(descriptor)

    def tell(self, line: bytes) -> None:
        """Hand on a request."""
        with suppress(BrokenPipeError):  # it has just ended, which is told soon
            os.write(self._requests, line + b"\n")

    def listen(self) -> None:
        """Keep the end of what it printed."""
        self._tail = (self._tail + os.read(self.words, 1 << 16))[-4096:]

    def end(self, kill: bool = False) -> Message:
        """Wait until it has ended: its exit code, or the signal, whether that was for want of memory, and its last words."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        while select.select([self.words], [], [], 0)[0]:
            before = self._tail
            self.listen()
            if self._tail == before:
                break
        for descriptor in (self._requests, self.output.descriptor, self.words):
            os.close(descriptor)
        said = self._tail.decode("utf-8", "replace").strip().splitlines()
        by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
        return {
            "code": None if by else os.WEXITSTATUS(status),
            "signal": by,
            "starved": by == "SIGKILL" and oom_kills() > self._oom_kills,
            "words": said[-1] if said else "",
        }


def _die_with(keeper: int) -> None:
    """On Linux, a keeper that is killed takes the measurer with it, in the middle of an operator too."""
    if sys.platform.startswith("linux"):
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Measurer(0, int(sys.argv[1]), int(sys.argv[2])).serve()
    else:
        Keeper().serve()
