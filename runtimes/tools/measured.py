"""What a tool measured, as it is kept: no record, whose samples are our own, but with the device and what speaks against it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.provenance import MadeBy, made_by, now
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices import DEVICES, described, open_device
from edgeseg.runtimes.devices.cool import Cool, Tell, cooled
from edgeseg.runtimes.devices.jobs import Jobs
from edgeseg.runtimes.devices.prepare import caveats, prepared
from edgeseg.runtimes.devices.remote import Remote
from edgeseg.runtimes.measure import CONTENDED, busy, job, others_cores
from edgeseg.runtimes.record import Sensors, Subject
from edgeseg.runtimes.telemetry import Here, take, validity
from edgeseg.runtimes.telemetry.reading import Reading
from edgeseg.runtimes.telemetry.there import There
from edgeseg.runtimes.tools.here import measure_with
from edgeseg.runtimes.tools.there import measure_there, see_free
from edgeseg.runtimes.tools.tool import ToolResult
from edgeseg.schema import STRICT

SCHEMA = 1

FEWEST = 64
"""Runs that a figure needs, as our own do."""


@dataclass(frozen=True)
class ToolMeasurement:
    """A tool's figures of a subject on a device; `valid`, or the reasons why not to quote them."""

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["tool"]
    created: str
    edgeseg: MadeBy
    subject: Subject
    device: records.Device
    threads: int
    sensors: Sensors
    result: ToolResult
    valid: bool
    reasons: list[str]


def measure_by_tool(
    name: str,
    artifact: Artifact,
    threads: int,
    device: str = "local",
    path: str | None = None,
    prepare: Mapping[str, str] | None = None,
    cool: Cool | None = None,
    tell: Tell | None = None,
) -> ToolMeasurement:
    """An artifact under one of its runtime's own benchmarks, here or on a device, whose sensors are asked before and after.

    path:    where the tool is, on that device.
    prepare: settings of the device, as `devices.prepare.parse` gives them.
    cool:    wait for that before the tool begins, which takes the device for itself; `tell` takes lines on what is waited for.

    Raises:
        MissingTool: the device, or the tool there. Died: somebody else measures there, it went away, or never gets cool.
        EdgesegError: the tool is another runtime's, fails, or says what cannot be read.
    """
    subject = job(artifact).subject
    if name in DEVICES or isinstance(open_device(device), Jobs):
        return _as_a_job(name, artifact, subject, device, path, prepare or {}, threads, cool)
    with closing(open_device(device)) as where:
        if where.provenance == "simulated":
            raise EdgesegError(f"{device} is emulated, and what {name} would time there is nothing; name a device")
        if (prepare or cool) and isinstance(where, Remote):
            see_free(where)
        # on a device the tool takes the lock for itself
        alone = nullcontext() if isinstance(where, Remote) else where.held()
        with alone, prepared(where, prepare or {}) as notes:
            notes += cooled(where, cool, tell)
            place = There(where) if isinstance(where, Remote) else Here()
            before, first = where.state(), take(place)
            begin, spent = time.monotonic(), None if isinstance(where, Remote) else where.spent()
            if isinstance(where, Remote):
                result = measure_there(where, name, artifact, threads, path)
            else:
                result = measure_with(name, artifact, threads, path)
            last, wall_s = take(place), time.monotonic() - begin
            others = others_cores(spent, None if spent is None else where.spent(), wall_s)
            about = described(where, before, where.state())
    notes = [*notes, *validity.notes(first)]
    reasons = [*caveats(prepare or {}), *validity.reasons(first, last), *_too_few(result)]
    if result.threads not in (None, threads):
        reasons.append(f"{name} ran on {result.threads} threads, {threads} were asked for")
    spare = max(0, about.cores - threads)
    if others is not None and others > spare + CONTENDED:
        reasons.append(busy(others, about.cores, spare))
    device_ = replace(about, prepared=dict(prepare or {}))
    return _measurement(subject, device_, threads, Sensors(first, last, notes), result, reasons)


def _too_few(result: ToolResult) -> list[str]:
    """Why figures of so few runs are not to be quoted."""
    count = result.figures.count
    if count is None:
        return [f"{result.tool} does not say of how many runs its figures are"]
    return [f"{count} runs, a figure needs {FEWEST}"] if count < FEWEST else []


def _as_a_job(
    name: str,
    artifact: Artifact,
    subject: Subject,
    device: str,
    path: str | None,
    prepare: Mapping[str, str],
    threads: int,
    cool: Cool | None,
) -> ToolMeasurement:
    """A job of a device that runs nothing else, whose masks are compared with those here."""
    with closing(open_device(device)) as where:
        if not isinstance(where, Jobs) or name != where.kind:
            kind = where.kind if isinstance(where, Jobs) else name
            raise EdgesegError(f"--tool {kind} and -d {kind}://NAME go together; got --tool {name} and -d {device}")
        if path or prepare or cool:
            raise EdgesegError(f"nothing can be set on {device}; leave --tool-path, --prepare and --cool out")
        nothing = where.state()
        about, ran = described(where, nothing, nothing), where.run(artifact)
    silent = Reading(time.monotonic())
    reasons = [*([ran.doubt] if ran.doubt else []), *_too_few(ran.result)]
    return _measurement(subject, about, threads, Sensors(silent, silent, ran.notes), ran.result, reasons)


def _measurement(
    subject: Subject,
    device: records.Device,
    threads: int,
    sensors: Sensors,
    result: ToolResult,
    reasons: list[str],
) -> ToolMeasurement:
    return ToolMeasurement(
        SCHEMA, "tool", now(), made_by(), subject, device, threads, sensors, result, not reasons, reasons
    )
