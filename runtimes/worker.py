"""The process that measures: `python -m edgeseg.runtimes.worker`, started fresh for every measurement."""

from __future__ import annotations

import base64
import gc
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.runtimes import RUNTIMES, open_artifact, pixels, runtime_of, statistics
from edgeseg.runtimes.agent import PeakMemory, Step, drawn, frames, loop, side_by_side
from edgeseg.runtimes.base import PromptSession, Session, profiled
from edgeseg.runtimes.record import Protocol
from edgeseg.runtimes.serve import Servant

CAPACITY = 1 << 22
"""Most samples of one series; untouched rows cost no memory."""

PRECISE = 0.10
"""A series goes on, as long as its protocol allows, until the 95 % interval of its median is narrower than this share of it."""

STAGES = ("decode", "resize", "infer", "labels")
"""Steps of the end-to-end path. `resize` includes the normalisation where it is not baked in."""

Marks = NDArray[np.int64]
"""`[samples, steps + 1]`: the start of a sample, then the end of each of its steps, in ns."""


def parts(session: Session) -> list[Step]:
    """What a session does for one answer: a promptable one looks at the image, then answers."""
    return [session.encode, session.answer] if isinstance(session, PromptSession) else [session.run]


def warm_up(steps: Sequence[Step], given: Any, protocol: Protocol) -> Marks:
    """The samples of the fixed part of the warm-up."""
    begin = time.perf_counter_ns()
    marks = np.empty((CAPACITY, len(steps) + 1), np.int64)
    until, stop = begin + _ns(protocol.warmup_s), begin + _ns(protocol.max_s)
    return marks[: loop(steps, given, marks, 0, protocol.warmup_count, until, stop)].copy()


def collect(steps: Sequence[Step], given: Any, protocol: Protocol) -> tuple[Marks, int]:
    """Samples, as long as the protocol says and until the median is known well enough; how many are still warm-up."""
    clock = time.perf_counter_ns
    marks = np.empty((CAPACITY, len(steps) + 1), np.int64)
    begin = clock()
    count, skip, until, stop = 0, 0, begin + _ns(protocol.min_s), begin + _ns(protocol.max_s)
    while True:
        count = loop(steps, given, marks, count, skip + protocol.min_count, until, stop)
        skip = statistics.settled_after(marks[:count, -1] - marks[:count, 0])
        if clock() >= stop or count == len(marks) or enough(marks[skip:count], protocol):
            return marks[:count].copy(), skip
        until = max(int(marks[skip, 0]) + _ns(protocol.min_s), clock() + _ns(protocol.min_s / 4))


def open_loop(run: Step, given: Any, protocol: Protocol) -> Marks:
    """Frames as a camera gives them, `[frames taken, 3]`: arrival, start, end."""
    assert protocol.fps is not None
    marks = np.empty((CAPACITY, 3), np.int64)
    row = 0
    for row in frames(run, given, marks, protocol.fps):
        if seen(marks[:row], protocol) or marks[row - 1, 2] - marks[0, 1] >= _ns(protocol.max_s):
            break
    return marks[:row].copy()


def at_once(runs: Sequence[Step], given: Any, protocol: Protocol) -> Marks:
    """Samples of sessions that run side by side, `[frames, 2]` by their start, until they are enough."""
    clock = time.perf_counter_ns
    begin = clock()
    marks, look = np.empty((0, 2), np.int64), begin + _ns(protocol.min_s)
    with closing(side_by_side(runs, given, CAPACITY)) as chunks:
        for chunk in chunks:
            marks = in_turn(np.concatenate([marks, chunk]))
            if clock() >= begin + _ns(protocol.max_s) or (clock() >= look and enough(marks, protocol)):
                break
            look = max(look, clock() + _ns(protocol.min_s / 4)) if clock() >= look else look
    return marks


def in_turn(marks: Marks) -> Marks:
    """Samples by their start: one that began early may end late."""
    return marks[np.argsort(marks[:, 0], kind="stable")]


def seen(marks: Marks, protocol: Protocol) -> bool:
    """Whether the frames of a camera, `[frames taken, 3]`, are as many and as long as the protocol wants."""
    return len(marks) >= protocol.min_count and bool(marks[-1, 2] - marks[0, 1] >= _ns(protocol.min_s))


def enough(marks: Marks, protocol: Protocol) -> bool:
    """Whether steady samples are as many and as long as the protocol wants, and their median is known well enough."""
    starts, durations = marks[:, 0], marks[:, -1] - marks[:, 0]
    if len(marks) < protocol.min_count or statistics.wall_ns(starts, durations) < _ns(protocol.min_s):
        return False
    low, high = statistics.interval(statistics.bootstrap_medians(starts, durations))
    return high - low <= PRECISE * float(np.median(durations))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


