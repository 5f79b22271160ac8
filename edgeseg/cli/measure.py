"""`edgeseg bench` and `edgeseg compare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, plain, progress, table, talk
from edgeseg.cli.records import handed_in, provable
from edgeseg.cli.releases import holds_records, of_releases, record_in
from edgeseg.errors import EdgesegError, InvalidMeasurement

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.runtimes.record import Record


@app.command()
def bench(
    subject: Annotated[Path, typer.Argument(metavar="ARTIFACT|RUN")],
    device: Annotated[
        str,
        typer.Option("-d", "--device", help="local, ssh://user@host[:port], or a name from `edgeseg devices list`."),
    ] = "local",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    protocol: Annotated[
        str,
        typer.Option(help="quick, mlperf-mobile, sustained:10m, camera:30, cold-start, or smoke (no figure to quote)"),
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
    as_json: Json = False,
) -> None:
    """Measure an artifact, or a run in eager PyTorch, in a fresh process; every sample is kept.

    Over ssh an artifact is measured by an agent that is sent along; the device needs Python 3.8, NumPy and the runtime.

    Example: edgeseg bench out/cam/openvino --threads 2 --protocol quick --e2e
    """
    from edgeseg import schema
    from edgeseg.provenance import now
    from edgeseg.runtimes import record as records
    from edgeseg.runtimes.measure import Failed, measure
    from edgeseg.runtimes.protocol import parse

    proof = provable(subject, submit, by, tool)  # before the time is spent
    if is_artifact(subject) and tool:
        if device != "local":
            raise EdgesegError(f"{tool} is run on local only; leave -d {device} out, or --tool")
        with_tool(tool, subject, threads, as_json)
        return
    if tool:
        raise EdgesegError(f"{subject} is a run; export it, {tool} runs what was exported")
    evidence = subject / "evidence" / "01-image.jpg"
    picture = image or (evidence if evidence.exists() else None)
    place = re.sub(r"[^\w.@-]+", "-", device)
    begun = now().replace(":", "").replace("+0000", "")
    path = out or subject / "records" / f"{place}-t{threads}-{protocol.replace(':', '-')}-{begun}.json"
    try:
        with progress(f"measuring {subject}", unit=False) as bar:
            result = measure(
                subject,
                protocol=parse(protocol),
                threads=threads,
                e2e=e2e,
                image=picture,
                size=parse_size(size),
                progress=lambda share: bar(share, 1.0),
                device=device,
            )
    except Failed as failed:
        raise InvalidMeasurement(f"{failed}; kept in {schema.write(path, failed.failure)}") from failed
    records.write(path, result)
    emit(schema.dump(result), as_json, record_table(result), str(path))
    if not result.valid:
        raise InvalidMeasurement(f"not to be quoted: {'; '.join(result.reasons)}")
    if submit and proof:
        talk.print(f"for the table: {handed_in(result, proof, by, submit)}", markup=False, soft_wrap=True)


def with_tool(name: str, subject: Path, threads: int, as_json: bool) -> None:
    """What a runtime's own benchmark says of an artifact."""
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.runtimes.base import HOST
    from edgeseg.runtimes.tools.here import measure_with

    artifact = Artifact.open(subject)
    with progress(f"{name} measures {subject}", unit=False):
        found = measure_with(name, artifact, threads)
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
        ("threads, precision", f"{found.threads or 'unknown'}, {found.precision or 'as the file has it'}"),
        *(("warning", plain(line)) for line in found.warnings),
        *(("not understood", plain(line)) for line in found.unread),
    ]
    if any(tier != HOST for tier in artifact.manifest.op_tiers.values()):
        rows.append(("note", "the tool has no operators of edgeseg: what stands for them in the file ran"))
    emit(schema.dump(found), as_json, table(f"{subject}, {name} {found.version or ''}", ["", ""], rows))


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
    second: Annotated[Path, typer.Argument(metavar="RECORD|ARTIFACT|RUN")],
    threads: Annotated[int, typer.Option(min=1, help="For artifacts and runs.")] = 1,
    pairs: Annotated[int, typer.Option(min=3, help="For artifacts and runs: interleaved pairs of bursts.")] = 12,
    as_json: Json = False,
) -> None:
    """Is the second faster, slower, equivalent (within 2 %), or is it inconclusive?

    Two records are compared as they were stored; two artifacts are measured now, in turns, which is the better evidence.
    Two folders of records are two releases: records of the same device, student, target, precision and protocol are paired, and
    the exit code is 4 where the second is slower, 6 where that cannot be said.

    Example: edgeseg compare out/cam/onnxruntime out/cam/openvino --threads 2
    """
    from edgeseg import schema
    from edgeseg.runtimes.compare import compare_paired
    from edgeseg.runtimes.releases import compare_stored

    if holds_records(first) or holds_records(second):
        of_releases(first, second, as_json)
    if first.is_file() != second.is_file():
        raise EdgesegError("compare takes two records or two folders, not one of each")
    if first.is_file():
        result = compare_stored([record_in(first)], [record_in(second)])
    else:
        for folder in (first, second):
            is_artifact(folder)
        with progress("measuring in turns", unit=False) as bar:
            result = compare_paired(first, second, pairs=pairs, threads=threads, progress=lambda share: bar(share, 1.0))
    if result.ratio is None:
        sentence = f"{second} against {first}: {result.verdict}"
    else:
        sentence = f"{second} is [bold]{result.verdict}[/]: {result.ratio:.3f} of the time of {first} ({result.low:.3f} to {result.high:.3f})"
    if result.noise is not None:
        low, high = (100 * (2.718281828**value - 1) for value in (result.noise.low, result.noise.high))
        sentence += f"\nthe first against itself: {low:+.1f} to {high:+.1f} %"
    emit(schema.dump(result), as_json, sentence)
    for line in result.why:
        talk.print(f"[yellow]note:[/] {line}", soft_wrap=True)
    if result.ratio is None:
        raise InvalidMeasurement(f"the two cannot be compared: {'; '.join(result.why)}")
