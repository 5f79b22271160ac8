"""A record made fit for others to see: with the proof of what ran, without what is nobody's business."""

from __future__ import annotations

import getpass
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError
from edgeseg.ledger import Ledger
from edgeseg.manifest import Accuracy
from edgeseg.runtimes.record import Device, Record, Sensors
from edgeseg.runtimes.telemetry.reading import Flag, Reading
from edgeseg.schema import STRICT

SCHEMA = 1

PLACE = re.compile(r"(?<![\w.\\-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"\[\],;]+[/\\])+")
"""The folders of an absolute path, home or drive in front."""


@dataclass(frozen=True)
class Proof:
    """Why the masks were right when it was that fast, from the artifact's manifest.

    sha256:     of the model file that was proven; `run_sha256` that of the weights it was made from.
    precision:  what the runtime executed when the ledger was written.
    """

    __pydantic_config__ = STRICT
    sha256: str
    run_sha256: str | None
    target: dict[str, Any]
    precision: str | None
    tools: dict[str, str]
    op_tiers: dict[str, str]
    ledger: Ledger
    accuracy: Accuracy | None


@dataclass(frozen=True)
class Submission:
    """One measurement for the table, one JSON file; `by` is who measured, as they want to be called."""

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["submission"]
    by: str
    record: Record
    proof: Proof


def proof_of(folder: Path) -> Proof:
    """The proof that an artifact carries.

    Raises:
        EdgesegError: it is no artifact, its files were changed, or its masks were never compared.
    """
    if not (folder / "manifest.json").exists():
        raise EdgesegError(f"{folder} is no artifact: only what was exported and verified is for the table")
    manifest = Artifact.open(folder).manifest
    if manifest.ledger is None or not manifest.ledger.passed:
        state = "was never verified" if manifest.ledger is None else "did not pass its proof"
        raise EdgesegError(f"{folder} {state}; run `edgeseg verify {folder}` first")
    ledger = replace(manifest.ledger, data=_kind_of_data(manifest.ledger.data))
    accuracy = manifest.accuracy and replace(manifest.accuracy, data=_kind_of_data(manifest.accuracy.data))
    return Proof(
        sha256=manifest.sha256,
        run_sha256=manifest.source.sha256,
        target={
            name: _scrubbed(value, set()) if isinstance(value, str) else value
            for name, value in manifest.target.items()
        },
        precision=manifest.precision.executed,
        tools=manifest.tools,
        op_tiers=manifest.op_tiers,
        ledger=ledger,
        accuracy=accuracy,
    )


def submission(record: Record, proof: Proof, by: str) -> Submission:
    """The record as it is, without names of machines and people, paths, and what tells one board from another of its kind.

    Raises:
        EdgesegError: it is not for the table; the message has every reason.
    """
    from edgeseg.community.check import refusals

    made = Submission(SCHEMA, "submission", by.strip(), _public(record), proof)
    if found := refusals(made):
        raise EdgesegError(f"not for the table: {'; '.join(found)}")
    return made


def file_in(table: Path, made: Submission) -> Path:
    """Where a submission lies in a table: the device's folder, and a name that says what was measured."""
    record = made.record
    what = f"{record.subject.student} {record.subject.target} {record.subject.precision} t{record.execution.threads}"
    when = re.sub(r"\D", "", record.created)[:14]
    return table / slug(record.device.name) / f"{slug(f'{what} {record.protocol.name} {when}')}.json"


def slug(text: str) -> str:
    """A text as a name of a file: small letters, digits, dots, and one hyphen for all that lies between."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")


def _kind_of_data(spec: str) -> str:
    """`camvid:/home/me/camvid[held]` as `camvid[held]`."""
    kind, _, rest = spec.partition(":")
    split = re.search(r"\s*\[[^\[\]]*\]$", rest)
    return kind + (split[0] if split else "")


def _public(record: Record) -> Record:
    names = _names(record.device)
    subject, device = record.subject, record.device
    return replace(
        record,
        subject=replace(subject, path=f"{subject.student}-{subject.target}-{subject.precision}"),
        device=replace(
            device,
            name=device.model or device.cpu or "",
            address=device.kind,
            boot_id=None,
            system=_scrubbed(device.system, names),
        ),
        execution=replace(
            record.execution,
            settings={name: _scrubbed(value, names) for name, value in record.execution.settings.items()},
        ),
        sensors=_sensors(record.sensors, names) if record.sensors else None,
    )


def _names(device: Device) -> set[str]:
    """What this machine, the device and their users are called."""
    address = urlsplit(device.address)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = ""
    return {device.name, platform.node(), user, address.username or "", address.hostname or ""} - {"", "local"}


def _scrubbed(text: str, names: set[str]) -> str:
    """Paths by their last part, and no name."""
    text = PLACE.sub("", text)
    return re.sub(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b", "(name)", text) if names else text


def _sensors(sensors: Sensors, names: set[str]) -> Sensors:
    """The clock from 0: since when a machine is on is its own affair."""
    begin = sensors.before.time_s

    def public(reading: Reading) -> Reading:
        flags: dict[str, Flag] = {
            name: _scrubbed(flag, names) if isinstance(flag, str) else flag for name, flag in reading.flags.items()
        }
        return replace(reading, time_s=reading.time_s - begin, flags=flags)

    notes = [_scrubbed(note, names) for note in sensors.notes]
    during = [replace(public(reading), time_s=reading.time_s) for reading in sensors.during]  # from 0 as it is
    return Sensors(public(sensors.before), public(sensors.after), notes, during)
