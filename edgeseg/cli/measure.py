"""`edgeseg bench` and `edgeseg compare`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, progress, say, table, talk
from edgeseg.cli.records import handed_in, provable
from edgeseg.cli.releases import holds_records, of_releases, record_in
from edgeseg.errors import EdgesegError, InvalidMeasurement

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.runtimes.compare import Comparison
    from edgeseg.runtimes.devices.cool import Cool
    from edgeseg.runtimes.record import Record


Cooling = Annotated[
    str,
    typer.Option(
        metavar="BELOW_C[:LIMIT]",
        help="Wait until the device is below so many °C before anything is timed, at most 10 minutes, e.g. 50 or 50:5m.",
    ),
]


@app.command()
def bench(
    subject: Annotated[Path, typer.Argument(metavar="ARTIFACT|RUN")],
    device: Annotated[
        str,
        typer.Option(
            "-d",
            "--device",
            help="local, ssh://user@host[:port], adb://SERIAL, labgrid://PLACE, aihub://NAME, apple://UDID, or a name from `edgeseg devices list`.",
        ),
    ] = "local",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    protocol: Annotated[
        str,
        typer.Option(
            help="quick, mlperf-mobile, sustained:10m, camera:30, offline:4, cold-start, or smoke (no figure to quote)"
        ),
    ] = "quick",
    e2e: Annotated[bool, typer.Option("--e2e", help="Time decode, resize, infer and labels apart as well.")] = False,
    image: Annotated[
        Path | None, typer.Option(help="A JPEG or PNG to feed; the artifact's first evidence image by default.")
    ] = None,
    size: Size = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The record; SUBJECT/records/... by default.")] = None,
    submit: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="Write it for the community's table too, e.g. into benchmarks/results."),
    ] = None,
    by: Annotated[str, typer.Option(help="With --submit: who measured, a name or a handle.")] = "",
    tool: Annotated[
        str | None,
        typer.Option(help="The runtime's own benchmark instead, e.g. benchmark_app: its figures, no record."),
    ] = None,
    tool_path: Annotated[
        str | None, typer.Option(help="Where that is on the device; on its PATH or in /data/local/tmp by default.")
    ] = None,
    prepare: Annotated[
        str,
        typer.Option(
            metavar="SETTING[=VALUE],...",
            help="Change settings of the device meanwhile, e.g. governor=performance; then put them back.",
        ),
    ] = "",
    cool: Cooling = "",
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="ARTIFACT|RUN", help="Measure that too, in turns, for one more verdict; may be repeated."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How often, in a fresh process and a record each.")] = 1,
    as_json: Json = False,
) -> None:
    """Measure an artifact, or a run in eager PyTorch, in a fresh process; every sample is kept.

    Over ssh an artifact is measured by an agent that is sent along; the device needs Python 3.8, NumPy and the runtime.
    A phone has no Python: there --tool measures.

    Example: edgeseg bench out/cam/openvino --threads 2 --protocol quick --e2e
    """
    from edgeseg import schema
    from edgeseg.runtimes.devices import open_device
    from edgeseg.runtimes.devices.cool import parse as parse_cool
    from edgeseg.runtimes.devices.jobs import Jobs
    from edgeseg.runtimes.devices.prepare import parse as parse_settings
    from edgeseg.runtimes.measure import measure
    from edgeseg.runtimes.protocol import parse

    settings, cooling = parse_settings(prepare), parse_cool(cool)
    if tool is None and isinstance(where := open_device(device), Jobs):
        tool = where.kind
    rule = None if tool else parse(protocol)  # before it says that it measures
    subjects = [subject, *(beside or [])]
    several = len(subjects) * processes > 1
    if several and (given := [word for word, value in (("-o", out), ("--submit", submit), ("--tool", tool)) if value]):
        raise EdgesegError(
            f"--beside and --processes make several records, each in its place; leave {', '.join(given)} out"
        )
    proof = provable(subject, submit, by, tool)  # before the time is spent
    if is_artifact(subject) and tool:
        if given := [word for word, value in (("--e2e", e2e), ("--image", image), ("--size", size)) if value]:
            raise EdgesegError(f"{tool} feeds and times the file in its own way; leave {', '.join(given)} out")
        with_tool(tool, subject, threads, device, tool_path, settings, cooling, out, as_json)
        return
    if tool_path and not tool:
        raise EdgesegError("--tool-path says where --tool is; give that too, e.g. --tool benchmark_model")
    if tool or rule is None:
        raise EdgesegError(f"{subject} is a run; export it, {tool} runs what was exported")
    for other in beside or []:
        is_artifact(other)  # before the time is spent

    how = partial(
        measure,
        protocol=rule,
        threads=threads,
        e2e=e2e,
        size=parse_size(size),
        device=device,
        prepare=settings,
        cool=cooling,
        tell=say,
    )
    name = re.sub(r"[^\w.@-]+", "-", f"{device}-t{threads}-{protocol}")
    if several:
        in_turns(subjects, processes, lambda subject: recorded(how, subject, image, name, None), as_json)
        return
    path, result = recorded(how, subject, image, name, out)
    emit(schema.dump(result), as_json, record_table(result), str(path))
    if not result.valid:
        raise InvalidMeasurement(f"not to be quoted: {'; '.join(result.reasons)}")
    if submit and proof:
        talk.print(f"for the table: {handed_in(result, proof, by, submit)}", soft_wrap=True)


def recorded(
    how: Callable[..., Record], subject: Path, image: Path | None, name: str, out: Path | None
) -> tuple[Path, Record]:
    """One measurement in a fresh process, and where its record lies."""
    from edgeseg import schema
    from edgeseg.provenance import now
    from edgeseg.runtimes import record as records
    from edgeseg.runtimes.measure import Failed

    evidence = subject / "evidence" / "01-image.jpg"
    picture = image or (evidence if evidence.exists() else None)
    name = f"{name}-{now().replace(':', '').replace('+0000', '')}"
    taken = len(list((subject / "records").glob(f"{name}*.json")))  # two may begin within a second
    path = out or subject / "records" / f"{name}{f'-{taken + 1}' if taken else ''}.json"
    try:
        with progress(f"measuring {subject}", unit=False) as bar:
            result = how(subject, image=picture, progress=lambda share: bar(share, 1.0))
    except Failed as failed:
        raise InvalidMeasurement(f"{failed}; kept in {schema.write(path, failed.failure)}") from failed
    records.write(path, result)
    return path, result


def in_turns(subjects: list[Path], processes: int, once: Callable[[Path], tuple[Path, Record]], as_json: bool) -> None:
    """A record of each subject from each of so many fresh processes; every other round goes the other way, so that drift touches all alike."""
    from edgeseg import schema

    found: list[tuple[Path, Record]] = []
    for turn in range(processes):
        for subject in subjects if turn % 2 == 0 else reversed(subjects):
            path, record = once(subject)
            found.append((subject, record))
            say(f"{path}: p50 {record.latency.p50_ms:.3f} ms{''.join(f'; {why}' for why in record.reasons)}")
    rows = []
    for subject in dict.fromkeys(subjects):
        of = [record.latency.p50_ms for one, record in found if one == subject and record.valid]
        spread = f"{min(of):.3f} to {max(of):.3f} ms" if of else None
        rows.append((str(subject), f"{median(of):.3f} ms" if of else None, spread, len(of)))
    emit([schema.dump(record) for _, record in found], as_json, table("", ["", "p50", "processes", "valid"], rows))
    if bad := sum(not record.valid for _, record in found):
        raise InvalidMeasurement(f"{bad} of {len(found)} records are not to be quoted; their files say why")


def with_tool(
    name: str,
    subject: Path,
    threads: int,
    device: str,
    path: str | None,
    prepare: dict[str, str],
    cool: Cool | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """What a runtime's own benchmark says of an artifact."""
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.base import HOST
    from edgeseg.runtimes.tools.measured import measure_by_tool

    artifact = Artifact.open(subject)
    with progress(f"{name} measures {subject}", unit=False):
        measured = measure_by_tool(name, artifact, threads, device, path, prepare, cool, say)
    found = measured.result
    figures = found.figures
    shares = "".join(f", p{share} {value:.3f}" for share, value in figures.percentiles_ms.items())
    rows: list[tuple[str, object]] = [
        (
            "figures",
            "computed here, from its samples" if found.source == "samples" else "its own, rounded as it rounds",
        ),
        ("covers", found.covers),
        ("p50", None if figures.p50_ms is None else f"{figures.p50_ms:.3f} ms{shares}"),
        ("mean", None if figures.mean_ms is None else f"{figures.mean_ms:.3f} ms of {figures.count or 'unknown'} runs"),
        ("placed", ", ".join(f"{unit} {count}" for unit, count in (found.placed or {}).items()) or None),
        ("threads, precision", f"{found.threads or 'unknown'}, {found.precision or 'as the file has it'}"),
        *(("note", line) for line in measured.sensors.notes),
        *(("warning", line) for line in found.warnings),
        *(("not understood", line) for line in found.unread),
    ]
    if any(tier != HOST for tier in artifact.manifest.op_tiers.values()):
        rows.append(("note", "the tool has no operators of edgeseg: what stands for them in the file ran"))
    where = f"{subject} on {measured.device.name}, {name} {found.version or ''}"
    emit(schema.dump(measured), as_json, table(where, ["", ""], rows))
    if out:
        schema.write(out, measured)
    if not measured.valid:
        raise InvalidMeasurement(f"not to be quoted: {'; '.join(measured.reasons)}")


