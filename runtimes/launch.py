"""The outer end of a process that works for this one: starts it, asks it, and says in one line how it died."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

import edgeseg
from edgeseg import errors
from edgeseg.errors import EdgesegError, InvalidMeasurement
from edgeseg.runtimes.agent import NO_MEMORY, oom_kills
from edgeseg.runtimes.record import Samples

PATIENCE_S = 300.0
"""How long beyond its own time a worker may stay silent before it is taken for hung."""

TICK_S = 0.25
HINTS = {"SIGKILL": " (was the machine out of memory?)", "SIGILL": "; the runtime was built for another processor"}
OUTCOMES = {"SIGKILL": "killed", "SIGILL": "illegal_instruction"}


class Died(InvalidMeasurement):
    """A measuring process came to nothing: `outcome` as in `record.Failure`, `samples` those that had arrived."""

    def __init__(self, line: str, outcome: str = "crashed", samples: Samples | None = None) -> None:
        super().__init__(line)
        self.outcome, self.samples = outcome, samples


def ended(noun: str, code: int | None, by: str | None, words: str, starved: bool = False) -> Died:
    """What to say of a process that ended with an exit code, or by a signal; `words` are its last.

    starved: the signal was the kernel's, which had no memory left.
    """
    last = f": {words}" if words else ""
    if starved:
        return Died(f"{noun} was ended by the kernel, for the machine was out of memory{last}", "out_of_memory")
    if by:
        return Died(f"{noun} was ended by {by}{HINTS.get(by, '')}{last}", OUTCOMES.get(by, "crashed"))
    told = any(word in words.lower() for word in NO_MEMORY)
    return Died(f"{noun} ended with exit code {code}{last}", "out_of_memory" if told else "crashed")


class Worker:
    """A fresh process for one subject. `with closing(Worker()) as worker:` ends it and all it started, whatever happens.

    module: what runs in it, a `Servant`. noun: what to call it when it dies, which raises a `death`.
    """

    def __init__(
        self,
        patience_s: float = PATIENCE_S,
        module: str = "edgeseg.runtimes.worker",
        noun: str = "the measuring process",
        death: type[EdgesegError] = Died,
    ) -> None:
        self._patience_s, self._noun, self._kind = patience_s, noun, death
        top = str(Path(edgeseg.__file__).parent.parent)  # a checkout need not be installed
        path = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        self._oom_kills = oom_kills()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([top, *path])},
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(
        self,
        do: str,
        limit_s: float = 0.0,
        tick: Callable[[float], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **request: Any,
    ) -> dict[str, Any]:
        """The worker's answer. `tick` is called with the seconds since the question, a few times per second.

        progress: called with what the worker tells on the way, (done, all).

        Raises:
            EdgesegError: what the worker raised, of the same kind; or its own kind of death: it died, or said nothing for
                `limit_s` plus its patience.
        """
        begin = time.monotonic()
        try:
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._death() from None
        while True:
            try:
                line = self._lines.get(timeout=TICK_S)
            except queue.Empty:
                waited = time.monotonic() - begin
                if waited > limit_s + self._patience_s:
                    line = f"{self._noun} has said nothing for {waited:.0f} s; it hangs"
                    raise (Died(line, "hang") if self._kind is Died else self._kind(line)) from None
                if tick:
                    tick(waited)
                continue
            if line is None:
                raise self._death()
            answer: dict[str, Any] = json.loads(line)
            if "progress" not in answer:
                break
            begin = time.monotonic()
            if progress:
                progress(*answer["progress"])
        if "error" in answer:
            kind: type[EdgesegError] = getattr(errors, answer["kind"], EdgesegError)
            raise kind(answer["error"])
        return answer

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def _death(self) -> EdgesegError:
        code = self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        by = signal.Signals(-code).name if code < 0 else None
        starved = by == "SIGKILL" and oom_kills() > self._oom_kills
        died = ended(self._noun, code, by, words[-1] if words else "", starved)
        return died if self._kind is Died else self._kind(str(died))

    def close(self) -> None:
        """End the process and all it started, now."""
        tree: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            tree = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with suppress(BrokenPipeError):  # a question the worker died before
                if stream:
                    stream.close()
