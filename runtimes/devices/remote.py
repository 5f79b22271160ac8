"""A device that is reached by running a command on it: the agent does the rest. `ssh.py` says how such a command runs there."""

from __future__ import annotations

import base64
import getpass
import io
import itertools
import json
import platform
import tempfile
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.files import sha256
from edgeseg.manifest import Manifest
from edgeseg.runtimes import agent, pixels, runtime_of, statistics
from edgeseg.runtimes.base import GRAPH, of_both, padded, usual_prompt
from edgeseg.runtimes.devices.base import Facts, Tick
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.channel import LOADER, PATIENCE_S, Channel
from edgeseg.runtimes.devices.trust import FROM_PICTURE, SILENT, doubt
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.record import DeviceState, Protocol, Samples
from edgeseg.runtimes.telemetry import Rooted
from edgeseg.runtimes.telemetry.there import Told
from edgeseg.runtimes.worker import Marks, enough, in_turn, pack, seen

WAIT_S = 2 * agent.SILENCE_S + 5.0
"""How long to wait for a device that is in use: an agent that was left alone is gone by then, one that is frozen was ended."""


class Remote(ABC):
    """A device with an agent. Subclasses say how a command runs there, and what it means when none does."""

    kind: ClassVar[str]
    provenance: ClassVar[Literal["measured", "simulated"]] = "measured"
    home: ClassVar[str] = "~/.cache/edgeseg"
    lock_file: ClassVar[str] = "/tmp/edgeseg.lock"

    def __init__(self, address: str, entry: Entry, patience_s: float = PATIENCE_S) -> None:
        self.address, self.entry, self._patience_s = address, entry, patience_s
        self._open: Channel | None = None
        self._locked = False
        self._numbers, self._measuring = itertools.count(), set[int]()

    @abstractmethod
    def command(self, words: Sequence[str]) -> list[str]:
        """The command line of this machine that runs `words` there."""

    @abstractmethod
    def explain(self, code: int, words: str) -> EdgesegError:
        """Why nothing runs there, from the exit code and the last words of `command`."""

    @property
    def url(self) -> str:
        """Its address, whatever its name."""
        return self.entry.url

    def reach(self) -> None:
        """See that commands can run there, where that takes more than running one.

        Raises:
            MissingTool: none can, and why.
        """
        return

    @property
    def folder(self) -> str:
        """Where files are kept there."""
        return self.entry.folder or self.home

    @property
    def lock_path(self) -> str:
        """The lock that all its users share; a folder of one's own has its own."""
        return f"{self.entry.folder}/lock" if self.entry.folder else self.lock_file

    @property
    def channel(self) -> Channel:
        """The agent, started when it is first needed."""
        if self._open is None:
            self.reach()
            argv = self.command([self.entry.python, "-c", LOADER])
            self._open = Channel(argv, self.address, self.explain, self._patience_s)
        return self._open

    def probe(self) -> Facts:
        """Who it is."""
        return schema.parse(Facts, self.channel.hello["facts"], f"what {self.address} says of itself")

    def state(self) -> DeviceState:
        """Load, clocks, temperature and governor now."""
        return schema.parse(DeviceState, self.channel.ask("state")["state"], f"the state of {self.address}")

    def lock(self, wait_s: float = WAIT_S) -> None:
        """Have the device for oneself until `unlock`. An agent that is alive is waited for, one that shows no life is ended.

        Whether it does is for the agent here to see, by the steady clock of the device, as long as this waits.

        Raises:
            Died: somebody else is measuring there.
        """
        who, deadline = whoami(), time.monotonic() + wait_s
        asked = {"folder": self.folder, "lock": self.lock_path, "who": who, "silence_s": 2 * agent.SILENCE_S}
        while not self._locked:
            answer = self.channel.ask("lock", **asked)
            if answer["event"] == "locked":
                self._locked = True
                return
            if time.monotonic() > deadline:
                line = f"{self.address} is in use by {answer['who']}; wait until that measurement is over"
                raise Died(line, "busy")
            time.sleep(0.3)

    def unlock(self) -> None:
        """End what is measured there, and let others have the device."""
        if self._locked:
            self._locked = False
            self.channel.ask("unlock")

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Bring files there by their SHA-256, and where they are; those that are there whole stay.

        Raises:
            EdgesegError: there is no room for them. Died: the device went away.
        """
        self.lock()
        stock = self.channel.ask("stock", files={sha: path.stat().st_size for sha, path in files.items()})
        if stock["missing"] and stock["free"] < stock["wanted"]:
            wanted, free = (stock[key] / 2**20 for key in ("wanted", "free"))
            raise EdgesegError(
                f"no space on {self.address}: {wanted:.0f} MiB are needed and {free:.0f} MiB free; make room there, or name "
                "another folder with --folder"
            )
        for sha in stock["missing"]:
            with files[sha].open("rb") as file:
                count = files[sha].stat().st_size
                self.channel.send_file({"do": "store", "sha": sha, "count": count}, file)
        return {sha: f"{stock['folder']}/{sha}" for sha in files}

    def spent(self) -> tuple[float, float] | None:
        """Processor time of the whole device, and of the agent and what it measured, in s."""
        busy, own = self.channel.ask("state")["spent"]
        return None if busy is None else (busy, own)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else measures there as long as the block lasts, between two processes of ours neither.

        Raises:
            Died: somebody else is measuring there.
        """
        self.lock()
        number = next(self._numbers)
        self._measuring.add(number)  # as if it were one more process: the last to end lets go
        try:
            yield
        finally:
            with suppress(EdgesegError):  # it is gone, and its lock with it
                self.end(number)

    def sensed(self) -> Rooted:
        """It, as sensors see it."""
        return Told(self)

    def watch(self, rounds: Sequence[dict[str, Any]], streams: Sequence[Sequence[str]]) -> RemoteWatch:
        """Have its sensors read by a process of the agent, which has nothing else to do and is told nothing meanwhile."""
        self.lock()
        number = next(self._numbers)
        self._measuring.add(number)
        return RemoteWatch(self, number, rounds, streams)

    def spawn(self, cold: bool = False) -> RemoteBench:
        """A fresh measuring process, beside those there are, on a device that is nobody else's meanwhile."""
        self.lock()
        number = next(self._numbers)
        self._measuring.add(number)
        return RemoteBench(self, number, cold)

    def end(self, number: int) -> None:
        """End a measuring process; with the last one others may have the device."""
        self._measuring.discard(number)
        if self._measuring:
            self.channel.ask("end", child=number)
        else:
            self.unlock()

    def close(self) -> None:
        """Let go of it."""
        if self._open is not None:
            self._open.close()
        self._open, self._locked = None, False
        self._measuring.clear()


