"""`edgeseg records submit|check|table`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, app, emit, say, show
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.community import Proof
    from edgeseg.runtimes.record import Record

records = typer.Typer(help="The community's table of measurements: add to it, check it, show it.", no_args_is_help=True)
app.add_typer(records, name="records")


@records.command("submit")
def submit(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="What `edgeseg bench` wrote.")],
    artifact: Annotated[Path, typer.Option(help="The artifact that it is about.")],
    by: Annotated[str, typer.Option(help="Who measured: a name or a handle.")],
    to: Annotated[Path, typer.Option(help="The table, e.g. benchmarks/results.")],
    as_json: Json = False,
) -> None:
    """Write a measurement as others may see it: with its proof, without names of machines and users, paths and boot.

    Example: edgeseg records submit bench.json --artifact out/cam/openvino --by ada --to benchmarks/results
    """
    from edgeseg.community import proof_of
    from edgeseg.runtimes.record import read

    path = handed_in(read(record), proof_of(artifact), by, to)
    emit({"submission": str(path)}, as_json, f"{path}\nlook through it, then open a pull request that adds it")


def provable(subject: Path, submit: Path | None, by: str, tool: str | None) -> Proof | None:
    """The proof of what is to be measured for the table; null where it is not."""
    if submit is None and by:
        raise EdgesegError("--by goes with --submit, the table that the measurement is for")
    if submit is None:
        return None
    if tool:
        raise EdgesegError(f"{tool} makes figures of its own and no record; leave --submit out, or --tool")
    if not by:
        raise EdgesegError("--submit needs --by: who measured, as the table is to call them")
    from edgeseg.community import proof_of

    return proof_of(subject)


def handed_in(record: Record, proof: Proof, by: str, to: Path) -> Path:
    """The file of a submission, written."""
    from edgeseg import schema
    from edgeseg.community import file_in, submission

    made = submission(record, proof, by)
    return schema.write(file_in(to, made), made)


@records.command("check")
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="TABLE|FILE...")],
    as_json: Json = False,
) -> None:
    """Hold every submission to the table's rules: measured, valid, proven, nothing private, every figure as its samples say.

    Ends with 6 where one is refused.

    Example: edgeseg records check benchmarks/results
    """
    from edgeseg.community import check_file, check_table
    from edgeseg.errors import InvalidMeasurement

    if lost := [path for path in paths if not path.exists()]:
        raise EdgesegError(f"{lost[0]} does not exist")
    found: list[tuple[Path, list[str]]] = []
    for path in paths:
        found += check_table(path) if path.is_dir() else [(path, check_file(path))]
    document = [{"file": str(path), "refused": wrong} for path, wrong in found]
    bad = [(path, wrong) for path, wrong in found if wrong]
    emit(document, as_json, f"{len(found)} submissions, {len(bad)} refused")
    for path, wrong in bad if not as_json else []:
        for line in wrong:
            say(line, f"{path}:", "red", show)
    if bad:
        raise InvalidMeasurement(f"{len(bad)} of {len(found)} submissions are not for the table")


@records.command("table")
def table(
    folder: Annotated[Path, typer.Argument(metavar="TABLE", help="The folder with a folder for each device.")],
    out: Annotated[
        list[Path],
        typer.Option("-o", "--out", help="What to write: a page (.html), Markdown (.md); as often as wanted."),
    ],
    as_json: Json = False,
) -> None:
    """The table as a page that needs no network, as Markdown, or both. It is made of checked submissions or not at all.

    Example: edgeseg records table benchmarks/results -o devices.html -o devices.md
    """
    from edgeseg.community import check_table, markdown, read_submission
    from edgeseg.files import write_text
    from edgeseg.report.devices import render_devices

    makers = {".html": render_devices, ".md": markdown}
    for path in out:
        if path.suffix not in makers:
            raise EdgesegError(f"{path} is neither a page (.html) nor Markdown (.md)")
    found = check_table(folder)
    for path, wrong in found:
        if wrong:
            raise EdgesegError(f"{path}: {wrong[0]}; `edgeseg records check {folder}` says all that is wrong")
    if not found:
        raise EdgesegError(f"{folder} has no submission in a device's folder yet; `edgeseg bench --submit` makes one")
    made = [read_submission(path) for path, _ in found]
    for path in out:
        write_text(path, makers[path.suffix](made))
    emit({"written": [str(path) for path in out], "submissions": len(made)}, as_json, *map(str, out))
