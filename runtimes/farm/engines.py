"""Who works for a sweep: processes of this machine, or of a Ray cluster, whose machines have the devices."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from edgeseg.artifact import Artifact
from edgeseg.errors import MissingTool, need
from edgeseg.files import write_json
from edgeseg.registry import Registry
from edgeseg.runs import CARD, WEIGHTS
from edgeseg.runtimes.farm.exports import Make, Order
from edgeseg.runtimes.farm.queue import Job, Outcome
from edgeseg.runtimes.farm.sweep import Measure, Recover, Sweep, edgeseg, measured, record_name, recovered

LOOK_S = 20.0
"""How often a job that waits for its device is asked whether the cluster still has that."""

There: TypeAlias = Callable[[Job, str, bytes], tuple[Outcome, str | None]]
"""A job, its device and its artifact as a tar file to what came of it, and the document that it wrote."""


@dataclass(frozen=True)
class Crew:
    """Who measures a job on a device, who makes an artifact, and who switches a device off and on."""

    measure: Measure
    make: Make
    recover: Recover = recovered


@contextmanager
def local(sweep: Sweep, out: Path) -> Iterator[Crew]:
    """A process of this machine for each measurement, and one export at a time, which has all its cores; the devices are those that it knows.

    Raises:
        MissingTool: a device that nobody knows. Nothing is contacted.
    """
    from edgeseg.runtimes.devices import open_device

    for address in sweep.addresses:
        open_device(address).close()
    alone = asyncio.Semaphore(1)

    async def make(order: Order, part: Path) -> Outcome:
        async with alone:
            return await _exported(order, order.run, part)

    yield Crew(lambda job, device: measured(job, device, out, sweep.cool), make)


async def _exported(order: Order, run: Path, part: Path) -> Outcome:
    """What the making of an artifact in `part` ended with; what is not installed may be, by the next time."""
    code, said = await edgeseg(*order.words(run, part))
    if code == 0:
        return Outcome("done")
    said = re.sub(re.escape(str(part)) + r"(/[\w.-]+)?", lambda _: order.name, said)  # nobody will find it there
    return Outcome("waiting" if code == MissingTool.exit_code else "failed", None, said)


@contextmanager
def ray(sweep: Sweep, out: Path, there: There | None = None, cpus: int = 0) -> Iterator[Crew]:
    """A task of Ray for each measurement (`cluster` extra), on the machine that offers its device as a resource, one task at a time.

    Without RAY_ADDRESS it is a cluster of this machine, which offers them all. Artifacts travel with the tasks, and the records
    come back; names of devices are those of the machine there. An export takes one processor of any machine: its run travels
    there and its artifact back, and the images that it names have to be there.

    Raises:
        MissingTool: a device that no machine of the cluster offers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it reports itself to its makers
    library = need("ray")
    cool = sweep.cool
    own = None if os.environ.get("RAY_ADDRESS") else dict.fromkeys(map(resource, sweep.addresses), 1)
    library.init(resources=own, log_to_driver=False)
    try:
        if lost := [address for address in sweep.addresses if not _offered(library, address)]:
            raise MissingTool(
                f"no machine of the Ray cluster offers {', '.join(lost)}; on the one that has it: "
                f"""ray start --address=HOST:6379 --resources='{{"{resource(lost[0])}": 1}}'"""
            )

        def cooled(job: Job, device: str, artifact: bytes) -> tuple[Outcome, str | None]:
            return _measured_there(job, device, artifact, cool)

        task = library.remote(max_retries=0, num_cpus=cpus)(there or cooled)
        packed: dict[str, Any] = {}

        async def measure(job: Job, device: str) -> Outcome:
            if job.artifact not in packed:
                packed[job.artifact] = library.put(_packed(Path(job.artifact)))
            asked = task.options(resources={resource(device): 1}).remote(job, device, packed[job.artifact])
            try:
                made = await _waited(library, asked.future(), device)
            except library.exceptions.RayError as error:  # the machine there went away
                return Outcome("waiting", None, f"{type(error).__name__} on Ray", device=True)
            finally:
                library.cancel(asked, force=True)
            return made if isinstance(made, Outcome) else _kept(made, job, out)

        exporter = library.remote(num_cpus=1)(_made_there)  # begun anew by Ray where a machine goes away

        async def make(order: Order, part: Path) -> Outcome:
            asked = exporter.remote(order, library.put(_tar(order.run, [WEIGHTS, CARD])))
            try:
                outcome, artifact = await asyncio.wrap_future(asked.future())
            except library.exceptions.RayError as error:
                return Outcome("waiting", None, f"{type(error).__name__} on Ray")
            finally:
                library.cancel(asked, force=True)
            _untar(artifact, part)
            return outcome

        recoverer = library.remote(max_retries=0, num_cpus=cpus)(_recovered_there)

        async def recover(device: str) -> str | None:
            asked = recoverer.options(resources={resource(device): 1}).remote(device)
            try:
                said: Outcome | str | None = await _waited(library, asked.future(), device)
            except library.exceptions.RayError as error:
                return f"{type(error).__name__} on Ray"
            return said.reason if isinstance(said, Outcome) else said

        yield Crew(measure, make, recover)
    finally:
        library.shutdown()


