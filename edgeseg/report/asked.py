"""Sections of the page on records that answer a question of their own, and on measurements that came to nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgeseg.report import pace
from edgeseg.report.charts import DESK, PHONE, Trace
from edgeseg.runtimes import statistics
from edgeseg.runtimes.record import Failure, Record


@dataclass(frozen=True)
class Answer:
    """One record's answer: its chart in both drawings; `lines` are sentences under its name, `doubts` why it is not quoted."""

    name: str
    lines: list[str]
    doubts: list[str]
    phone: Markup
    desk: Markup


@dataclass(frozen=True)
class Section:
    """All records of one kind of protocol."""

    title: str
    lede: str
    answers: list[Answer]


@dataclass(frozen=True)
class Nothing:
    """A measurement that came to nothing, in words."""

    name: str
    outcome: str
    detail: str
    where: str
    arrived: int


def sections(records: Sequence[Record], colours: Mapping[str, str]) -> list[Section]:
    """What was asked beyond a latency, the newest record of each subject, place and protocol; simulated ones in none.

    colours: of what was measured, by its SHA-256.
    """
    found: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.created):
        if record.provenance == "measured" and record.samples.count:
            where = (record.subject.sha256, record.device.name, record.execution.threads, record.protocol.name)
            found[where].append(record)
    made = [
        Section(title, lede, [_answer(same, *said, colours) for same in found.values() if (said := say(same[-1]))])
        for title, lede, say in KINDS
    ]
    return [section for section in made if section.answers]


Said = tuple[list[str], Callable[[Trace, int], Markup]]
"""Sentences and the drawing of a record."""


def _answer(
    same: Sequence[Record], lines: list[str], draw: Callable[[Trace, int], Markup], colours: Mapping[str, str]
) -> Answer:
    record = same[-1]
    trace = Trace(name_of(record), colours.get(record.subject.sha256, "c1"), record)
    if record.energy_mj is not None:
        lines = [*lines, f"{record.energy_mj:.1f} mJ a frame above idle, measured by {record.energy_source}"]
    if len(same) > 1:
        lines = [*lines, f"The newest of {len(same)} like it in the folder"]
    return Answer(trace.name, lines, record.reasons, draw(trace, PHONE), draw(trace, DESK))


def name_of(record: Record) -> str:
    """What was measured where, in one line."""
    precision = record.execution.precision or record.subject.precision
    what = f"{record.subject.student} {record.subject.target} {precision}"
    threads = record.execution.threads
    return f"{what} on {record.device.name}, {threads} thread{'s' if threads != 1 else ''}, {record.protocol.name}"


def _sustained(record: Record) -> Said | None:
    found = record.sustained
    if found is None:
        return None
    changes = ", ".join(f"{second:.0f} s" for second in found.changes_s)
    kept = f"{found.fps:.1f} frames a second since {found.since_s:.0f} s, {found.kept:.0%} of the first stretch"
    lines = [
        f"{found.finding.capitalize()}: {kept}",
        f"The pace changes at {changes}" if changes else "One pace throughout",
    ]
    return lines, lambda trace, width: pace.sustained(trace, found, width)


def _camera(record: Record) -> Said | None:
    seen = record.camera
    if seen is None:
        return None
    bound = f", p90 at most {seen.age_p90_upper_ms:.1f} ms (99 % bound)" if seen.age_p90_upper_ms else ""
    lines = [
        f"{seen.dropped:,} of {seen.frames:,} frames dropped ({seen.dropped / seen.frames:.1%})",
        f"A frame is {seen.age_p50_ms:.1f} ms old when its mask is there{bound}, {seen.age_max_ms:.1f} ms at worst",
    ]
    return lines, lambda trace, width: pace.camera(trace, seen, width)


def _offline(record: Record) -> Said | None:
    streams, fps = record.protocol.streams, record.latency.sustained_fps
    if streams is None:
        return None
    lines = [
        f"{fps:.1f} frames a second of {streams} sessions at once; each frame takes {record.latency.p50_ms:.1f} ms (median)"
    ]
    return lines, lambda trace, width: pace.sustained(trace, statistics.sustained(record.segments), width)


def _cold_start(record: Record) -> Said | None:
    cold = record.cold_start
    if cold is None:
        return None
    lines = [f"{cold.processes} fresh processes, one after the other; the file system's cache is warm"]
    return lines, lambda trace, width: pace.cold_start(trace, cold, width)


KINDS: tuple[tuple[str, str, Callable[[Record], Said | None]], ...] = (
    (
        "Does it go on like that?",
        "Frames per second over a long run. Lines are steady stretches; dashed ones are where one gives way to the next.",
        _sustained,
    ),
    (
        "At a camera's pace",
        "Frames come at their own rate and wait for nobody. Dashed: the time between two of them. Red: frames dropped.",
        _camera,
    ),
    (
        "How many frames at most?",
        "Several sessions side by side, frame after frame: frames per second of all of them. Lines are steady stretches.",
        _offline,
    ),
    ("From a cold start", "What a user waits for before the first mask.", _cold_start),
)


def nothings(failures: Sequence[Failure]) -> Iterator[Nothing]:
    """Measurements that came to nothing, newest first."""
    for failure in sorted(failures, key=lambda failure: failure.created, reverse=True):
        subject = failure.subject
        yield Nothing(
            f"{subject.student} {subject.target} {subject.precision}",
            failure.outcome.replace("_", " "),
            failure.detail,
            f"{failure.device.name}, {failure.threads} threads, {failure.protocol.name}, {failure.created[:16]}",
            failure.samples.count if failure.samples else 0,
        )
