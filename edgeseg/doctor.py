"""What works on this machine: every runtime, operator and device tried, not only found."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeseg.errors import EdgesegError, MissingTool, require

CLIENTS = {"ssh": "openssh-client", "adb": "adb"}
"""Kind of device -> the package that brings the program of that name, which reaches it."""


@dataclass(frozen=True)
class Finding:
    """One line: `state` is `ok`, `stand-in` (another runtime ran the files in its place), `missing` or `broken`; `detail` is what was seen, or the line that installs it."""

    part: str
    name: str
    state: str
    version: str | None
    detail: str


def examine(self_test: bool, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
    """Every finding; with `self_test` a small student is exported to each target and its masks compared."""
    checks = [*_runtimes(self_test), *_operators(), _device, *_clients(), _browser]
    found = []
    for index, check in enumerate(checks, 1):
        found.append(check())
        if progress:
            progress(index, len(checks))
    return found


def _runtimes(self_test: bool) -> Iterator[Callable[[], Finding]]:
    from edgeseg.export import TARGETS
    from edgeseg.runtimes import RUNTIMES

    for name in RUNTIMES:
        if name in TARGETS or RUNTIMES[name].provenance == "measured":
            yield partial(_runtime, name, self_test)


def _runtime(name: str, self_test: bool) -> Finding:
    from edgeseg.export import TARGETS

    try:
        require(*(TARGETS[name].modules if name in TARGETS else ()))
        version = _version(name)
        if not self_test or name not in TARGETS:
            return Finding("runtime", name, "ok", version, "found")
        stand_in, said = _try(name)
        return Finding("runtime", name, "stand-in" if stand_in else "ok", version, said)
    except MissingTool as error:
        return Finding("runtime", name, "missing", None, str(error))
    except (EdgesegError, ImportError, OSError) as error:
        return Finding("runtime", name, "broken", None, " ".join(str(error).split()))


def _version(runtime: str) -> str:
    """What a runtime says of itself in a process of its own: one that crashes when it is imported is a line."""
    from edgeseg.runtimes.launch import Worker

    with closing(Worker(noun=f"the process that imports {runtime}", death=EdgesegError)) as worker:
        return str(worker.ask("version", runtime=runtime)["version"])


def _try(target: str) -> tuple[str, str]:
    """Export a small untrained student in a process of its own, run it, compare the masks: who stood in, what was seen."""
    from edgeseg.export import TARGETS
    from edgeseg.export.apart import Job, as_run, export_apart
    from edgeseg.manifest import Source

    size, kind = (64, 96), TARGETS[target]()
    with tempfile.TemporaryDirectory() as folder, as_run("lraspp_mobilenet_v3_large", 5, size) as run:
        out = str(Path(folder) / "artifact")
        job = Job(str(run), kind.options(), out, size, ["pre", "labels"], None, Source(None, None))
        outcome = export_apart(job, kind)
    if outcome.artifact is None or outcome.artifact.manifest.ledger is None:
        raise outcome.error or EdgesegError("the self-test left no ledger")
    if outcome.error:
        raise EdgesegError("self-test failed: the masks of a small student are not those of PyTorch")
    manifest, hop = outcome.artifact.manifest, outcome.artifact.manifest.ledger.hops[-1]
    _, _, stand_in = hop.name.partition(" in ")
    where = f" in {stand_in}, which stands in for it and says nothing of its speed" if stand_in else ""
    said = f"self-test: {100 * hop.same_label:.3f} % of the labels as in PyTorch"
    return stand_in, f"{said}, executed in {manifest.precision.executed}{where}"


def _operators() -> Iterator[Callable[[], Finding]]:
    from edgeseg.kernels.operators import OPERATORS

    for name in OPERATORS:
        yield partial(_operator, name)


def _operator(name: str) -> Finding:
    """Every tier that runs here on two short cases; `edgeseg ops test` tries all, the simulated ones too."""
    from edgeseg.kernels.conformance import examine
    from edgeseg.kernels.tiers import quick

    rows = list(examine([name], most_tokens=2, most_cases=2, halves=[False], tiers=quick()))
    said = {state: [row.tier for row in rows if row.state == state] for state in ("ok", "failed", "missing")}
    detail = f"as the reference: {', '.join(said['ok'])}"
    if said["failed"]:
        return Finding("operator", name, "broken", None, f"not as the reference: {', '.join(said['failed'])}; {detail}")
    if said["missing"]:
        why = next(row.detail for row in rows if row.state == "missing")
        return Finding(
            "operator", name, "missing", None, f"{detail}; not to be had: {', '.join(said['missing'])} ({why})"
        )
    return Finding("operator", name, "ok", None, detail)


def _device() -> Finding:
    from edgeseg.runtimes.devices import open_device

    device = open_device("local").probe()
    memory = f"{device.memory_bytes / 2**30:.0f} GiB"
    return Finding(
        "device",
        "local",
        "ok",
        None,
        f"{device.cpu or platform.machine()}, {device.cores} cores, {memory}, {device.system}",
    )


def _clients() -> Iterator[Callable[[], Finding]]:
    for kind, package in CLIENTS.items():
        yield partial(_client, kind, package)


def _client(kind: str, package: str) -> Finding:
    """The program that reaches a kind of device."""
    import shutil

    path = shutil.which(kind)
    if path is None:
        return Finding("device", kind, "missing", None, f"for bench -d {kind}://...: apt-get install {package}")
    return Finding("device", kind, "ok", None, f"{path}; edgeseg devices probe asks the devices themselves")


def _browser() -> Finding:
    import shutil

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        return Finding(
            "tests",
            "chromium",
            "missing",
            None,
            "only for the report's browser test: apt-get install chromium chromium-driver",
        )
    return Finding("tests", "chromium", "ok", None, path)