def record_table(record: Record) -> Table:
    """A record for people: figures in ms, from the samples."""
    latency, execution = record.latency, record.execution
    rows: list[tuple[str, object]] = [
        (
            "executed by",
            f"{execution.runtime} {execution.version}, {execution.threads} threads, {execution.precision or 'precision unknown'}",
        ),
        ("p50", f"{latency.p50_ms:.3f} ms ({latency.p50_low_ms:.3f} to {latency.p50_high_ms:.3f})"),
        ("p90", _p90(latency.p90_ms, latency.p90_upper_ms)),
        ("sustained", f"{latency.sustained_fps:.2f} FPS over {latency.wall_s:.1f} s, {latency.count} samples"),
        ("load, first inference", f"{record.load_ms:.1f} ms, {record.first_ms:.1f} ms"),
        ("peak memory", None if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 2**20:.0f} MiB"),
        (
            "A/A gap",
            f"{100 * record.noise.gap:+.2f} % ({100 * record.noise.low:+.2f} to {100 * record.noise.high:+.2f})",
        ),
    ]
    if record.provenance == "simulated":
        rows.insert(0, ("simulated", "these are times of no device, and nothing to quote"))
    rows += [(f"  {half.name}", f"p50 {half.p50_ms:.3f} ms") for half in record.halves or []]
    rows += _asked(record)
    if record.e2e is not None:
        rows.append(("end to end", f"p50 {record.e2e.p50_ms:.3f} ms, {record.e2e.sustained_fps:.2f} FPS"))
        rows += [(f"  {stage.name}", f"p50 {stage.p50_ms:.3f} ms") for stage in record.stages or []]
    return table(f"{record.subject.path} on {record.device.name}, {record.protocol.name}", ["", ""], rows)


