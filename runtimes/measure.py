"""One measurement, from a folder to a record that says whether it may be quoted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeseg import schema
from edgeseg.errors import EdgesegError, InvalidMeasurement, MissingTool
from edgeseg.provenance import made_by, now
from edgeseg.runtimes import RUNTIMES, runtime_of, statistics
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices import Device, described, open_device
from edgeseg.runtimes.devices.base import Measuring
from edgeseg.runtimes.devices.cool import Cool, Tell, cooled
from edgeseg.runtimes.devices.prepare import caveats, prepared
from edgeseg.runtimes.devices.remote import drawn
from edgeseg.runtimes.devices.trust import EVIDENCE, SILENT, doubt_here
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.record import (
    HALVES,
    SCHEMA,
    ColdStart,
    DeviceState,
    Execution,
    Failure,
    Latency,
    Protocol,
    Record,
    Samples,
    Sensors,
    Stage,
    Subject,
)
from edgeseg.runtimes.telemetry import Place, Rooted, take, validity
from edgeseg.runtimes.telemetry.watch import Watch
from edgeseg.runtimes.worker import PRECISE, STAGES, Marks, pack, unpack

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact

CONTENDED = 0.25
"""Cores that other programs may use beyond those the measurement leaves free."""

UNCHANGED = 0.999
"""Share of pixels that must keep their label from the first output to the last: rounding may flip a few, no more."""

Progress = Callable[[float], None]
"""Called with the share that is done, 0..1."""


@dataclass(frozen=True)
class Job:
    """A subject and how the worker opens it. `size` (height, width) is given for a run and null for an artifact.

    provenance: what its figures are worth here; `there`: on a device with an agent. `artifact`: the subject, if it is one.
    """

    subject: Subject
    folder: Path
    size: tuple[int, int] | None
    provenance: Literal["measured", "simulated"]
    there: Literal["measured", "simulated"] = "measured"
    artifact: Artifact | None = None

    def open(self, worker: Measuring, threads: int, image: Path | None = None, e2e: bool = False) -> dict[str, Any]:
        """Have the worker open the subject: `load_ms` and `first_ms`."""
        picture = str(image.resolve()) if image else None
        folder = str(self.folder.resolve())
        return worker.ask("open", path=folder, threads=threads, size=self.size, image=picture, e2e=e2e)

    def doubts(self, worker: Measuring, opened: dict[str, Any], image: Path | None) -> list[str]:
        """Why not to believe what it drew when it was `opened`: a device was compared with this machine, this machine is with the proof."""
        if "doubts" in opened or self.artifact is None or image is None:
            return list(opened.get("doubts", []))
        found = doubt_here(self.artifact, image, drawn(worker.ask("drawn")))
        return [found] if found else []

    def trusted(self, worker: Measuring, threads: int) -> None:
        """Have the worker open the subject, and refuse what must not be believed. It is fed its evidence, where it has any.

        Raises:
            InvalidMeasurement: it draws other masks there than here, or here than when it was verified.
        """
        evidence = self.folder / "evidence" / EVIDENCE[0]
        image = evidence if evidence.exists() else None
        if doubts := self.doubts(worker, self.open(worker, threads, image), image):
            raise InvalidMeasurement(f"{self.folder}: {'; '.join(doubts)}")

    def on(self, where: Device) -> Literal["measured", "simulated"]:
        """What its figures on a device are worth."""
        own = self.provenance if where.kind == "local" else self.there
        return "measured" if own == where.provenance == "measured" else "simulated"


def job(subject: Artifact | Path | str, size: tuple[int, int] | None = None) -> Job:
    """What to measure: an artifact, or a run in eager torch at `size` (height, width), by default the size of its training.

    Raises:
        EdgesegError: neither of the two, a file that was changed, or a run without a size.
    """
    folder = Path(subject) if isinstance(subject, (Path, str)) else subject.folder
    if (folder / "manifest.json").exists():
        return _artifact_job(subject, folder, size)
    return _run_job(folder, size)


def _artifact_job(subject: Artifact | Path | str, folder: Path, size: tuple[int, int] | None) -> Job:
    from edgeseg.artifact import Artifact

    artifact = subject if isinstance(subject, Artifact) else Artifact.open(folder)
    manifest, runtime = artifact.manifest, runtime_of(artifact)
    if size is not None:
        raise EdgesegError(f"the artifact {folder} has its size built in; export again at {size[0]}x{size[1]}")
    return Job(
        Subject(
            path=str(folder),
            student=manifest.student.name,
            target=str(manifest.target.get("name")),
            precision=manifest.precision.asked,
            sha256=manifest.sha256,
            input_shape=manifest.input.shape,
            baked=manifest.input.baked,
            file_bytes=sum(file.bytes for file in manifest.files),
        ),
        folder,
        None,
        runtime.provenance,
        runtime.remotely.provenance if runtime.remotely else runtime.provenance,
        artifact,
    )


def _run_job(folder: Path, size: tuple[int, int] | None) -> Job:
    from edgeseg.runs import WEIGHTS, read_card

    card = read_card(folder)
    size = size or card.size
    if size is None:
        raise EdgesegError(f"the run {folder} does not say at which size it was trained; give one, e.g. 360x480")
    subject = Subject(
        path=str(folder),
        student=card.name,
        target="torch",
        precision="fp32",
        sha256=card.sha256,
        input_shape=[1, 3, *size],
        baked=[],
        file_bytes=(folder / WEIGHTS).stat().st_size,
    )
    return Job(subject, folder, size, RUNTIMES["torch"].provenance)


def measure(
    subject: Artifact | Path | str,
    *,
    protocol: Protocol,
    threads: int,
    e2e: bool = False,
    image: Path | None = None,
    size: tuple[int, int] | None = None,
    progress: Progress | None = None,
    device: str = "local",
    place: Rooted | None = None,
    prepare: Mapping[str, str] | None = None,
    cool: Cool | None = None,
    tell: Tell | None = None,
) -> Record:
    """Measure an artifact or a run in a fresh process. A record that must not be quoted says why; it is returned all the same.

    device: where, by name or address; nothing of it stays open.
    image:  a JPEG or PNG to feed; a fixed pattern otherwise.
    e2e:    afterwards time the whole way as well, from the bytes of the image to a label map of its size.
    place:  where the device's sensors are; tests have others.
    prepare: settings of the device, as `devices.prepare.parse` gives them; they are put back.
    cool:   wait for that, as it is prepared, before anything is timed; `tell` takes lines on what is waited for.

    Raises:
        Failed: the measuring process came to nothing. InvalidMeasurement: there are too few samples for any figure.
        MissingTool: the device, or a runtime there. EdgesegError: what is wrong with the subject or the image.
    """
    if e2e and not protocol.back_to_back:
        raise EdgesegError(
            f"{protocol.name} times the model alone; ask for the whole way (e2e) in a protocol of its own"
        )
    task = job(subject, size)
    asked = prepare or {}
    with closing(open_device(device)) as where:
        task = replace(task, provenance=task.on(where))
        sensors = place or where.sensed()
        before = where.state()
        about = described(where, before, before)  # while it can be asked: a failure is about it too
        try:
            with where.held(), prepared(where, asked) as notes:
                notes += cooled(where, cool, tell)
                about = replace(about, before=where.state())
                if protocol.kind == "cold-start":
                    found = cold_start(task, where, about, protocol, threads, image, sensors, progress)
                else:
                    watch = Watch(sensors, where)
                    found = _measured(task, where, about, protocol, threads, e2e, image, watch, progress)
        except Died as died:
            raise Failed(_failure(task, about, protocol, threads, died)) from died
    return _as_prepared(found, asked, notes)


def _as_prepared(record: Record, asked: Mapping[str, str], notes: list[str]) -> Record:
    """The record of a device whose settings were changed for it, or that an earlier run had left changed."""
    why = [*caveats(asked), *record.reasons]
    sensors = record.sensors and replace(record.sensors, notes=[*notes, *record.sensors.notes])
    device = replace(record.device, prepared=dict(asked))
    return replace(record, device=device, sensors=sensors, reasons=why, valid=not why)


def _measured(
    task: Job,
    where: Device,
    about: records.Device,
    protocol: Protocol,
    threads: int,
    e2e: bool,
    image: Path | None,
    watch: Watch,
    progress: Progress | None,
) -> Record:
    model: dict[str, Any] = {}
    try:
        with watch, closing(where.spawn()) as worker:
            opened = task.open(worker, threads, image, e2e)
            doubts = task.doubts(worker, opened, image)
            rounds = 2 if e2e else 1
            model = _timed(worker, "measure", protocol, progress, 0, rounds)
            whole = _timed(worker, "end_to_end", protocol, progress, 1, rounds) if e2e else {}
            told = worker.ask("execution")
        device = replace(about, after=_after(where))
    except Died as died:
        if model:  # what was measured before it came to nothing
            died.samples = Samples.pack(*_series(unpack(model["steady"])))
        raise
    record = _record(task, protocol, device, opened, model, schema.parse(Execution, told["execution"], "the worker"))
    record = replace(record, **_asked(record, model), **(_whole(whole) if whole else {}))
    doubts += [*model.get("doubts", []), *whole.get("doubts", [])]
    model["doubts"] = list(dict.fromkeys(doubts))
    model["others_cores"] = max(model["others_cores"], whole.get("others_cores", 0.0))
    return _judged(replace(record, **watch.says(unpack(model["steady"])[:, 0])), reasons(record, model))


def _after(where: Device) -> DeviceState:
    """What it is like at the end; one that cannot be asked any more has gone away."""
    try:
        return where.state()
    except MissingTool as error:
        raise Died(str(error), "lost") from error


def _judged(record: Record, why: list[str]) -> Record:
    """The record with all that speaks against it."""
    said = record.sensors
    why = why + (validity.reasons(said.before, said.after, said.during) if said else [])
    return replace(record, reasons=why, valid=not why)


def _asked(record: Record, model: dict[str, Any]) -> dict[str, Any]:
    """What the protocol asks beyond a latency."""
    if record.protocol.kind == "sustained":
        return {"sustained": statistics.sustained(record.segments)}
    if record.protocol.fps is not None:
        return {"camera": statistics.camera(*_series(unpack(model["arrivals"])), record.protocol.fps)}
    return {}


def cold_start(
    task: Job,
    where: Device,
    about: records.Device,
    protocol: Protocol,
    threads: int,
    image: Path | None,
    place: Place,
    progress: Progress | None,
) -> Record:
    """The first frame of fresh processes, one after the other: a sample is loading and first inference together."""
    sensors, count = take(place), protocol.min_count
    starts, loads, firsts, readies = (np.empty(count, np.int64) for _ in range(4))
    begin, spent = time.perf_counter_ns(), where.spent()
    told: dict[str, Any] = {}
    doubts: list[str] = []
    for turn in range(count):
        starts[turn] = time.perf_counter_ns()
        with closing(where.spawn(cold=True)) as worker:
            opened = task.open(worker, threads, image)
            # of this machine's clock only where it starts the process itself
            ready_ms = opened.get("ready_ms") or (time.perf_counter_ns() - starts[turn]) / 1e6
            doubts += task.doubts(worker, opened, image)
            if turn == count - 1:
                told = opened | worker.ask("execution")
        times_ms = (opened["load_ms"], opened["first_ms"], ready_ms)
        loads[turn], firsts[turn], readies[turn] = (round(1e6 * ms) for ms in times_ms)
        if progress:
            progress((turn + 1) / count)
    others = others_cores(spent, where.spent(), (time.perf_counter_ns() - begin) / 1e9)
    load_ms, first_ms, ready_ms = (float(np.median(each)) / 1e6 for each in (loads, firsts, readies))
    each_ms = [(each / 1e6).tolist() for each in (loads, firsts, readies)]
    found = ColdStart(count, load_ms, first_ms, ready_ms, *each_ms)
    nothing = pack(np.empty((0, 2), np.int64))
    model = {"steady": pack(np.stack([starts, starts + loads + firsts], 1)), "warmup": nothing, **told}
    execution = schema.parse(Execution, told["execution"], "the worker")
    opened = {"load_ms": load_ms, "first_ms": first_ms}
    record = _record(task, protocol, replace(about, after=_after(where)), opened, model, execution)
    said = Sensors(sensors, take(place), validity.notes(sensors))
    if others is None:
        doubts.append(SILENT)
    answer = {"others_cores": others or 0.0, "doubts": list(dict.fromkeys(doubts))}
    return _judged(replace(record, cold_start=found, sensors=said), reasons(record, answer))


def others_cores(before: tuple[float, float] | None, after: tuple[float, float] | None, wall_s: float) -> float | None:
    """Cores that other programs kept busy between two accounts of processor time, of all and of ours."""
    if before is None or after is None:
        return None
    return max(0.0, ((after[0] - before[0]) - (after[1] - before[1])) / wall_s)


def busy(others: float, cores: int, spare: int) -> str:
    """Why a figure of a machine with other things to do is not quoted."""
    return f"host busy: other programs used {others:.1f} of {cores} cores, {spare} were to spare"


class Failed(InvalidMeasurement):
    """A measurement came to nothing; `failure` is the document to keep of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def _failure(task: Job, device: records.Device, protocol: Protocol, threads: int, died: Died) -> Failure:
    return Failure(
        schema=SCHEMA,
        kind="failure",
        created=now(),
        edgeseg=made_by(),
        subject=task.subject,
        device=device,
        threads=threads,
        protocol=protocol,
        outcome=died.outcome,
        detail=str(died),
        samples=died.samples,
    )