class Bench(Servant):
    """One session and what it is fed."""

    session: Session
    opener: Callable[[], Session]
    given: NDArray[Any]
    photo: bytes
    labels: NDArray[np.uint8]
    memory: PeakMemory

    def open(self, path: str, threads: int, size: list[int] | None, image: str | None, e2e: bool) -> dict[str, Any]:
        """Open the subject and run it once. `load_ms` is without the import of the runtime and the check of the files."""
        self.opener = open_session = _opener(Path(path), threads, size)
        picture = self._photo(image, threads, e2e)
        self.memory = PeakMemory()
        begin = time.perf_counter_ns()
        self.session = open_session()
        load_ns = time.perf_counter_ns() - begin
        self.memory.note()
        if picture is None:
            picture = pixels.pattern(*pixels.size(self.session.input))
        self.given = pixels.prepare(picture, self.session.input)
        self.memory.forget()
        begin = time.perf_counter_ns()
        output = self.session.run(self.given)
        first_ns = time.perf_counter_ns() - begin
        self.memory.note()
        self.labels = pixels.labels(output).copy()
        return {
            "load_ms": load_ns / 1e6,
            "first_ms": first_ns / 1e6,
            "peak_memory_bytes": self.memory.peak,
            "model_memory_bytes": self.memory.growth,
        }

    def version(self, runtime: str) -> dict[str, Any]:
        """What is installed of a runtime, found by importing it."""
        return {"version": RUNTIMES[runtime].version()}

    def drawn(self) -> dict[str, Any]:
        """The label map that it drew first."""
        return {"labels": drawn(self.labels)}

    def _photo(self, image: str | None, threads: int, e2e: bool) -> NDArray[np.uint8] | None:
        """The decoded photo; null where a pattern of the model's own size will do."""
        if not (e2e or image):
            return None
        import cv2

        cv2.setNumThreads(threads)
        self.photo = _bytes(Path(image)) if image else pixels.encode(pixels.pattern(720, 1280))
        return pixels.decode(self.photo)

    def measure(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """Time the model alone, then look at its output again."""
        steps = (
            parts(self.session) if schema.parse(Protocol, protocol, "the request").back_to_back else [self.session.run]
        )
        answer = self._timed(steps, self.given, protocol)
        last = self.session.run(self.given)
        return answer | {
            "unchanged": float(np.mean(pixels.labels(last) == self.labels)),
            "nonfinite": int(last.size - np.count_nonzero(np.isfinite(last))),
        }

    def end_to_end(self, protocol: dict[str, Any]) -> dict[str, Any]:
        """Time the way from the bytes of a photo to a label map of its size, step by step."""
        height, width = pixels.decode(self.photo).shape[:2]

        def finish(output: NDArray[Any]) -> NDArray[np.uint8]:
            return pixels.enlarge(pixels.labels(output), height, width)

        steps: list[Step] = [pixels.decode, partial(pixels.prepare, spec=self.session.input), self.session.run, finish]
        return self._timed(steps, self.photo, protocol)

    def _timed(self, steps: Sequence[Step], given: Any, protocol: dict[str, Any]) -> dict[str, Any]:
        """Warm-up and steady samples; memory is read between the two, since later growth is the measuring's own."""
        rules = schema.parse(Protocol, protocol, "the request")
        gc.collect()
        gc.disable()
        self.memory.forget()
        warmup = warm_up(steps, given, rules)
        runs = self._streams(rules)
        self.memory.note()
        busy, own, begin = busy_s(), time.process_time(), time.perf_counter()
        arrivals = None
        if rules.kind == "camera":
            taken = open_loop(steps[0], given, rules)
            marks, skip, arrivals = taken[:, 1:], 0, pack(taken[:, ::2])
        elif runs:
            marks, skip = at_once(runs, given, rules), 0
        else:
            marks, skip = collect(steps, given, rules)
        others_s = (busy_s() - busy) - (time.process_time() - own)
        wall_s = time.perf_counter() - begin
        gc.enable()
        return {
            "warmup": pack(np.concatenate([warmup, marks[:skip]])),
            "steady": pack(marks[skip:]),
            "arrivals": arrivals,
            "others_cores": max(0.0, others_s / wall_s),
            "peak_memory_bytes": self.memory.peak,
            "model_memory_bytes": self.memory.growth,
        }

    def _streams(self, protocol: Protocol) -> list[Step]:
        """The session, and others like it, each warm; none where frames are taken one after the other."""
        if protocol.streams is None:
            return []
        others = [self.opener() for _ in range(protocol.streams - 1)]
        for session in others:
            for _ in range(protocol.warmup_count):
                session.run(self.given)
        return [session.run for session in (self.session, *others)]

    def burst(self, seconds: float, count: int) -> dict[str, Any]:
        """The median of a short series, in ns: at least `count` samples and `seconds`."""
        marks = np.empty((CAPACITY, 2), np.int64)
        begin = time.perf_counter_ns()
        gc.disable()
        done = loop([self.session.run], self.given, marks, 0, count, begin + _ns(seconds), begin + _ns(3600))
        gc.enable()
        return {"median_ns": float(np.median(marks[:done, 1] - marks[:done, 0]))}

    def operators(self, runs: int) -> dict[str, Any]:
        """What the runtime says of each operator."""
        return {"operators": [schema.dump(each) for each in profiled(self.session).operators(self.given, runs)]}

    def execution(self) -> dict[str, Any]:
        """How the runtime ran it; asked last, since some runtimes open the model again to tell."""
        return {"execution": schema.dump(self.session.execution)}


def _opener(path: Path, threads: int, size: list[int] | None) -> Callable[[], Session]:
    """What opens the subject at `path`; files are checked and the runtime is imported before the clock runs."""
    if size is None:
        from edgeseg.artifact import Artifact

        artifact = Artifact.open(path)
        runtime_of(artifact).version()
        return partial(open_artifact, artifact, threads)
    torch = RUNTIMES["torch"]
    torch.version()
    if torch.open_run is None:
        raise EdgesegError("the torch runtime opens no runs")
    return partial(torch.open_run, path, threads, (size[0], size[1]))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror or error}") from error


def busy_s() -> float:
    """Processor time the whole machine has spent on anything since it started, all cores, in s."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def pack(marks: Marks) -> dict[str, Any]:
    """Marks as JSON."""
    return {
        "columns": marks.shape[1],
        "data": base64.b64encode(zlib.compress(marks.astype("<i8").tobytes(), 1)).decode(),
    }


def unpack(document: dict[str, Any]) -> Marks:
    """Marks from JSON."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(document["data"])), "<i8")
    return flat.reshape(-1, document["columns"]).astype(np.int64)


if __name__ == "__main__":
    Bench().serve()