def whoami() -> str:
    """Who measures, for others who wait."""
    return f"{getpass.getuser()}@{platform.node()}"


class RemoteWatch:
    """Sensors of a device that are being read there."""

    def __init__(
        self, device: Remote, number: int, rounds: Sequence[dict[str, Any]], streams: Sequence[Sequence[str]]
    ) -> None:
        self._device, self._channel, self._number = device, device.channel, number
        self._channel.ask("start", child=number, name="the sensors", files={})
        self.stream: int | None = self._channel.ask("watch", child=number, rounds=rounds, streams=streams)["stream"]

    def stop(self) -> dict[str, Any]:
        """End it: what `agent.Watcher.run` says.

        Raises:
            Died: the device went away.
        """
        data = self._channel.ask("enough", child=self._number)["data"]
        said: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(data)))
        return said

    def close(self) -> None:
        """End it; on a device that is gone, it is."""
        with suppress(EdgesegError):
            self._device.end(self._number)


class RemoteBench:
    """What `worker.Bench` is on this machine, on a device: the same questions, the same answers; `doubts` are why not to believe them."""

    def __init__(self, device: Remote, number: int, cold: bool) -> None:
        self._device, self._channel, self._number, self._cold = device, device.channel, number, cold
        self.doubts: list[str] = []

    def ask(self, do: str, limit_s: float = 0.0, tick: Tick | None = None, **request: Any) -> dict[str, Any]:
        """The answer to a question; each word of the device counts as life, so no limit is needed."""
        if do in ("measure", "end_to_end"):
            protocol = schema.parse(Protocol, request["protocol"], "the request")
            return self.measure(protocol, tick, whole=do == "end_to_end")
        answers: dict[str, Callable[..., dict[str, Any]]]
        answers = {"open": self.open, "burst": self.burst, "execution": self.execution}
        return answers[do](**request)

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        return self._channel.ask(do, child=self._number, **request)

    def open(self, path: str, threads: int, size: list[int] | None, image: str | None, e2e: bool) -> dict[str, Any]:
        """Bring the artifact there, open it, and see that it draws there what it draws here."""
        self._artifact, self._threads = opened(Path(path), size, self._device.address), threads
        manifest = self._artifact.manifest
        runtime = runtime_of(self._artifact)
        assert runtime.remotely is not None  # `opened` has seen to that
        self._remotely, spec, made = runtime.remotely, manifest.input, manifest.output
        photo = Path(image).read_bytes() if image else pixels.encode(pixels.pattern(720, 1280)) if e2e else None
        picture = pixels.decode(photo) if photo else pixels.pattern(*self._artifact.size)
        given = pixels.prepare(picture, spec)
        more = {INPUT: saved(given), **({PHOTO: photo} if photo and e2e else {})}
        # a process of macOS that was only forked may not use the system's libraries
        self._cold |= self._device.probe().system.startswith("Darwin")
        if self._cold:
            more[agent.AGENT] = Path(agent.__file__).read_bytes()
        self._bring(more)
        answer = self._ask(
            "open",
            runtime=runtime.name,
            file=manifest.files[0].path,
            image=INPUT,
            name=spec.name,
            layout=made.layout,
            asked={
                "threads": threads,
                "outputs": manifest.decoder.maps if manifest.decoder else [made.name],
                **self._remotely.asked(manifest, threads),
            },
            decoder=decoder_of(manifest),
        )
        self.version = answer["version"]
        found = doubt(self._artifact, given, Path(image) if image else None, drawn(answer))
        self.doubts = [found] if found else []
        return {**{key: answer[key] for key in OPENED}, "doubts": self.doubts}

    def _bring(self, more: Mapping[str, bytes]) -> None:
        """The artifact's files and more, and a fresh process that has them."""
        artifact = self._artifact
        named = {entry.path: (entry.sha256, artifact.folder / entry.path) for entry in artifact.manifest.files}
        with tempfile.TemporaryDirectory() as folder:
            for name, data in more.items():
                file = Path(folder) / name
                file.write_bytes(data)
                named[name] = (sha256(file), file)
            self._device.push(dict(named.values()))
        shas = {name: sha for name, (sha, _) in named.items()}
        self._ask("start", name=str(self._artifact.folder), files=shas, cold=self._cold)

    def draw(self, given: NDArray[Any]) -> NDArray[np.uint8]:
        """The label map `[H, W]` of another input."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / INPUT
            file.write_bytes(saved(given))
            (place,) = self._device.push({sha256(file): file}).values()
        return drawn(self._ask("draw", file=place))

    def burst(self, seconds: float, count: int) -> dict[str, Any]:
        """The median of a short series, in ns."""
        marks = marks_of(self._ask("burst", seconds=seconds, count=count))
        return {"median_ns": float(np.median(marks[:, 1] - marks[:, 0]))}

    def measure(self, protocol: Protocol, tick: Tick | None, whole: bool = False) -> dict[str, Any]:
        """Samples until the protocol is content, as they arrive; of the whole way from a photo, if it was opened for that."""
        asked: dict[str, Any] = {
            name: getattr(protocol, name) for name in ("warmup_count", "warmup_s", "max_s", "fps", "streams")
        }
        if whole:
            asked |= {"photo": PHOTO, "spec": pixels.takes(self._artifact.manifest.input)}
        self._channel.send("measure", child=self._number, **asked)
        series, begin = Series(protocol), time.monotonic()

        def ticking(_: float) -> None:
            if tick:
                tick(time.monotonic() - begin)

        try:
            while (event := self._channel.receive(ticking))["event"] != "done":
                series.add(event)
                ticking(0.0)
                if series.enough():
                    self._channel.send("enough", child=self._number)
            series.check(event)
        except Died as died:
            died.samples = series.samples()
            raise
        told = {key: event[key] for key in TOLD}
        doubts = [] if whole else list(self.doubts)
        if not event["alike"] >= FROM_PICTURE:
            doubts.append(f"the photo that it decodes is another one: {event['alike']:.2%} of the labels are the same")
        if told["others_cores"] is None:
            told["others_cores"] = 0.0
            doubts.append(SILENT)
        return {**series.packed(), "doubts": doubts, **told}

    def execution(self) -> dict[str, Any]:
        """How the runtime ran it: its words, as this machine's reader of that runtime takes them."""
        words = self._ask("execution")["words"]
        parts = (words["encoder"], words["decoder"]) if self._artifact.manifest.decoder else (words,)
        made = reduce(of_both, (self._remotely.heard(part, self.version, self._threads) for part in parts))
        ops = {"ops": GRAPH} if self._artifact.manifest.op_tiers else {}  # the agent has no plugins
        return {"execution": schema.dump(replace(made, settings=made.settings | ops))}

    def close(self) -> None:
        """End the process there and, with the last one, let others have the device."""
        with suppress(EdgesegError):  # it is gone: then so is the process, or soon
            self._device.end(self._number)


