"""The outer end of an agent: JSON lines through the pipes of whatever process reaches the device."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.base import Tick
from edgeseg.runtimes.launch import TICK_S, Died, ended

HELLO_S = 30.0
"""For a connection and a Python on a slow board."""

PATIENCE_S = 300.0
"""How long an operator, or opening a network, may take before it is taken for hung."""

PING_S = 2.0
"""How often the agent hears that this end is alive, and answers."""

STUCK_S = 60.0
"""How long a device may take nothing of what is sent: a slow card stands still for seconds while it stores."""

LOADER = """import sys
if sys.version_info < (3, 8):
    sys.stdout.write('{"event": "hello", "protocol": 0, "python": "%d.%d.%d"}\\n' % sys.version_info[:3])
    sys.exit(0)
size = int(sys.stdin.buffer.readline())
exec(compile(sys.stdin.buffer.read(size), "agent.py", "exec"), {"__name__": "__main__"})
"""
"""What Python is started with, any Python: it takes the agent from stdin."""

Explain = Callable[[int, str], EdgesegError]
"""From an exit code and what was said on stderr to why there is no agent."""

Message = dict[str, Any]


class Channel:
    """One agent. `with closing(Channel(...)) as channel:` ends it and all it started."""

    def __init__(self, argv: Sequence[str], address: str, explain: Explain, patience_s: float = PATIENCE_S) -> None:
        self.address, self.patience_s, self._explain = address, patience_s, explain
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in close(); a pipe would be held by ssh's master
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for this end, which then ends the other in order
            )
        except FileNotFoundError:
            raise MissingTool(f"{argv[0]} is not installed here, which reaches {address}") from None
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._heard = time.monotonic()
        self._sending, self._closed = threading.Lock(), threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.hello = self._start()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._ping, daemon=True).start()

    def _start(self) -> Message:
        """Send the agent and wait for its first word; what a login script prints before is passed over."""
        source = Path(agent.__file__).read_bytes()
        with suppress(BrokenPipeError):  # nobody there: the exit code says why
            self._write(b"%d\n%b" % (len(source), source))
        said: deque[str] = deque(maxlen=3)
        deadline = time.monotonic() + HELLO_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                words = f"; it said {said[-1]!r}" if said else ""
                raise MissingTool(f"{self.address} did not start the agent within {HELLO_S:.0f} s{words}") from None
            if line is None:
                code, words = self._process.wait(), self._last_words()
                raise self._explain(code, words or " ".join(said))
            hello = parsed(line)
            if hello is not None and hello["event"] == "hello":
                break
            said.append(line.decode("utf-8", "replace").strip())
        if hello["protocol"] != agent.PROTOCOL:
            python = hello.get("python", "unknown")
            raise MissingTool(
                f"Python {python} on {self.address} is too old, the agent needs 3.8; install a newer one there and name it "
                "with --python"
            )
        return hello

    def ask(self, do: str, **request: Any) -> Message:
        """The answer to one request."""
        self.send(do, **request)
        return self.receive()

    def send(self, do: str, **request: Any) -> None:
        """Say something that is answered later, or never."""
        self.put(json.dumps({"do": do, **request}).encode() + b"\n")

    def put(self, data: bytes) -> None:
        """Send bytes as they are."""
        try:
            self._write(data)
        except BrokenPipeError:
            raise self._lost() from None

    def send_file(self, request: Message, file: IO[bytes]) -> Message:
        """A request followed by the bytes of a file; the answer."""
        with self._sending:
            try:
                self._write_all(json.dumps(request).encode() + b"\n")
                while block := file.read(1 << 18):
                    self._write_all(block)
            except BrokenPipeError:
                raise self._lost() from None
        return self.receive()

    def receive(self, tick: Tick | None = None) -> Message:
        """The next event.

        Raises:
            Died: the device went away, the measuring process ended or hangs, or what arrived is no event.
            EdgesegError: what the agent could not do.
        """
        begin = time.monotonic()
        while True:
            event = self._next()
            now = time.monotonic()
            if event is not None and event["event"] != "pong":
                return self._checked(event)
            if now - self._heard > agent.SILENCE_S:
                raise Died(f"{self.address} has said nothing for {now - self._heard:.0f} s; it is lost", "lost")
            if now - begin > self.patience_s:
                line = f"the measuring process on {self.address} has said nothing for {now - begin:.0f} s; it hangs"
                raise Died(line, "hang")
            if tick:
                tick(now - begin)

    def _next(self) -> Message | None:
        """An event, or null when none came just now."""
        try:
            line = self._lines.get(timeout=TICK_S)
        except queue.Empty:
            return None
        if line is None:
            raise self._lost()
        event = parsed(line)
        if event is None:
            raise Died(f"{self.address} sent what is no event of the agent: {line[:60]!r}", "garbled")
        return event

    def _checked(self, event: Message) -> Message:
        if event["event"] == "exit":
            noun = f"the process that measures {event['name']} on {self.address}"
            raise ended(noun, event["code"], event["signal"], event["words"], event["starved"])
        if event["event"] != "error":
            return event
        kind, line = event["kind"], event["line"]
        if kind == "missing":
            raise MissingTool(
                f"{line} is not installed on {self.address}; run there: {self.hello['facts']['executable']} -m pip install {line}"
            )
        if kind == "device":
            raise EdgesegError(f"{self.address}: {line}")
        raise Died(f"{self.address}: {line}", kind)

    def _lost(self) -> Died:
        ended_itself = self._process.poll() is not None and not self._closed.is_set()
        words = self._last_words().splitlines() if ended_itself else []
        return Died(f"{self.address} went away{f': {words[-1].strip()}' if words else ''}", "lost")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        kept = b""
        while data := self._process.stdout.read(1 << 16):
            self._heard = time.monotonic()
            *lines, kept = (kept + data).split(b"\n")
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _ping(self) -> None:
        while not self._closed.wait(PING_S):
            with suppress(
                OSError, ValueError, Died
            ):  # the other end is gone, or the pipe closed: whoever listens will know
                self._write(b'{"do": "ping"}\n')

    def _write(self, data: bytes) -> None:
        with self._sending:
            self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        """Raises BrokenPipeError where nobody is there any more, and Died where somebody takes nothing."""
        assert self._process.stdin is not None
        view, moved = memoryview(data), time.monotonic()
        while view:
            if self._closed.is_set():
                raise BrokenPipeError
            if not select.select([], [self._process.stdin], [], TICK_S)[1]:
                if (stood := time.monotonic() - moved) > STUCK_S:
                    raise Died(f"{self.address} has taken nothing for {stood:.0f} s; it is lost", "lost")
                continue
            view, moved = view[os.write(self._process.stdin.fileno(), view[: select.PIPE_BUF]) :], time.monotonic()

    def _last_words(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode("utf-8", "replace").strip()

    def close(self) -> None:
        """End the agent: at the end of its stdin it ends what it started; what does not end by then is killed."""
        self._closed.set()
        between = self._sending.acquire(timeout=1)  # not in the middle of a ping, unless that hangs
        with suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()
        if between:
            self._sending.release()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(timeout=2)  # it may not have read the end yet
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()


def parsed(line: bytes) -> Message | None:
    """An event of the agent, or null for anything else."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