def _asked(record: Record) -> list[tuple[str, object]]:
    """What the protocol and the device's sensors say beyond a latency."""
    rows: list[tuple[str, object]] = []
    if (held := record.sustained) is not None:
        how = f"{held.fps:.2f} FPS since {held.since_s:.0f} s, {held.kept:.0%} of the first stretch"
        rows.append((held.finding, f"{how}, {len(held.changes_s)} changes"))
    if (seen := record.camera) is not None:
        rows.append(("camera", f"{seen.fps:g} FPS, {seen.dropped} of {seen.frames} frames dropped"))
        rows.append(
            ("age of a frame", f"p50 {seen.age_p50_ms:.3f} ms, p90 {_p90(seen.age_p90_ms, seen.age_p90_upper_ms)}")
        )
    if (streams := record.protocol.streams) is not None:
        at_once = f"{streams} sessions at once, {record.execution.threads} threads each"
        rows.append(("throughput", f"{record.latency.sustained_fps:.2f} FPS of {at_once}"))
    if (cold := record.cold_start) is not None:
        times = (
            f"load {cold.load_ms:.1f} ms, first {cold.first_ms:.1f} ms, from the start of Python {cold.ready_ms:.0f} ms"
        )
        rows.append(("cold start", f"{times}; medians of {cold.processes} processes"))
    if record.energy_mj is not None:
        rows.append(("energy of a frame", f"{record.energy_mj:.2f} mJ above idle ({record.energy_source})"))
    return rows + [("note", line) for line in (record.sensors.notes if record.sensors else [])]


