"""SHIP or DON'T SHIP: one verdict per artifact, device and thread count, from stored documents only.

An artifact ships when its masks are the student's masks (parity), it is not worse at the task than its run by more than
the allowed drop (accuracy), it meets the latency budget if there is one (budget), and its speed was really measured
(measurement). Every comparison is written so that NaN fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg.drops import ClassLoss, Drop, boundary_loss, class_loss, paired_drop, small_loss
from edgeseg.errors import AccuracyGate, BudgetExceeded, EdgesegError, InvalidMeasurement, ParityFailed
from edgeseg.ledger import Hop
from edgeseg.metrics import AnyEvaluation
from edgeseg.quantize.scheme import QUANTIZED
from edgeseg.results import Results, StoredArtifact
from edgeseg.runtimes.compare import Comparison, compare_records, compare_turns, refused
from edgeseg.runtimes.protocol import SMOKE
from edgeseg.runtimes.record import Record
from edgeseg.runtimes.statistics import ENOUGH, EQUIVALENT, percentile_lower

MAX_DROP = 0.5
"""Points of mIoU an artifact may lose by default."""

CODES: dict[str, int] = {
    "parity": ParityFailed.exit_code,
    "accuracy": AccuracyGate.exit_code,
    "budget": BudgetExceeded.exit_code,
    "measurement": InvalidMeasurement.exit_code,
}
"""What a reason is about -> the exit code it stands for; the lowest one counts."""

SPELLINGS = {
    "f32": "fp32",
    "float32": "fp32",
    "f16": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "i8": "int8",
    "u8": "int8",
}
"""A runtime's own word for a precision -> ours."""

BLOCK_NS = 250_000_000

APART = 0.03
"""What the times of two records of the same work may differ by: a process has a constant of its own, of about 1 % (standard
deviation), that no longer measurement removes. So two differ by 1.4 %, and this is twice that. Where `ENOUGH` processes of each
took turns, how they differ is measured, and counts instead."""

IN_TURNS = 10
"""Processes of each that settle what is 3 % from where it is decided in 997 of 1000 cases; 8 do so in 970."""


@dataclass(frozen=True)
class Reason:
    """Why an artifact does not ship; `code` is a key of `CODES`.

    sure: false where more of the same measurement could take the reason away.
    """

    code: str
    text: str
    sure: bool = True


@dataclass(frozen=True)
class TimesFloat:
    """The median of a quantized artifact over that of the float one in the same place, with its interval.

    processes: how many of each took turns; the interval is of 99 % then, and of 95 % of one record of each.
    """

    ratio: float
    low: float
    high: float
    processes: int = 1


@dataclass(frozen=True)
class Verdict:
    """One row; a figure that was never measured is null.

    artifact:    its folder, relative to the folder that was judged.
    decided:     false where it does not ship only because of what could still turn out well: measure more.
    miou:        percent, on `accuracy_on` (data and split), of a promptable student after one click; `drop` is against the run on the same images.
    same_label:  lowest share of pixels that keep their label, over all hops of the parity ledger, 0..1.
    worst_class: lowest IoU of a class between two label maps, over all hops, 0..1, and the name of that class.
    times_float: of a quantized artifact; `class_loss`, `boundary_loss` and `small_loss` (points of boundary F, and of the pixels of
                 small regions that keep their label) against the run.
    """

    artifact: str
    sha256: str
    student: str
    target: str
    precision_asked: str
    precision_executed: str | None
    device: str | None
    cpu: str | None
    threads: int | None
    provenance: str | None
    ship: bool
    reasons: list[Reason]
    notes: list[str]
    miou: float | None
    accuracy_on: str | None
    drop: Drop | None
    p50_ms: float | None
    p90_ms: float | None
    p90_upper_ms: float | None
    sustained_fps: float | None
    peak_memory_bytes: int | None
    file_bytes: int
    same_label: float | None
    worst_class: str | None
    worst_class_iou: float | None
    times_float: TimesFloat | None = None
    class_loss: ClassLoss | None = None
    boundary_loss: float | None = None
    small_loss: float | None = None
    decided: bool = True

    @property
    def losses(self) -> str:
        """What a mean over classes does not show, in points against the run; empty where it is not known."""
        parts = (
            [f"{self.class_loss.name} {round(-self.class_loss.points, 2) + 0.0:+.2f} (the worst class)"]
            if self.class_loss
            else []
        )
        named = {"boundary F": self.boundary_loss, "small regions": self.small_loss}
        return ", ".join(
            parts + [f"{name} {round(-lost, 2) + 0.0:+.2f}" for name, lost in named.items() if lost is not None]
        )


