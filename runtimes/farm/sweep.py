"""A sweep: artifacts x pools of devices x threads, measured by a worker for each device; what was interrupted is done again."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from edgeseg import schema
from edgeseg.errors import EdgesegError, InvalidMeasurement, MissingTool
from edgeseg.runtimes.farm.exports import Exports, Order, made, orders
from edgeseg.runtimes.farm.queue import Job, Outcome, Queue, State
from edgeseg.runtimes.protocol import SMOKE
from edgeseg.schema import STRICT

LOST = ("lost", "busy", "hang", "garbled", "killed", "hot")
"""Outcomes of a failure that say more of the device than of the artifact; `out_of_memory` says how much that takes."""

TOOL = "tool:"
"""How a protocol begins that is a runtime's own benchmark."""

CALM_S = 5.0
"""How long a device that failed is left alone."""


@dataclass(frozen=True)
class Sweep:
    """What `sweep.yaml` says.

    artifacts: folders, from where the file is.
    exports:   what to make first, and measure too.
    devices:   names or addresses, each measured on; or pools, name -> devices that are alike, one of which measures.
    threads:   of the runtime, each once.
    protocol:  as `edgeseg bench` has it; or `tool:NAME`, `tool:NAME=PATH`, and a runtime's own benchmark measures.
    cool:      before each measurement, as `edgeseg bench --cool` has it: `50`, or `50:5m`.
    tries:     how often a measurement is begun that must not be quoted, or whose device went away.
    patience:  how many jobs in a row may fail a device before it is left out.
    """

    __pydantic_config__ = STRICT
    artifacts: list[str] = field(default_factory=list)
    exports: list[Exports] = field(default_factory=list)
    devices: list[str] | dict[str, list[str]] = field(default_factory=lambda: ["local"])
    threads: list[int] = field(default_factory=lambda: [1])
    protocol: str = "quick"
    cool: float | str = ""
    tries: int = 3
    patience: int = 2

    def __post_init__(self) -> None:
        if not (self.artifacts or self.exports) or not self.devices or not self.threads:
            raise EdgesegError("a sweep needs at least one artifact or export, one device and a number of threads")
        if min(self.tries, self.patience, *self.threads) < 1:
            raise EdgesegError("threads, tries and patience are at least 1")
        if twice := sorted({address for address in self.addresses if self.addresses.count(address) > 1}):
            raise EdgesegError(f"{', '.join(twice)} is named twice; a device has one worker, in one pool")
        if empty := [name for name, pool in self.pools.items() if not pool]:
            raise EdgesegError(f"the pool {empty[0]} has no device")

    @property
    def pools(self) -> Mapping[str, Sequence[str]]:
        """Name -> devices; a device that stands alone is a pool of its own."""
        return self.devices if isinstance(self.devices, dict) else {name: [name] for name in self.devices}

    @property
    def addresses(self) -> list[str]:
        """The devices of all pools."""
        return [address for pool in self.pools.values() for address in pool]

    @property
    def tool(self) -> str | None:
        """What measures in the place of a protocol: `NAME` or `NAME=PATH`."""
        return self.protocol.removeprefix(TOOL) if self.protocol.startswith(TOOL) else None


Measure: TypeAlias = Callable[[Job, str], Awaitable[Outcome]]
"""A job and the address of a device to what came of it."""

Notify: TypeAlias = Callable[[Job, str, Outcome], None]

Recover: TypeAlias = Callable[[str], Awaitable[str | None]]
"""Has a device switched off and on; why that did not help, null where it answers again."""


async def left_alone(device: str) -> str | None:
    """`Recover` where nothing switches devices off and on."""
    return ""


async def run(
    queue: Queue,
    sweep: Sweep,
    measure: Measure,
    notify: Notify = lambda *_: None,
    calm_s: float = CALM_S,
    recover: Recover = left_alone,
) -> dict[str, str]:
    """Measure until nothing waits that a device could take; the devices that were left out, and why.

    A device out of patience is recovered, once until a job of its succeeds again, before it is left out.
    """
    changed, out = asyncio.Condition(), dict[str, str]()

    async def work(pool: str, device: str) -> None:
        faults, fresh = 0, True
        while True:
            async with changed:
                while (job := queue.lease(pool, device)) is None:
                    if not queue.leased(pool):
                        return
                    await changed.wait()
            outcome = await measure(job, device)
            faults, fresh = (faults + 1, fresh) if outcome.device else (0, True)
            again = outcome.state == "waiting" and job.tries < sweep.tries
            given_up: State = "invalid" if outcome.record else "failed"
            state = outcome.state if outcome.state != "waiting" or again else given_up
            async with changed:
                queue.end(job, state, outcome.record, outcome.reason)
                changed.notify_all()
            notify(job, device, replace(outcome, state=state))
            if faults >= sweep.patience:
                more = await recover(device) if fresh else "switched off and on before"
                if more is not None:
                    out[device] = "; ".join(filter(None, [outcome.reason or "it failed", more]))
                    return
                faults, fresh = 0, False
            elif outcome.device:
                await asyncio.sleep(calm_s)

    await asyncio.gather(*(work(pool, device) for pool, devices in sweep.pools.items() for device in devices))
    return out


def record_name(job: Job) -> str:
    """The file of a job's record."""
    what = "-".join(Path(job.artifact).parts[-2:])  # a whole path may be longer than a file's name
    how = job.protocol.partition("=")[0]
    name = re.sub(r"[^\w.@-]+", "-", f"{what}-{job.pool}-t{job.threads}-{how}").strip("-")
    return f"{name}-{job.id}.json"