INPUT, PHOTO = "edgeseg-input.npy", "edgeseg-photo"

OPENED = ("load_ms", "first_ms", "ready_ms", "peak_memory_bytes", "model_memory_bytes")
"""What the agent says when it has opened an artifact, as the worker does."""

TOLD = ("others_cores", "unchanged", "nonfinite", "peak_memory_bytes", "model_memory_bytes")
"""What the agent says at the end of a series, as the worker does."""


def opened(folder: Path, size: list[int] | None, address: str) -> Artifact:
    """The artifact, if it is one that an agent can open."""
    if size is not None:
        raise EdgesegError(f"{folder} is a run, which is measured on local only; export it, then measure the artifact")
    artifact = Artifact.open(folder)
    runtime = runtime_of(artifact)
    if runtime.remotely is None:
        raise EdgesegError(f"the agent on {address} runs {', '.join(agent.RUNTIMES)} artifacts, this is {runtime.name}")
    return artifact


def decoder_of(manifest: Manifest) -> dict[str, Any] | None:
    """The second network of a promptable artifact and what it is asked, for the agent."""
    decoder = manifest.decoder
    if decoder is None:
        return None
    points, labels = usual_prompt(manifest.input)
    if decoder.places is not None:
        points, labels = padded(points, labels, decoder.places)
    return {
        "file": decoder.file,
        "outputs": decoder.outputs,
        "prompt": {"points": points.tolist(), "labels": labels.tolist()},
    }