def _p90(value: float | None, upper: float | None) -> str:
    if value is None or upper is None:
        return "needs 64 samples"
    return f"{value:.3f} ms, at most {upper:.3f} (99 % early-stopping bound)"


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RECORD|ARTIFACT|RUN")],
    others: Annotated[list[Path], typer.Argument(metavar="RECORD|ARTIFACT|RUN...")],
    device: Annotated[str, typer.Option("-d", "--device", help="For artifacts: where, as for bench.")] = "local",
    threads: Annotated[int, typer.Option(min=1, help="For artifacts and runs.")] = 1,
    pairs: Annotated[int, typer.Option(min=3, help="For artifacts and runs: interleaved pairs of bursts.")] = 12,
    cool: Cooling = "",
    as_json: Json = False,
) -> None:
    """Is the second faster, slower, equivalent (within 2 %), or is it inconclusive? And each further one against the first?

    Records are compared as they were stored; artifacts are measured now, in turns, which is the better evidence, here or on a device.
    Two folders of records are two releases: records of the same device, student, target, precision and protocol are paired, and
    the exit code is 4 where the second is slower, 6 where that cannot be said.

    Example: edgeseg compare out/cam/onnxruntime out/cam/openvino --threads 2
    """
    from edgeseg import schema
    from edgeseg.runtimes.compare import compare_in_turns
    from edgeseg.runtimes.devices.cool import parse as parse_cool
    from edgeseg.runtimes.releases import compare_stored

    cooling = parse_cool(cool)
    if any(holds_records(folder) for folder in (first, *others)):
        if len(others) > 1 or device != "local" or cooling:
            raise EdgesegError("two folders of records are two releases; name two, without -d and --cool")
        of_releases(first, others[0], as_json)
    if len({path.is_file() for path in (first, *others)}) > 1:
        raise EdgesegError("compare takes records or folders, not some of each")
    if first.is_file():
        if device != "local":
            raise EdgesegError(f"records are of where they were measured; leave -d {device} out, or name artifacts")
        if cooling:
            raise EdgesegError("records are of when they were measured; leave --cool out, or name artifacts")
        found = [compare_stored([record_in(first)], [record_in(other)]) for other in others]
    else:
        for folder in (first, *others):
            is_artifact(folder)
        with progress("measuring in turns", unit=False) as bar:
            found = compare_in_turns(
                first,
                others,
                pairs=pairs,
                threads=threads,
                progress=lambda share: bar(share, 1.0),
                device=device,
                cool=cooling,
                tell=say,
            )
    documents = [schema.dump(one) for one in found]
    sentences = [_sentence(first, other, one) for other, one in zip(others, found, strict=True)]
    emit(documents if len(documents) > 1 else documents[0], as_json, *sentences)
    for other, one in zip(others, found, strict=True):
        for line in one.why[
            one.ratio is None :
        ]:  # the first reason of those that cannot be compared is the error below
            say(f"{other}: {line}" if len(found) > 1 else line)
    if refused := [one for one in found if one.ratio is None]:
        raise InvalidMeasurement(f"they cannot be compared: {'; '.join(refused[0].why)}")


def _sentence(first: Path, other: Path, found: Comparison) -> Text:
    """What was found, and how far the first differs from itself."""
    if found.ratio is None:
        return Text(f"{other} against {first}: {found.verdict}")
    share = f"{found.ratio:.3f} of the time of {first} ({found.low:.3f} to {found.high:.3f})"
    sentence = Text.assemble(f"{other} is ", (found.verdict, "bold"), f": {share}")
    if found.noise is None:
        return sentence
    low, high = (100 * math.expm1(value) for value in (found.noise.low, found.noise.high))
    return sentence.append(f"\nthe first against itself: {low:+.1f} to {high:+.1f} %")
