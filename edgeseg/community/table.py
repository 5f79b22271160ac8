"""The table: every submission in a folder as rows, in Markdown for a repository and in HTML for everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edgeseg import schema
from edgeseg.community.submission import Submission
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json
from edgeseg.results import parse_record
from edgeseg.runtimes.conditions import clocks
from edgeseg.runtimes.record import Record

KINDS = ("submission", "measurement", "failure")


def read_table(folder: Path) -> Iterator[tuple[Path, Submission | EdgesegError]]:
    """The submissions in the folders of a table, in the order of their paths; what is none is the error that says so.

    Raises:
        EdgesegError: there is no such folder, or it has records of its own: then it is a device's, or a folder of results.
    """
    if not folder.is_dir():
        raise EdgesegError(f"{folder} is not a folder; give the one with a folder for each device")
    for path in sorted(folder.glob("*.json")):
        document = read_json(path)
        if isinstance(document, dict) and document.get("kind") in KINDS:
            raise EdgesegError(f"{path} lies in no device's folder; give the folder that those are in")
    for path in sorted(folder.glob("*/*.json")):
        try:
            yield path, read_submission(path)
        except EdgesegError as error:
            yield path, error


def read_submission(path: Path) -> Submission:
    """A submission from its file, with samples that can be unpacked and times that are positive numbers."""
    document = read_json(path)
    if not isinstance(document, dict) or document.get("kind") != "submission":
        raise EdgesegError(f"{path} is no submission; make one of a record with `edgeseg records submit`")
    parse_record(document.get("record"), f"{path}: record")
    return schema.parse(Submission, document, str(path))


def ordered(entries: Sequence[Submission]) -> list[Submission]:
    """By device and student, the quickest first."""

    def place(made: Submission) -> tuple[str, str, float]:
        record = made.record
        return record.device.name, record.subject.student, record.latency.p50_ms

    return sorted(entries, key=place)


COLUMNS = (
    *("device", "student", "target", "executed in", "p50, ms (95 %)", "p90, ms (99 % bound)", "sustained"),
    *("energy, mJ", "clocks", "threads", "protocol", "runtime", "edgeseg", "measured by", "artifact"),
)


def cells(made: Submission) -> tuple[str, ...]:
    """A row of the table, one text for each of `COLUMNS`."""
    record = made.record
    latency, execution = record.latency, record.execution
    height, width = size_of(record)
    return (
        record.device.name,
        f"{record.subject.student} {height}x{width}",
        record.subject.target,
        execution.precision or "not known",
        f"{latency.p50_ms:.2f} ({latency.p50_low_ms:.2f} to {latency.p50_high_ms:.2f})",
        "too few samples" if latency.p90_ms is None else f"{latency.p90_ms:.2f} ({latency.p90_upper_ms:.2f})",
        held(record),
        "not measured" if record.energy_mj is None else f"{record.energy_mj:.2f} ({record.energy_source})",
        clocks(record) or "not known",
        str(execution.threads),
        record.protocol.name,
        f"{execution.runtime} {execution.version}",
        f"{record.edgeseg.version} {(record.edgeseg.commit or '')[:8]}".strip(),
        f"{made.by}, {record.created[:10]}",
        record.subject.sha256[:12],
    )


def size_of(record: Record) -> tuple[int, int]:
    """Height and width of the input, whichever way round its channels are."""
    shape = record.subject.input_shape
    return (shape[1], shape[2]) if shape[-1] == 3 else (shape[2], shape[3])


def held(record: Record) -> str:
    """Whether it goes on like that, where the protocol asked; what another protocol said, where it did."""
    if (found := record.sustained) is not None:
        return f"{found.finding}, {found.fps:.1f} FPS after {found.since_s:.0f} s"
    if (seen := record.camera) is not None:
        return f"{seen.dropped} of {seen.frames} frames dropped, age {seen.age_p50_ms:.1f} ms"
    if record.protocol.streams is not None:
        return f"{record.latency.sustained_fps:.1f} FPS of {record.protocol.streams} at once"
    if (cold := record.cold_start) is not None:
        return f"ready after {cold.ready_ms:.0f} ms"
    return "not asked"


def markdown(entries: Sequence[Submission]) -> str:
    """The table for a repository; what a file says is text there and never markup."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(cells(made) for made in ordered(entries))]
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _cell(text: str) -> str:
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(" ".join(text.split()), quote=False))
