"""Do it again: export a manifest's artifact or measure a record's subject once more, and say what is different now."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import export_model, from_options
from edgeseg.files import read_json
from edgeseg.quantize.document import read
from edgeseg.runs import load_run
from edgeseg.runtimes.compare import Comparison, compare_records
from edgeseg.runtimes.measure import job, measure
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from edgeseg.runtimes.measure import Progress
    from edgeseg.runtimes.record import Record


@dataclass(frozen=True)
class ExportDrift:
    """A second export against the first. `files` names those whose bytes differ; `tools` those with another version."""

    __pydantic_config__ = STRICT
    files: list[str]
    tools: list[str]
    same_label: float
    passed: bool


def replay_export(artifact: Artifact, run: Path, data: Data | None) -> ExportDrift:
    """Export the artifact's run again with the same options and compare files, tools and masks."""
    manifest = artifact.manifest
    target = from_options(manifest.target, str(artifact.folder))
    with tempfile.TemporaryDirectory() as folder:
        student = load_run(run)
        out = Path(folder) / "again"
        again = export_model(
            student,
            target,
            out,
            artifact.size,
            manifest.input.baked,
            manifest.source,
            data,
            quantization=read(artifact.folder),
            calibration=manifest.calibration,
        )
        fresh = again.manifest
    if fresh.ledger is None:
        raise EdgesegError(f"the second export of {artifact.folder} has no ledger")
    old = {entry.path: entry.sha256 for entry in manifest.files}
    new = {entry.path: entry.sha256 for entry in fresh.files}
    names = sorted(manifest.tools.keys() | fresh.tools.keys())
    return ExportDrift(
        files=sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)),
        tools=[
            f"{name} {manifest.tools.get(name, 'absent')} -> {fresh.tools.get(name, 'absent')}"
            for name in names
            if manifest.tools.get(name) != fresh.tools.get(name)
        ],
        same_label=min(hop.same_label for hop in fresh.ledger.hops),
        passed=fresh.ledger.passed,
    )


def replay_record(record: Record, progress: Progress | None = None) -> tuple[Record, Comparison]:
    """Measure the record's subject again under the same protocol, and compare the two."""
    subject = Path(record.subject.path)
    if not subject.exists():
        raise EdgesegError(f"{subject}, which the record is about, is not there; run replay from where it was measured")
    now = job(subject).subject
    if now.sha256 != record.subject.sha256:
        raise EdgesegError(
            f"{subject} is not what the record measured (SHA-256 differs); it was exported or trained again"
        )
    evidence = subject / "evidence" / "01-image.jpg"
    height, width = record.subject.input_shape[2:]
    again = measure(
        subject,
        protocol=record.protocol,
        threads=record.execution.threads,
        e2e=record.e2e is not None,
        image=evidence if evidence.exists() else None,
        size=(height, width) if record.subject.target == "torch" else None,  # an artifact has one
        progress=progress,
        device=record.device.address,
        prepare=record.device.prepared,
    )
    return again, compare_records(record, again)


def kind_of(path: Path) -> str:
    """`manifest` or `measurement`."""
    if path.is_dir():
        return "manifest"
    document = read_json(path)
    if isinstance(document, dict) and document.get("kind") == "measurement":
        return "measurement"
    if path.name == "manifest.json":
        return "manifest"
    raise EdgesegError(f"{path} is neither a manifest.json nor a record of a measurement")


def drift_lines(drift: ExportDrift) -> list[str]:
    """What a person wants to know."""
    files = f"files that differ: {', '.join(drift.files)}" if drift.files else "the files are the same to the byte"
    tools = f"tools that differ: {', '.join(drift.tools)}" if drift.tools else "the tools are the same"
    return [files, tools, f"masks: {100 * drift.same_label:.4f} % of the pixels keep the label of the run"]