def _timed(
    worker: Measuring, what: str, protocol: Protocol, progress: Progress | None, done: int, rounds: int
) -> dict[str, Any]:
    """The worker's answer to a timed request; `done` of `rounds` like it came before."""
    usual_s = protocol.warmup_s + protocol.min_s

    def tick(waited_s: float) -> None:
        if progress:
            progress((done + min(1.0, waited_s / usual_s)) / rounds)

    answer = worker.ask(what, limit_s=2 * protocol.max_s, tick=tick, protocol=schema.dump(protocol))
    tick(usual_s)
    return answer


def _series(marks: Marks, column: int | None = None) -> tuple[Marks, Marks]:
    """Starts and durations `[n]` of one step, or of all steps together."""
    if column is None:
        return marks[:, 0], marks[:, -1] - marks[:, 0]
    return marks[:, column], marks[:, column + 1] - marks[:, column]


def _record(
    task: Job,
    protocol: Protocol,
    device: records.Device,
    opened: dict[str, Any],
    model: dict[str, Any],
    execution: Execution,
) -> Record:
    marks = unpack(model["steady"])
    starts, durations = _series(marks)
    if len(starts) < statistics.FEWEST:
        raise InvalidMeasurement(
            f"{len(starts)} samples in {protocol.max_s:g} s: too slow for the protocol {protocol.name}; take a longer one"
        )
    return Record(
        schema=SCHEMA,
        kind="measurement",
        created=now(),
        edgeseg=made_by(),
        subject=task.subject,
        device=device,
        execution=execution,
        protocol=protocol,
        load_ms=opened["load_ms"],
        first_ms=opened["first_ms"],
        warmup=Samples.pack(*_series(unpack(model["warmup"]))),
        samples=Samples.pack(starts, durations),
        latency=statistics.latency(starts, durations),
        segments=statistics.segments(starts, durations),
        stages=None,
        e2e=None,
        peak_memory_bytes=model["peak_memory_bytes"],
        model_memory_bytes=model["model_memory_bytes"],
        energy_mj=None,
        noise=statistics.self_noise(starts, durations),
        valid=False,
        reasons=[],
        provenance=task.provenance,
        halves=_steps(HALVES, marks) if marks.shape[1] > 2 else None,
    )


