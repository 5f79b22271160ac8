"""Everything a folder says about students: runs, artifacts, measurements and evaluations, linked by SHA-256, and searches.

A file is taken for what it says it is, wherever it lies:
    manifest.json                    an artifact
    *.json with kind "run"           a run
    *.json with kind "measurement"   a record
    *.json with kind "failure"       a measurement that came to nothing
    *.json with kind "evaluation"    an evaluation
    *.json with kind "search"        what was tried before an artifact was put in place
Other JSON is none of our business. What cannot be read is one line in `problems`, and the rest is still read.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.files import inside, read_json, sha256
from edgeseg.manifest import Manifest
from edgeseg.metrics import AnyEvaluation, Evaluation, PromptEvaluation, unpack_confusions
from edgeseg.quantize.findings import PICTURES, SUFFIX, Search
from edgeseg.runs import RunCard, read_card
from edgeseg.runtimes.record import Failure, Record, Samples


@dataclass(frozen=True)
class StoredRun:
    """A training result as it lies on disk; `folder` is relative to the scanned folder."""

    folder: str
    card: RunCard


@dataclass(frozen=True)
class StoredArtifact:
    """An exported folder as it lies on disk. `damage` says which files are not those of the manifest."""

    path: Path
    folder: str
    manifest: Manifest
    damage: list[str] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        """What records and evaluations call this artifact: the SHA-256 of its model file."""
        return self.manifest.sha256

    @property
    def target(self) -> str:
        """The deployment format, e.g. `onnxruntime`."""
        return str(self.manifest.target.get("name", "unknown target"))


@dataclass(frozen=True)
class StoredSearch:
    """A search as it lies on disk; `name` is that of the artifact it was for, relative to the scanned folder."""

    path: Path
    name: str
    found: Search

    @property
    def pictures(self) -> Path:
        """The folder that the pictures of its blocks are in."""
        return self.path.with_name(f"{self.path.name.removesuffix(SUFFIX)}{PICTURES}")


@dataclass
class Results:
    """What was found in a folder, each list in the order of the paths."""

    folder: Path
    runs: list[StoredRun] = field(default_factory=list)
    artifacts: list[StoredArtifact] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    evaluations: list[AnyEvaluation] = field(default_factory=list)
    searches: list[StoredSearch] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unread: int = 0

    def run_of(self, artifact: StoredArtifact) -> StoredRun | None:
        """The run an artifact was made from, if it is here."""
        return next((run for run in self.runs if run.card.sha256 == artifact.manifest.source.sha256), None)

    def records_of(self, digest: str | None) -> list[Record]:
        """The measurements of a model file, newest last; those of protocols that a verdict is not about are left out."""
        own = (r for r in self.records if digest and r.subject.sha256 == digest and r.protocol.back_to_back)
        return sorted(own, key=lambda r: r.created)

    def evaluations_of(self, digest: str | None) -> list[AnyEvaluation]:
        """The evaluations of a model file that were measured, newest last."""
        own = (e for e in self.evaluations if digest and e.sha256 == digest and e.provenance == "measured")
        return sorted(own, key=lambda e: e.created)


def collect(folder: Path) -> Results:
    """Read everything below `folder`.

    Raises:
        EdgesegError: there is no such folder.
    """
    if not folder.is_dir():
        raise EdgesegError(f"{folder} is not a folder; give the one that holds runs, artifacts and records")
    results = Results(folder)
    for path in documents(folder):
        try:
            _take(results, path)
        except EdgesegError as error:
            results.problems.append(str(error).replace(f"{folder}{os.sep}", ""))
            results.unread += path.name == "manifest.json"
    results.problems.extend(_orphans(results))
    return results


def documents(folder: Path) -> Iterator[Path]:
    """The JSON files below `folder`; hidden folders are the half-written ones of `files.aside_folder`."""
    for path in sorted(folder.rglob("*.json")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file():
            yield path


def _take(results: Results, path: Path) -> None:
    document = read_json(path)
    relative = str(path.parent.relative_to(results.folder))
    if path.name == "manifest.json":
        manifest = schema.parse(Manifest, document, str(path))
        damage = list(_damage(path.parent, manifest))
        results.artifacts.append(StoredArtifact(path.parent, relative, manifest, damage))
        results.problems.extend(f"{relative}: {line}" for line in damage)
    elif isinstance(document, dict) and document.get("kind") == "run":
        results.runs.append(StoredRun(relative, read_card(path.parent)))
    elif isinstance(document, dict) and document.get("kind") == "measurement":
        results.records.append(parse_record(document, str(path)))
    elif isinstance(document, dict) and document.get("kind") == "failure":
        results.failures.append(schema.parse(Failure, document, str(path)))
    elif isinstance(document, dict) and document.get("kind") == "evaluation":
        results.evaluations.append(parse_evaluation(document, str(path)))
    elif isinstance(document, dict) and document.get("kind") == "prompt_evaluation":
        results.evaluations.append(_prompt_evaluation(document, str(path)))
    elif isinstance(document, dict) and document.get("kind") == "search":
        name = str(path.relative_to(results.folder)).removesuffix(SUFFIX)
        results.searches.append(StoredSearch(path, name, _search(document, str(path))))


def parse_record(document: Any, where: str) -> Record:
    """A record whose samples can be unpacked and whose figures are numbers."""
    record = schema.parse(Record, document, where)
    try:
        times = [samples.unpack()[1] for samples in (record.samples, record.warmup, *_more_samples(record))]
    except EdgesegError as error:
        raise EdgesegError(f"{where}: {error}") from error
    asked = list(_asked(record))
    if (
        any((part <= 0).any() for part in times)
        or not _numbers([record.energy_mj, *vars(record.latency).values(), *asked])
        or not all(value > 0 for value in asked)
    ):
        raise EdgesegError(f"{where}: a time is zero, negative or not a number; measure again")
    return record


def _more_samples(record: Record) -> Iterator[Samples]:
    yield from (stage.samples for stage in [*(record.stages or []), *(record.halves or [])])
    if record.camera is not None:
        yield record.camera.ages


def _asked(record: Record) -> Iterator[float]:
    """The figures of what a protocol asks beyond a latency; all of them are above 0."""
    if record.sustained is not None:
        yield from (record.sustained.fps, record.sustained.kept, len(record.segments))
        yield from (segment.fps for segment in record.segments)
    if (seen := record.camera) is not None:
        yield from (seen.fps, seen.frames, seen.ages.count, seen.age_p50_ms, seen.age_max_ms)
    if (cold := record.cold_start) is not None:
        yield from (cold.processes, cold.load_ms, cold.first_ms, cold.ready_ms, len(cold.loads_ms))
        yield from (*cold.loads_ms, *cold.firsts_ms, *cold.readies_ms)


def parse_evaluation(document: Any, where: str) -> Evaluation:
    """An evaluation whose confusion matrices can be unpacked and whose figures are numbers."""
    evaluation = schema.parse(Evaluation, document, where)
    classes, score = len(evaluation.class_names), evaluation.score
    try:
        images = len(unpack_confusions(evaluation.confusions, classes))
    except (ValueError, zlib.error) as error:
        raise EdgesegError(f"{where}: the confusion matrices are damaged ({error}); evaluate again") from error
    if len(score.iou) != classes or score.images != images or not _numbers([score.miou, *score.iou]):
        raise EdgesegError(f"{where}: the score does not fit its {images} confusion matrices; evaluate again")
    return evaluation


def _prompt_evaluation(document: Any, where: str) -> PromptEvaluation:
    """An evaluation whose objects are those of its score."""
    evaluation = schema.parse(PromptEvaluation, document, where)
    ious = [value for row in evaluation.objects for value in (*row.ious[:1], row.box)]
    if len(ious) != 2 * evaluation.score.objects or not ious or not _numbers([evaluation.score.miou, *ious]):
        raise EdgesegError(f"{where}: the score does not fit its {len(evaluation.objects)} objects; evaluate again")
    return evaluation


def _search(document: Any, where: str) -> Search:
    """A search whose figures are numbers, whose times and sizes are positive, and whose answer is one of its trials."""
    found = schema.parse(Search, document, where)
    times = [time for trial in found.trials if (time := trial.time)]
    drops = [drop for trial in found.trials if (drop := trial.drop)]
    positive = [
        found.budget_ms,
        *(value for time in times for value in (time.p50_ms, time.ratio, time.low, time.high)),
        *(trial.megabytes for trial in found.trials),
    ]
    not_negative = [
        found.max_drop,
        found.seconds,
        *(trial.miou for trial in found.trials),
        *(drop.images for drop in drops),
        *(block.changed for block in found.sensitivity),
    ]
    others = [
        *(value for drop in drops for value in (drop.points, drop.low, drop.high)),
        *(value for block in found.sensitivity for value in (block.drop, block.boundary)),
    ]
    if (
        not _numbers([*positive, *not_negative, *others])
        or not all(value > 0 for value in positive if value is not None)
        or not all(value >= 0 for value in not_negative if value is not None)
    ):
        raise EdgesegError(f"{where}: a figure of the search is negative, zero or not a number; search again")
    if found.chosen is not None and found.chosen not in [trial.number for trial in found.trials]:
        raise EdgesegError(f"{where}: trial {found.chosen} was chosen, but is not there; search again")
    return found


def _numbers(values: Iterable[float | None]) -> bool:
    return all(value is None or math.isfinite(value) for value in values)


def _orphans(results: Results) -> Iterator[str]:
    """One line per result that cannot be shown, because what it is about is not here."""
    here = {run.card.sha256 for run in results.runs} | {artifact.sha256 for artifact in results.artifacts}
    sources = {artifact.manifest.source.sha256 for artifact in results.artifacts}
    again = "belongs to no run or artifact in this folder; was that exported or trained again since?"
    for record in results.records:
        if record.subject.sha256 not in here:
            yield f"the measurement of {record.subject.path} at {record.created} {again}"
    for evaluation in results.evaluations:
        if evaluation.sha256 not in here | sources:
            yield f"the evaluation of {evaluation.subject} at {evaluation.created} {again}"


def _damage(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One line per file of the manifest that is missing, changed, or outside the artifact's folder."""
    if not manifest.files:
        yield "the manifest lists no file; export again"
    for entry in manifest.files:
        try:
            path = inside(folder, entry.path)
            changed = not path.is_file() or _digest(path) != entry.sha256
        except EdgesegError as error:
            yield str(error)
            continue
        if changed:
            what = "has changed since the export (SHA-256 differs)" if path.is_file() else "is missing"
            yield f"{entry.path} {what}; export again"


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror or error}") from error