Row: TypeAlias = tuple[StoredArtifact, "Record | None"]
Said: TypeAlias = Iterator["Reason | str"]
"""What a check has to say: reasons not to ship, and notes in plain text."""


def judge(results: Results, *, max_drop: float = MAX_DROP, max_p90_ms: float | None = None) -> list[Verdict]:
    """The verdict of every row of `rows(results)`, in that order. Without `max_p90_ms` there is no latency gate."""
    return [_judge(results, artifact, record, max_drop, max_p90_ms) for artifact, record in rows(results)]


def rows(results: Results) -> list[Row]:
    """Each artifact with the record that counts on each device and thread count, or with none if it has none."""
    found: list[Row] = []
    for artifact in results.artifacts:
        records = counting(results.records_of(artifact.sha256))
        found.extend((artifact, record) for record in records)
        found.extend([] if records else [(artifact, None)])
    return found


def counting(records: list[Record]) -> list[Record]:
    """Of records in order of time: per device and thread count the newest usable one, else the newest."""
    chosen: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = _place(record)
        if usable(record) or key not in chosen or not usable(chosen[key]):
            chosen[key] = record
    return list(chosen.values())


def usable(record: Record) -> bool:
    """True for a record that may be quoted: measured here, for as long as a figure needs, valid, and made of numbers."""
    return (
        record.provenance == "measured"
        and record.protocol.name != SMOKE
        and record.valid
        and record.samples.count > 0
        and math.isfinite(record.latency.p50_ms)
    )


def exit_code(verdicts: list[Verdict]) -> int:
    """0 when everything ships, else the lowest code of all reasons; 1 when there was nothing to judge."""
    if not verdicts:
        return EdgesegError.exit_code
    return min((CODES[reason.code] for verdict in verdicts for reason in verdict.reasons), default=0)