def _whole(answer: dict[str, Any]) -> dict[str, Any]:
    """The end-to-end part of a record."""
    marks = unpack(answer["steady"])
    return {"stages": _steps(STAGES, marks), "e2e": statistics.latency(*_series(marks))}


def _steps(names: Sequence[str], marks: Marks) -> list[Stage]:
    return [stage_of(name, *_series(marks, column)) for column, name in enumerate(names)]


def stage_of(name: str, starts: Marks, durations: Marks) -> Stage:
    """A stage with the figures of its samples."""
    p90 = statistics.quantile(durations, 0.9)
    return Stage(
        name, float(np.median(durations)) / 1e6, None if p90 is None else p90 / 1e6, Samples.pack(starts, durations)
    )


def _enough(latency: Latency, protocol: Protocol, what: str) -> list[tuple[bool, str]]:
    """Whether there are samples enough for the figures, and what to say where there are not."""
    width = (latency.p50_high_ms - latency.p50_low_ms) / latency.p50_ms
    noisy = f"{what}noisy: the 95 % interval of the median is {width:.0%} wide, at most {PRECISE:.0%} is allowed"
    return [
        (
            latency.count >= protocol.min_count,
            f"{what}{latency.count} samples, {protocol.name} needs {protocol.min_count}",
        ),
        (latency.wall_s >= protocol.min_s, f"{what}{latency.wall_s:.1f} s, {protocol.name} needs {protocol.min_s:g} s"),
        (width <= PRECISE, noisy),
    ]