def saved(given: NDArray[Any]) -> bytes:
    """An input as the agent loads it."""
    file = io.BytesIO()
    np.save(file, given)
    return file.getvalue()


def drawn(answer: dict[str, Any]) -> NDArray[np.uint8]:
    """The label map `[H, W]` of an answer."""
    said = answer["labels"]
    return np.frombuffer(zlib.decompress(base64.b64decode(said["data"])), np.uint8).reshape(said["shape"])


def marks_of(event: dict[str, Any]) -> Marks:
    """Samples as the agent packed them."""
    flat = np.frombuffer(base64.b64decode(event["data"]), "<i8")
    return flat.reshape(-1, event["columns"]).astype(np.int64)


class Series:
    """Samples as they arrive, and whether there are enough of them; the rule is the worker's."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._camera, self._offline = protocol.kind == "camera", protocol.kind == "offline"
        self._warmup: Marks = np.empty((0, 2), np.int64)
        self._chunks: list[Marks] = []
        self._count = self._crc = 0
        self._look_ns: float | None = None  # no question before this time of the device
        self._told = False

    def add(self, event: dict[str, Any]) -> None:
        """A chunk of samples."""
        marks = marks_of(event)
        if event["event"] == "warmup":
            self._warmup = marks
            return
        self._count, self._crc = self._count + len(marks), zlib.crc32(event["data"].encode(), self._crc)
        self._chunks.append(marks)
        if self._look_ns is None:
            self._look_ns = int(marks[0, 0]) + self._protocol.min_s * 1e9

    def enough(self) -> bool:
        """True once, when the protocol is content: asked after a chunk, answered where the worker would have looked."""
        now = int(self._chunks[-1][-1, -1]) if self._chunks else 0
        if self._told or self._look_ns is None or now < self._look_ns or self._count < self._protocol.min_count:
            return False
        skip, all_ = self._settled()
        self._told = (seen if self._camera else enough)(all_[skip:], self._protocol)
        self._look_ns = max(int(all_[skip, 0]) + self._protocol.min_s * 1e9, now + self._protocol.min_s * 1e9 / 4)
        return self._told

    def check(self, done: dict[str, Any]) -> None:
        """Refuse samples that are not those that were sent."""
        if not self._chunks or (done["count"], done["crc"]) != (self._count, self._crc):
            raise Died(f"{self._count} of {done['count']} samples arrived, or were changed on the way", "garbled")

    def _settled(self) -> tuple[int, Marks]:
        all_ = np.concatenate(self._chunks)
        if self._offline:
            return 0, in_turn(all_)
        return 0 if self._camera else statistics.settled_after(all_[:, -1] - all_[:, 0]), all_

    def packed(self) -> dict[str, Any]:
        """As the worker gives them: the warm-up, with what belongs to it by its times, steady samples, arrivals of a camera."""
        if self._camera:
            _, taken = self._settled()
            return {"warmup": pack(self._warmup), "steady": pack(taken[:, 1:]), "arrivals": pack(taken[:, ::2])}
        skip, all_ = self._settled()
        return {"warmup": pack(np.concatenate([self._warmup, all_[:skip]])), "steady": pack(all_[skip:])}

    def samples(self) -> Samples | None:
        """What has arrived so far; null when nothing has."""
        if not self._chunks:
            return None
        all_ = self._settled()[1][:, 1 if self._camera else 0 :]
        return Samples.pack(all_[:, 0], all_[:, -1] - all_[:, 0])
