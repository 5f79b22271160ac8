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
from edgeseg.runtimes.farm.queue import Job, Queue, State
from edgeseg.schema import STRICT

LOST = ("lost", "busy", "hang", "garbled", "killed")
"""Outcomes of a failure that say more of the device than of the artifact."""

CALM_S = 5.0
"""How long a device that failed is left alone."""


@dataclass(frozen=True)
class Sweep:
    """What `sweep.yaml` says.

    artifacts: folders, from where the file is.
    devices:   names or addresses, each measured on; or pools, name -> devices that are alike, one of which measures.
    threads:   of the runtime, each once.
    tries:     how often a measurement is begun that must not be quoted, or whose device went away.
    patience:  how many jobs in a row may fail a device before it is left out.
    """

    __pydantic_config__ = STRICT
    artifacts: list[str]
    devices: list[str] | dict[str, list[str]] = field(default_factory=lambda: ["local"])
    threads: list[int] = field(default_factory=lambda: [1])
    protocol: str = "quick"
    tries: int = 3
    patience: int = 2

    def __post_init__(self) -> None:
        if not self.artifacts or not self.devices or not self.threads:
            raise EdgesegError("a sweep needs at least one artifact, one device and a number of threads")
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


@dataclass(frozen=True)
class Outcome:
    """How a job went. `device`: it was the device's fault, and another one may fare better."""

    state: State
    record: str | None = None
    reason: str | None = None
    device: bool = False


Measure: TypeAlias = Callable[[Job, str], Awaitable[Outcome]]
"""A job and the address of a device to what came of it."""

Notify: TypeAlias = Callable[[Job, str, Outcome], None]


async def run(
    queue: Queue, sweep: Sweep, measure: Measure, notify: Notify = lambda *_: None, calm_s: float = CALM_S
) -> dict[str, str]:
    """Measure until nothing waits that a device could take; the devices that were left out, and why."""
    changed, out = asyncio.Condition(), dict[str, str]()

    async def work(pool: str, device: str) -> None:
        faults = 0
        while True:
            async with changed:
                while (job := queue.lease(pool, device)) is None:
                    if not queue.leased(pool):
                        return
                    await changed.wait()
            outcome = await measure(job, device)
            faults = faults + 1 if outcome.device else 0
            again = outcome.state == "waiting" and job.tries < sweep.tries
            given_up: State = "invalid" if outcome.record else "failed"
            state = outcome.state if outcome.state != "waiting" or again else given_up
            async with changed:
                queue.end(job, state, outcome.record, outcome.reason)
                changed.notify_all()
            notify(job, device, replace(outcome, state=state))
            if faults >= sweep.patience:
                out[device] = outcome.reason or "it failed"
                return
            if outcome.device:
                await asyncio.sleep(calm_s)

    await asyncio.gather(*(work(pool, device) for pool, devices in sweep.pools.items() for device in devices))
    return out


def record_name(job: Job) -> str:
    """The file of a job's record."""
    what = "-".join(Path(job.artifact).parts[-2:])  # a whole path may be longer than a file's name
    name = re.sub(r"[^\w.@-]+", "-", f"{what}-{job.pool}-t{job.threads}-{job.protocol}").strip("-")
    return f"{name}-{job.id}.json"


async def measured(job: Job, device: str, folder: Path) -> Outcome:
    """What `edgeseg bench` makes of a job, in a process of its own; its record goes to `folder`."""
    path = folder / record_name(job)
    path.unlink(missing_ok=True)  # of an earlier try
    words = ["bench", job.artifact, "-d", device, "--threads", str(job.threads), "--protocol", job.protocol]
    code, said = await _edgeseg(*words, "-o", str(path))
    if code == MissingTool.exit_code and (await _edgeseg("devices", "probe", device))[0] != 0:
        return Outcome("waiting", None, said, device=True)
    if not path.exists():
        return Outcome("failed", None, said)
    kind, outcome, reasons = _told(path)
    if kind == "failure":
        lost = outcome in LOST
        return Outcome("waiting" if lost else "failed", None if lost else str(path), f"{outcome}: {said}", device=lost)
    return Outcome("waiting" if reasons else "done", str(path), "; ".join(reasons) or None)


def _told(path: Path) -> tuple[str, str, list[str]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["kind"], document.get("outcome", ""), document.get("reasons", [])


async def _edgeseg(*words: str) -> tuple[int, str]:
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


def swept(
    file: Path, out: Path, notify: Notify, again: bool = False, engine: str = "local"
) -> tuple[list[Job], dict[str, str]]:
    """Do, or go on with, what a file says: its jobs as they are then, and the devices that were left out.

    again:  also those that failed, or have no figure to quote.
    engine: who measures: `local`, or `ray`.

    Raises:
        EdgesegError: the file, an artifact in it, or another sweep that is at it. MissingTool: a device that nobody knows.
    """
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.farm.engines import ENGINES
    from edgeseg.runtimes.protocol import parse

    sweep = _read(file)
    parse(sweep.protocol)
    subjects = [Artifact.open(file.parent / each) for each in sweep.artifacts]
    wanted = [
        Job(pool, str(subject.folder.resolve()), subject.manifest.sha256, threads, sweep.protocol)
        for subject in subjects
        for pool in sweep.pools
        for threads in sweep.threads
    ]
    with ENGINES[engine](sweep, out) as measure, Queue(out / "queue.sqlite").held() as queue:
        queue.want(wanted, again)
        left_out = asyncio.run(run(queue, sweep, measure, notify))
        keys = {job.key for job in wanted}
        return [job for job in queue.jobs() if job.key in keys], left_out


def _read(file: Path) -> Sweep:
    import yaml

    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgesegError(f"cannot read {file}: {error.strerror}; README, Devices, shows what is in it") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdgesegError(f"cannot read {file}: {error}") from error
    return schema.parse(Sweep, document, str(file))


def verdict_of(jobs: Sequence[Job], left_out: Mapping[str, str]) -> EdgesegError | None:
    """What the command ends with; null where every job has a record that may be quoted."""
    waiting = sum(job.state == "waiting" for job in jobs)
    if waiting:
        why = "; ".join(f"{device}: {reason}" for device, reason in left_out.items())
        return MissingTool(f"{waiting} of {len(jobs)} wait for a device ({why}); the same command goes on")
    bad = [job for job in jobs if job.state != "done"]
    return InvalidMeasurement(f"{len(bad)} of {len(jobs)} have no figure to quote; the table says why") if bad else None