async def measured(job: Job, device: str, folder: Path, cool: float | str = "") -> Outcome:
    """What `edgeseg bench` makes of a job, in a process of its own; its record goes to `folder`. `cool`: as the sweep has it."""
    path = folder / record_name(job)
    path.unlink(missing_ok=True)  # of an earlier try
    words = ["bench", job.artifact, "-d", device, "--threads", str(job.threads), *_how(job.protocol)]
    words += ["--cool", str(cool)] if cool != "" else []
    code, said = await edgeseg(*words, "-o", str(path))
    if code == MissingTool.exit_code and (await edgeseg("devices", "probe", device))[0] != 0:
        return Outcome("waiting", None, said, device=True)
    if not path.exists():
        return Outcome("failed", None, said)
    kind, outcome, reasons = _told(path)
    if kind == "failure":
        lost = outcome in LOST
        return Outcome("waiting" if lost else "failed", None if lost else str(path), f"{outcome}: {said}", device=lost)
    why = "; ".join(reasons) or (f"{SMOKE}: the way works; no figure to quote" if job.protocol == SMOKE else None)
    return Outcome("waiting" if reasons else "done", str(path), why)


async def recovered(device: str) -> str | None:
    """`Recover` of this machine's devices, in a process of its own; nothing is said of one without a command for it."""
    from edgeseg.runtimes.devices.book import read

    entry = read().devices.get(device)
    if entry is None or not entry.recover:
        return ""
    code, said = await edgeseg("devices", "recover", device)
    return said or f"exit code {code}" if code else None


def _how(protocol: str) -> list[str]:
    if not protocol.startswith(TOOL):
        return ["--protocol", protocol]
    name, _, place = protocol.removeprefix(TOOL).partition("=")
    return ["--tool", name, *(["--tool-path", place] if place else [])]


def _told(path: Path) -> tuple[str, str, list[str]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["kind"], document.get("outcome", ""), document.get("reasons", [])


async def edgeseg(*words: str) -> tuple[int, str]:
    """The exit code of a command, and the last line of what it complained about. It ends with us."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgeseg.runtimes.farm.leashed", *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        said = await process.stderr.read()  # not communicate(), which lets go of the leash
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return process.returncode or 0, lines[-1].removeprefix("error: ") if lines else ""


@dataclass(frozen=True)
class Swept:
    """A sweep as it is when the command ends. `exports`: name -> how it went; `left_out`: device -> why."""

    exports: dict[str, Outcome]
    jobs: list[Job]
    left_out: dict[str, str]


def swept(
    file: Path,
    out: Path,
    notify: Notify,
    again: bool = False,
    engine: str = "local",
    exported: Callable[[Order, Outcome], None] = lambda *_: None,
) -> Swept:
    """Do, or go on with, what a file says: the artifacts that it asks for into `OUT/artifacts`, and the measurements.

    again:    also those that failed, or have no figure to quote.
    engine:   who works: `local`, or `ray`.
    exported: is told of each artifact that was made.

    Raises:
        EdgesegError: the file, an artifact or a run in it, or another sweep that is at it. MissingTool: a device that nobody knows.
    """
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.farm.engines import ENGINES

    sweep = _read(file)
    _check(sweep)
    given = [Artifact.open(file.parent / each) for each in sweep.artifacts]
    ordered = orders(sweep.exports, file.parent)
    with ENGINES[engine](sweep, out) as crew, Queue(out / "queue.sqlite").held() as queue:
        if again:
            queue.forget()
        outcomes = asyncio.run(made(queue, ordered, out / "artifacts", crew.make, exported))
        there = [Artifact.open(out / "artifacts" / name) for name, one in outcomes.items() if one.state == "done"]
        wanted = [
            Job(pool, str(subject.folder.resolve()), subject.manifest.sha256, threads, sweep.protocol)
            for subject in [*given, *there]
            for pool in sweep.pools
            for threads in sweep.threads
        ]
        queue.want(wanted)
        left_out = asyncio.run(run(queue, sweep, crew.measure, notify, recover=crew.recover))
        keys = {job.key for job in wanted}
        return Swept(outcomes, [job for job in queue.jobs() if job.key in keys], left_out)


def _check(sweep: Sweep) -> None:
    """Refuse a protocol, a tool or a temperature that is none, before anything is made."""
    from edgeseg.runtimes.devices.cool import parse as parse_cool
    from edgeseg.runtimes.protocol import parse
    from edgeseg.runtimes.tools import TOOLS

    if sweep.tool is None:
        parse(sweep.protocol)
    else:
        TOOLS[sweep.tool.partition("=")[0]]
    parse_cool(str(sweep.cool))


def _read(file: Path) -> Sweep:
    import yaml

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgesegError(f"cannot read {file}: {error.strerror}; README, Devices, shows what is in it") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdgesegError(f"cannot read {file}: {error}") from error
    return schema.parse(Sweep, document, str(file))


def verdict_of(found: Swept) -> EdgesegError | None:
    """What the command ends with; null where every export passed and every job has a record that may be quoted."""
    states = [each.state for each in found.exports.values()] + [each.state for each in found.jobs]
    if waiting := states.count("waiting"):
        lost = [f"{device}: {reason}" for device, reason in found.left_out.items()]
        lost += [f"{name}: {one.reason}" for name, one in found.exports.items() if one.state == "waiting"]
        return MissingTool(f"{waiting} of {len(states)} wait ({'; '.join(lost)}); the same command goes on")
    bad = len(states) - states.count("done")
    return InvalidMeasurement(f"{bad} of {len(states)} have no figure to quote; the table says why") if bad else None