def reasons(record: Record, model: dict[str, Any]) -> list[str]:
    """Why the record must not be quoted, one line each; none when it may be. A figure that is NaN is a reason.

    model: the worker's answer: `others_cores`, and but for a cold start `unchanged`, `nonfinite`; `doubts` of its own where it has any.
    """
    protocol, noise = record.protocol, record.noise
    kept = statistics.sustained(record.segments).kept
    spare = max(0, record.device.cores - record.execution.threads * (protocol.streams or 1))
    others = model["others_cores"]
    rules = [
        *_enough(record.latency, protocol, ""),
        *(_enough(record.e2e, protocol, "the whole way: ") if record.e2e else []),
        (kept >= statistics.THROTTLED, f"throttled: throughput fell to {kept:.0%} of what it was at first"),
        (
            others <= spare + CONTENDED,
            busy(others, record.device.cores, spare),
        ),
        # another precision than asked for is a time all the same: the verdict asks whether the masks were proven in it
        (record.execution.precision is not None, "the runtime does not say in which precision it executed"),
        (
            abs(noise.gap) <= np.log1p(statistics.EQUIVALENT),
            f"noisy: two halves of the same work differ by {np.expm1(abs(noise.gap)):.1%}",
        ),
    ]
    if protocol.kind != "cold-start":  # there the output is looked at once only
        unchanged = model["unchanged"]
        rules += [
            (model["nonfinite"] == 0, f"the output has {model['nonfinite']} values that are NaN or infinite"),
            (
                unchanged >= UNCHANGED,
                f"the same input gave other labels in {1 - unchanged:.1%} of the pixels at the end",
            ),
        ]
    return [*(text for holds, text in rules if not holds), *model.get("doubts", [])]
