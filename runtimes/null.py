"""The null runtime: no model, only time that passes as told. Tests of the harness run on it, and its records say so."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.files import sha256
from edgeseg.manifest import SCHEMA as MANIFEST_SCHEMA
from edgeseg.manifest import FileEntry, InputSpec, Manifest, OutputSpec, Precision, Source, StudentCard
from edgeseg.provenance import made_by, now
from edgeseg.runtimes.base import RUNTIMES, Remotely, Runtime, wrong_input
from edgeseg.runtimes.record import Execution, Operator
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact


@dataclass(frozen=True)
class Null:
    """What the null runtime does.

    steps:    (calls, ns per call), one after the other; the last pair goes on for ever.
    sleep:    let the processor rest instead of keeping it busy.
    prints:   write to stdout at every call, from Python and from C.
    fault:    what happens at call number `fault_at`, counted from 1.
    executes: the precision it claims to have executed.
    """

    __pydantic_config__ = STRICT
    steps: tuple[tuple[int, int], ...] = ((1, 1_000_000),)
    sleep: bool = False
    prints: bool = False
    fault: Literal["segv", "kill", "ill", "exit", "raise", "hang", "nan", "flip"] | None = None
    fault_at: int = 1
    executes: str = "fp32"
    name: Literal["null"] = "null"


class NullSession:
    """Counts its calls and passes the time."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self.input, self.output = artifact.manifest.input, artifact.manifest.output
        self.calls = 0
        self._options = schema.parse(Null, artifact.manifest.target, str(artifact.folder))
        self._threads = threads
        self._result = np.full(self.output.shape, 0.5, self.output.dtype)
        self._left, self._ns = self._options.steps[0]
        self._later = list(self._options.steps[1:])

    @property
    def execution(self) -> Execution:
        """The number of calls stands in the settings."""
        settings = {"calls": str(self.calls)}
        return Execution("null", version(), self._threads, self._options.executes, None, settings)

    def run(self, image: NDArray[Any]) -> NDArray[Any]:
        """Constant numbers, after the time of this call has passed."""
        begin = time.perf_counter_ns()
        if list(image.shape) != self.input.shape or image.dtype != self.input.dtype:
            raise wrong_input(image, self.input)
        self.calls += 1
        if self._options.prints:
            print("null runtime: a line that is no result")
            ctypes.CDLL(None).puts(b"null runtime: a line from C")
        if self._options.fault and self.calls >= self._options.fault_at:
            FAULTS[self._options.fault](self._result)
        if self._later and self._left == 0:
            self._left, self._ns = self._later.pop(0)
        self._left -= 1
        if self._options.sleep:
            time.sleep(self._ns / 1e9)
        else:
            while time.perf_counter_ns() - begin < self._ns:
                pass
        return self._result

    def operators(self, given: Any, runs: int) -> list[Operator]:
        """The time of a call is one operator."""
        return [Operator("null", "Null", "null", self._options.executes, self._ns / 1e6, runs, self._result.nbytes)]

    def close(self) -> None:
        """There is nothing to let go of."""


def _raise(_: NDArray[Any]) -> None:
    raise RuntimeError("the null runtime was told to raise")


FAULTS: dict[str, Callable[[NDArray[Any]], object]] = {
    "segv": lambda _: os.kill(os.getpid(), signal.SIGSEGV),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "ill": lambda _: os.kill(os.getpid(), signal.SIGILL),
    "exit": lambda _: (sys.stderr.write("the null runtime gives up\n"), sys.stderr.flush(), os._exit(3)),
    "raise": _raise,
    "hang": lambda _: time.sleep(3600),
    "nan": lambda result: result.fill(np.nan),
    "flip": lambda result: result[:, -1].fill(1),
}
"""Ways to go wrong, given the output."""


def null_artifact(folder: Path, options: Null, precision: str = "fp32") -> Path:
    """Write an artifact of the null runtime, 3 classes at 32x48, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.null"
    model.write_bytes(b"null")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    manifest = Manifest(
        schema=MANIFEST_SCHEMA,
        created=now(),
        edgeseg=made_by(),
        student=StudentCard(
            "null", "semantic", ["road", "car", "sky"], [(0, 0, 0), (255, 0, 0), (0, 0, 255)], "", 0, mean, std, 8
        ),
        source=Source(None, None),
        input=InputSpec("image", [1, 32, 48, 3], "NHWC", "uint8", "RGB", mean, std, ["pre"]),
        output=OutputSpec("logits", "logits", [1, 3, 32, 48], "float32"),
        decoder=None,
        target=schema.dump(options),
        precision=Precision(precision, None),
        files=[FileEntry(model.name, sha256(model), model.stat().st_size)],
        tools={},
        calibration=None,
        op_tiers={},
        ledger=None,
        accuracy=None,
    )
    schema.write(folder / "manifest.json", manifest)
    return folder


def version() -> str:
    """The null runtime is as old as the record format."""
    return "1"


def _asked(manifest: Manifest, threads: int) -> dict[str, Any]:
    options = schema.parse(Null, manifest.target, "the manifest")
    return {"options": schema.dump(options), "shape": manifest.output.shape, "dtype": manifest.output.dtype}


def _heard(words: dict[str, Any], version: str, threads: int) -> Execution:
    return Execution("null", version, threads, words["executes"], None, {"calls": str(words["calls"])})


REMOTELY = Remotely(_asked, _heard, "simulated")

RUNTIMES.add("null", Runtime("null", version, NullSession, remotely=REMOTELY, provenance="simulated"))