def block_medians(record: Record) -> NDArray[np.float64]:
    """Medians in ms of the steady samples in blocks of 0.25 s `[blocks]`: a spike weighs no more than its block."""
    starts, durations = record.samples.unpack()
    edges = np.flatnonzero(np.diff(starts // BLOCK_NS)) + 1
    return np.array([np.median(block) / 1e6 for block in np.split(durations, edges)])


def _judge(
    results: Results, artifact: StoredArtifact, record: Record | None, max_drop: float, max_p90_ms: float | None
) -> Verdict:
    manifest, latency = artifact.manifest, record.latency if record else None
    evaluation, reference = _evaluations(results, artifact)
    drop = _drop(artifact, evaluation, reference)
    against = _against_float(results, artifact, record)
    said = [
        *_parity(artifact),
        *_accuracy(drop, max_drop),
        *(Reason("accuracy", doubt) for doubt in (manifest.calibration.doubts if manifest.calibration else [])),
        *_precision(artifact, record),
        *_budget(record, max_p90_ms),
        *_worth_it(artifact, record, against),
        *_elsewhere(artifact, record),
        *_measurement(artifact, record),
        *_history(results, artifact, record),
        *_comparison(results, artifact, record),
        *_to_blame(results, artifact, drop, max_drop),
    ]
    reasons = sorted((item for item in said if isinstance(item, Reason)), key=lambda reason: CODES[reason.code])
    hops = manifest.ledger.hops if manifest.ledger else []
    worst = min(hops, key=lambda hop: hop.worst_class_iou, default=None)
    return Verdict(
        artifact=artifact.folder,
        sha256=artifact.sha256,
        student=manifest.student.name,
        target=artifact.target,
        precision_asked=manifest.precision.asked,
        precision_executed=record.execution.precision if record else manifest.precision.executed,
        device=record.device.name if record else None,
        cpu=record.device.cpu if record else None,
        threads=record.execution.threads if record else None,
        provenance=record.provenance if record else None,
        ship=not reasons,
        decided=not reasons or any(reason.sure for reason in reasons),
        reasons=reasons,
        notes=[item for item in said if isinstance(item, str)],
        miou=_finite(evaluation.score.miou if evaluation else None),
        accuracy_on=f"{evaluation.data} [{evaluation.split}]" if evaluation else None,
        drop=drop if isinstance(drop, Drop) else None,
        p50_ms=_finite(latency.p50_ms if latency else None),
        p90_ms=_finite(latency.p90_ms if latency else None),
        p90_upper_ms=_finite(latency.p90_upper_ms if latency else None),
        sustained_fps=_finite(latency.sustained_fps if latency else None),
        peak_memory_bytes=record.peak_memory_bytes if record else None,
        file_bytes=sum(entry.bytes for entry in manifest.files),
        same_label=_finite(min((hop.same_label for hop in hops), default=None)),
        worst_class=worst.worst_class if worst else None,
        worst_class_iou=_finite(worst.worst_class_iou if worst else None),
        times_float=_times(against),
        class_loss=class_loss(evaluation, reference),
        boundary_loss=boundary_loss(evaluation, reference),
        small_loss=small_loss(evaluation, reference),
    )


def _parity(artifact: StoredArtifact) -> Said:
    for line in artifact.damage:
        yield Reason("parity", f"what was verified is not what lies here: {line}")
    ledger = artifact.manifest.ledger
    if ledger is None or not ledger.hops:
        yield Reason("parity", f"its masks were never compared with the run's; run `edgeseg verify {artifact.path}`")
        return
    for hop in ledger.hops:
        if not holds(hop):
            why = "; ".join(hop.reasons) or f"{hop.nonfinite} NaN or infinite values, or figures that are not numbers"
            yield Reason("parity", f"the masks change from {hop.name} ({hop.precision}, {hop.images} images): {why}")


def holds(hop: Hop) -> bool:
    """Whether a hop passed, by figures that are numbers."""
    figures = (hop.relative_rms, hop.max_error, hop.same_label, hop.boundary_f, hop.worst_class_iou)
    return hop.passed and hop.nonfinite == 0 and all(math.isfinite(x) for x in figures if x is not None)


def _evaluations(results: Results, artifact: StoredArtifact) -> tuple[AnyEvaluation | None, AnyEvaluation | None]:
    """The artifact's evaluation and its run's on the same data and split: a test split first, then the newest.

    A run that was trained on to bear quantization is judged by the float run that it was made from.
    """
    own = results.evaluations_of(artifact.sha256)
    floats = {(e.data, e.split): e for e in results.evaluations_of(_float_run(results, artifact))}
    best = max(own, key=lambda e: ((e.data, e.split) in floats, _reported(e), e.created), default=None)
    return best, floats.get((best.data, best.split)) if best else None


def _reported(evaluation: AnyEvaluation) -> bool:
    """Whether it is of the split that results are reported on, `test` where that was not written down."""
    return evaluation.split == "test" if evaluation.reports is None else evaluation.reports


def _drop(artifact: StoredArtifact, evaluation: AnyEvaluation | None, reference: AnyEvaluation | None) -> Drop | Reason:
    if evaluation is None:
        ask = f"edgeseg eval {artifact.path} --data DATA"
        return Reason("accuracy", f"its accuracy was never measured; run `{ask}`")
    if reference is None and artifact.manifest.source.sha256 is None:
        yet = "export it with `edgeseg export RUN`, or name its run to export_model (source)"
        return Reason("accuracy", f"it does not say which run it was made from, so its loss is not known; {yet}")
    if reference is None:
        ask = (
            f"edgeseg eval {artifact.manifest.source.run or 'RUN'} --data {evaluation.data} --split {evaluation.split}"
        )
        return Reason(
            "accuracy", f"the float run was not evaluated on {evaluation.data} [{evaluation.split}]; run `{ask}`"
        )
    try:
        return paired_drop(reference, evaluation)
    except EdgesegError as error:
        return Reason("accuracy", str(error))


def _accuracy(drop: Drop | Reason, max_drop: float) -> Said:
    if isinstance(drop, Reason):
        yield drop
        return
    interval = f"95 % interval {drop.low:+.2f} to {drop.high:+.2f}, {drop.images} images"
    if not drop.points <= max_drop:
        sure = drop.low > max_drop
        unsure = "" if sure else "; more images could change this"
        yield Reason(
            "accuracy",
            f"it loses {drop.points:.2f} points of mIoU ({interval}), more than the allowed {max_drop:.2f}{unsure}",
            sure,
        )
    elif not drop.high <= max_drop:
        yield (
            f"The drop in mIoU is {drop.points:.2f} points, but could be as large as {drop.high:.2f} ({interval}), "
            f"above the allowed {max_drop:.2f}: evaluate on more images to be sure"
        )


def _precision(artifact: StoredArtifact, record: Record | None) -> Said:
    if record is None:
        return
    asked = spelt(artifact.manifest.precision.asked)
    checked = spelt(artifact.manifest.precision.executed) or asked
    executed = spelt(record.execution.precision)
    where = f"{record.execution.runtime} on {record.device.name}"
    if executed is None:
        yield f"{where} does not say in which precision it ran; {asked} was asked for"
    elif executed != checked:
        yield Reason(
            "accuracy", f"{where} ran in {executed}, but masks and accuracy were measured in {checked}; verify there"
        )
    elif executed != asked:
        yield f"{where} ran in {executed}, not in {asked} as asked; masks and accuracy were measured in {executed} too"


def spelt(precision: str | None) -> str | None:
    """A precision in our word for it."""
    return None if precision is None else SPELLINGS.get(precision.lower(), precision.lower())


def _budget(record: Record | None, max_p90_ms: float | None) -> Said:
    if record is None or max_p90_ms is None or not usable(record):
        return  # what is not measured is a reason of its own
    upper, count = record.latency.p90_upper_ms, record.latency.count
    if upper is None:
        yield Reason(
            "measurement", f"{count} samples are too few to bound p90 against {max_p90_ms:.1f} ms; 64 are needed"
        )
    elif not upper <= max_p90_ms:
        sure = _p90_lower_ms(record) > max_p90_ms
        unsure = "" if sure else "; a longer measurement could change this"
        yield Reason(
            "budget",
            f"p90 could be {upper:.1f} ms (99 % bound, {count} samples), above the budget of {max_p90_ms:.1f} ms{unsure}",
            sure,
        )


def _p90_lower_ms(record: Record) -> float:
    """What p90 is at least, at 99 %, less what the same work differed by within the measurement: neighbours are not independent."""
    lower = percentile_lower(record.samples.unpack()[1], 0.9)
    return -math.inf if lower is None else lower / 1e6 * math.exp(-_noise(record))


@dataclass(frozen=True)
class _Against:
    """A quantized artifact's records against those of its float one.

    noise:     what the two may differ by for no reason, as a log-ratio; 0 where that is in the interval already.
    processes: how many of each `found` is of.
    beside:    the folder of the float one.
    """

    found: Comparison
    noise: float
    processes: int = 1
    beside: str = "FLOAT"

    @property
    def faster(self) -> bool | None:
        """Whether it is, by more than makes no difference; null where neither is beyond the noise.

        Three quarters of the noise are on the side of being faster: it is whole numbers, which lose something, that have to prove it,
        and what is as quick as float stays where it is.
        """
        limit, found = -math.log1p(EQUIVALENT), self.found
        if found.low is None or found.high is None:
            return None
        if math.log(found.high) + 1.5 * self.noise < limit:
            return True
        return False if math.log(found.low) - 0.5 * self.noise > limit else None


def _against_float(
    results: Results, artifact: StoredArtifact, record: Record | None
) -> _Against | Literal["unknown"] | None:
    """A quantized artifact's record against that of the float one, same run, target, size and place; null for all others."""
    if artifact.manifest.precision.asked not in QUANTIZED or record is None or not usable(record):
        return None
    alike = {
        other.sha256: str(other.path)
        for other in results.artifacts
        if other.manifest.precision.asked == "fp32" and _work(results, other) == _work(results, artifact)
    }
    beside = _beside(results, record)
    floats = [other for other in beside if other.subject.sha256 in alike]
    if not floats:
        return "unknown"
    newest = next(
        (other for other in reversed(floats) if not refused(other, record)), floats[-1]
    )  # that can be compared
    folder = alike[newest.subject.sha256]
    pairs = _turns([other for other in beside if _again(other, newest, record) or _again(other, record, record)])
    if len(pairs) >= ENOUGH:
        return _Against(compare_turns(pairs), 0.0, len(pairs), folder)
    return _Against(compare_records(newest, record), max(APART, _noise(newest) + _noise(record)), beside=folder)


def _again(other: Record, same: Record, like: Record) -> bool:
    """Whether a record is another process of the `same` file, run by the same and comparable with the one that counts."""
    return (
        other.subject.sha256 == same.subject.sha256
        and (other.execution.version, other.execution.precision) == (same.execution.version, same.execution.precision)
        and not refused(other, like)
    )


def _turns(line: list[Record]) -> list[tuple[Record, Record]]:
    """Of records of two files in order of time the pairs of neighbours, float first; who comes first in a pair does not matter.

    Records that did not take turns make few pairs: what the machine did between two stretches is in no spread within them.
    """
    pairs: list[tuple[Record, Record]] = []
    waiting: Record | None = None
    for record in line:
        if waiting is None or waiting.subject.sha256 == record.subject.sha256:
            waiting = record
        else:
            first, second = sorted((waiting, record), key=lambda one: one.subject.precision in QUANTIZED)
            pairs.append((first, second))
            waiting = None
    return pairs


def _noise(record: Record) -> float:
    """What the same work differed by within a measurement, as a log-ratio."""
    return max(abs(record.noise.low), abs(record.noise.high))


def _work(results: Results, artifact: StoredArtifact) -> tuple[object, ...]:
    """What an artifact does, whatever its precision: the float run by its weights, not by how its folder was spelt."""
    manifest = artifact.manifest
    run = _float_run(results, artifact) or artifact.manifest.source.run or artifact.folder
    return artifact.target, manifest.student.name, run, manifest.input.shape, manifest.input.baked


def _float_run(results: Results, artifact: StoredArtifact) -> str | None:
    """The SHA-256 of the float run: the one that a run which learned to bear quantization was made from."""
    run = results.run_of(artifact)
    return run.card.base if run and run.card.base else artifact.manifest.source.sha256


def _worth_it(artifact: StoredArtifact, record: Record | None, against: _Against | Literal["unknown"] | None) -> Said:
    """A quantized artifact that is not faster than float has no reason to ship: it only loses."""
    asked = artifact.manifest.precision.asked
    if against is None or record is None:
        return
    if against == "unknown":
        yield (
            f"whether {asked} is faster than float here is not known: export the run to {artifact.target} in fp32 as well and "
            f"bench it with {record.execution.threads} threads"
        )
        return
    found, where = against.found, record.device.name
    if found.ratio is None:
        why = f"whether {asked} is faster than float on {where} could not be decided ({'; '.join(found.why)}); measure both alike"
        yield Reason("budget", why, sure=False)
        return
    times = f"{found.ratio:.2f} times as long ({found.low:.2f} to {found.high:.2f})"
    how = "measured one after the other"
    if against.processes > 1:
        times = f"{found.ratio:.3f} times as long (99 %: {found.low:.3f} to {found.high:.3f})"
        how = f"in {against.processes} processes of each that took turns"
    if against.faster:
        yield f"a frame takes {times} as in float, {how}"
    elif against.faster is None:
        more = max(IN_TURNS, 2 * against.processes)
        differ = f", and two measurements of the same differ by up to {100 * math.expm1(against.noise):.0f} %"
        yield Reason(
            "budget",
            f"whether {asked} is faster than float on {where} is within the noise: a frame takes {times}"
            f"{differ if against.noise else f', {how}'}; measure both in turns: "
            f"`edgeseg bench {artifact.path} --beside {against.beside} --processes {more}`",
            sure=False,
        )
    else:
        yield Reason("budget", f"{asked} is not faster than float on {where}: a frame takes {times}, {how}; ship fp32")


def _elsewhere(artifact: StoredArtifact, record: Record | None) -> Said:
    """Operators that the delegate of a format left over, and those that ran on another unit than most."""
    facts = artifact.manifest.conversion
    if left := facts.get("not_delegated"):
        parts = facts.get("partitions")
        cut = f", which leaves {parts} parts of the network to it" if isinstance(parts, int) and parts > 1 else ""
        yield f"the delegate does not take {left}{cut}"
    placed = {unit: count for unit, count in ((record.execution.placed if record else None) or {}).items() if count > 0}
    if len(placed) > 1:
        most = max(placed, key=lambda unit: placed[unit])
        others = ", ".join(f"{count} on {unit}" for unit, count in placed.items() if unit != most)
        yield f"of {sum(placed.values())} operators {placed[most]} ran on {most}, {others}"


def _to_blame(results: Results, artifact: StoredArtifact, drop: Drop | Reason, max_drop: float) -> Said:
    """Of a quantized artifact that loses too much: the block that alone costs most, where a search beside it looked."""
    hops = artifact.manifest.ledger.hops if artifact.manifest.ledger else []
    keeps = isinstance(drop, Reason) or drop.points <= max_drop
    if artifact.manifest.precision.asked not in QUANTIZED or (keeps and all(holds(hop) for hop in hops)):
        return
    for one in results.searches:
        if (one.name, one.found.target) != (artifact.folder, artifact.target):
            continue
        kept = {block for trial in one.found.trials if trial.number == one.found.chosen for block in trial.keep}
        for worst in [row for row in one.found.sensitivity if row.block not in kept][:1]:
            yield (
                f"the block to blame is {worst.block}: alone in whole numbers it costs {worst.drop:.2f} points of mIoU and "
                f"{worst.boundary:.2f} of boundary F on {one.found.images}; `--keep {worst.block}` leaves it in float"
            )


def _times(against: _Against | Literal["unknown"] | None) -> TimesFloat | None:
    if against is None or against == "unknown":
        return None
    found = against.found
    if found.ratio is None or found.low is None or found.high is None:
        return None
    return TimesFloat(found.ratio, found.low, found.high, against.processes)


def _measurement(artifact: StoredArtifact, record: Record | None) -> Said:
    ask = f"`edgeseg bench {artifact.path}`"
    if record is None:
        yield Reason("measurement", f"its speed was never measured; run {ask}")
    elif record.provenance != "measured":
        yield Reason(
            "measurement", f"the figures of {record.device.name} are {record.provenance}, not measured; run {ask}"
        )
    elif record.protocol.name == SMOKE:
        yield Reason("measurement", f"{SMOKE} only shows that it runs, its figures are none to quote; run {ask}")
    elif not usable(record):
        why = "; ".join(record.reasons) or "its figures are not numbers"
        yield Reason("measurement", f"the measurement on {record.device.name} is not valid: {why}; run {ask} again")


def _history(results: Results, artifact: StoredArtifact, record: Record | None) -> Said:
    if record is None:
        return
    others = sum(_place(other) == _place(record) for other in results.records_of(artifact.sha256)) - 1
    if others:
        rule = "the newest valid one counts" if usable(record) else "none of them is valid"
        yield f"{others + 1} measurements of this row are in the folder; {rule}"


def _comparison(results: Results, artifact: StoredArtifact, record: Record | None) -> Said:
    """Ratios to the run in torch and to the quickest other artifact, measured in the same place on the same size."""
    if record is None or not usable(record):
        return
    peers = [other for other in _peers(results, record) if other.subject.sha256 != artifact.sha256]
    source = [other for other in peers if other.subject.sha256 == artifact.manifest.source.sha256]
    exported = {other.sha256 for other in results.artifacts}
    quickest = sorted((other for other in peers if other.subject.sha256 in exported), key=_typical_ms)[:1]
    ratios = [
        f"{_typical_ms(record) / _typical_ms(other):.2f} times as long as {_called(other, record)}"
        for other in source + quickest
    ]
    if ratios:
        yield (
            f"A frame takes {' and '.join(ratios)}; these are medians of separate recordings, "
            "`edgeseg compare` says whether a difference is real"
        )


def _called(other: Record, record: Record) -> str:
    """A peer's name, with what it does not do if it does not do the same work."""
    subject = other.subject
    student = "" if subject.student == record.subject.student else f"{subject.student} in "
    name = f"{student}{subject.target} {subject.precision}"
    if sorted(subject.baked) == sorted(record.subject.baked):
        return name
    return f"{name} (other work: {', '.join(subject.baked) or 'nothing'} baked in there)"


def _peers(results: Results, record: Record) -> list[Record]:
    """The newest usable record of each subject of the same device, threads and image size."""
    return list({other.subject.sha256: other for other in _beside(results, record)}.values())


def _beside(results: Results, record: Record) -> list[Record]:
    """The usable records of the same device, threads and image size, newest last."""
    return [
        other
        for other in sorted(results.records, key=lambda r: r.created)
        if usable(other)
        and other.protocol.back_to_back
        and _place(other) == _place(record)
        and sorted(other.subject.input_shape) == sorted(record.subject.input_shape)  # NHWC or NCHW
    ]


def _finite(value: float | None) -> float | None:
    """JSON has no NaN, and a table should not show one."""
    return value if value is not None and math.isfinite(value) else None


def _typical_ms(record: Record) -> float:
    return float(np.median(block_medians(record)))


def _place(record: Record) -> tuple[str, str | None, int]:
    return record.device.name, record.device.cpu, record.execution.threads