def resource(device: str) -> str:
    """What a machine of a Ray cluster offers one of, for a device that it has."""
    return f"edgeseg:{device}"


def _offered(library: Any, device: str) -> bool:
    return bool(library.cluster_resources().get(resource(device), 0) >= 1)


async def _waited(library: Any, future: Any, device: str) -> Any:
    """What a task gives; an outcome where the cluster has lost its device before it began."""
    waiting = asyncio.wrap_future(future)
    while True:
        await asyncio.wait({waiting}, timeout=LOOK_S)
        if waiting.done():
            return waiting.result()
        if not _offered(library, device):
            return Outcome("waiting", None, "no machine of the Ray cluster offers it any more", device=True)


def _packed(artifact: Path) -> bytes:
    """What an artifact's manifest names, as a tar file."""
    return _tar(artifact, ["manifest.json", *(entry.path for entry in Artifact.open(artifact).manifest.files)])


def _tar(folder: Path, names: Sequence[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            tar.add(folder / name, name)
    return file.getvalue()


def _untar(packed: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")


def _measured_there(job: Job, device: str, artifact: bytes, cool: float | str) -> tuple[Outcome, str | None]:
    """A job on the machine that has its device: what came of it, and the document that it wrote."""
    with TemporaryDirectory() as folder:
        place = Path(folder) / "artifact"
        _untar(artifact, place)
        made = asyncio.run(measured(replace(job, artifact=str(place)), device, Path(folder), cool))
        return made, Path(made.record).read_text(encoding="utf-8") if made.record else None


def _recovered_there(device: str) -> str | None:
    """`Recover` on the machine that has the device."""
    return asyncio.run(recovered(device))


def _made_there(order: Order, run: bytes) -> tuple[Outcome, bytes]:
    """An order on some machine: how it went, and what it left as a tar file."""
    with TemporaryDirectory() as folder:
        place, part = Path(folder) / order.run.name, Path(folder) / "made"
        _untar(run, place)
        part.mkdir()
        outcome = asyncio.run(_exported(order, place, part))
        return outcome, _tar(part, [each.name for each in part.iterdir()])


def _kept(made: tuple[Outcome, str | None], job: Job, out: Path) -> Outcome:
    """The outcome with its document here, where it is about the artifact that is here."""
    outcome, document = made
    if document is None:
        return outcome
    about, path = json.loads(document), out / record_name(job)
    about["subject"]["path"] = job.artifact
    write_json(path, about)
    return replace(outcome, record=str(path))


ENGINES: Registry[Callable[[Sweep, Path], AbstractContextManager[Crew]]] = Registry("engine")
"""Name -> who works for a sweep, as long as its block lasts."""
ENGINES.add("local", local)
ENGINES.add("ray", ray)
