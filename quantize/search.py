"""The fastest artifact that keeps the masks: a front of precision against time, measured, and what to do with it.

    1. float in the runtime, which all others are compared with; half precision, where the runtime computes in it
    2. everything in whole numbers, with the range estimator that keeps most labels in PyTorch, and corrected biases if they help
    3. while that loses too much: blocks back in float, the most damaged first, twice as many each time; then fewer again

Each trial is an artifact with its proof, scored on labelled images here and timed in turns with the float one, here or on a device.
It is written down when it is scored and again when it is timed, so that a search that was stopped, or whose device went away, goes
on where it was.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from time import monotonic

from edgeseg import __version__, schema
from edgeseg.data import Data
from edgeseg.drops import Drop, paired_drop
from edgeseg.errors import AccuracyGate, BudgetExceeded, EdgesegError, InvalidMeasurement, MissingTool
from edgeseg.evaluate import evaluate
from edgeseg.export import carry_over, clear_failed, networks, refuse_foreign
from edgeseg.export.apart import Job, Outcome, export_apart
from edgeseg.export.deployed import ImageNetwork
from edgeseg.export.target import Target
from edgeseg.files import aside_folder, read_json, write_json, write_text
from edgeseg.manifest import Source
from edgeseg.metrics import Evaluation
from edgeseg.parity import choose
from edgeseg.provenance import now
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.choice import PROBES, Say, best
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.findings import FEWEST, PICTURES, SUFFIX, TRIALS, Damage, Search, Time, Trial, called
from edgeseg.quantize.post_training import feeds
from edgeseg.quantize.scheme import Recipe
from edgeseg.quantize.sensitivity import IMAGES, sensitivity
from edgeseg.runs import read_card
from edgeseg.runtimes import RUNTIMES
from edgeseg.runtimes.compare import Comparison, compare_paired
from edgeseg.runtimes.devices import open_device
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import job
from edgeseg.runtimes.statistics import EQUIVALENT
from edgeseg.students import Student
from edgeseg.verdict import MAX_DROP

NOT_ITS_FAULT = frozenset({"lost", "busy", "garbled"})
"""Outcomes that say something of the device and nothing of the artifact."""

ITS_FAULT = frozenset({"unsupported_operator", "illegal_instruction"})
"""Outcomes that an artifact has every time."""

PAIRS, BURST_S, MEDIAN_S = 5, 0.2, 1.0
"""Rounds of bursts in each of three sets of processes, and the seconds of a burst, and of one for a median by itself."""


@dataclass(kw_only=True)
class Plan:
    """What is searched, and where.

    folder: of the run. `out` gets the chosen artifact; the trials lie in a hidden folder beside it.
    data, split: labelled images that trials are scored on, never those that results are reported on.
    reference: the float student that losses count against, where `student` was trained on from it.
    device: where trials are timed, by name or address.
    trials: artifacts that are made at most, those of `time_blocks` among them.
    time_blocks: of so many of the most damaged blocks it is measured what it takes to have them in float.
    """

    folder: Path
    source: Source
    student: Student
    target: Target
    size: tuple[int, int]
    bake: list[str]
    chosen: CalibrationSet
    data: Data
    split: str
    out: Path
    max_drop: float = MAX_DROP
    budget_ms: float | None = None
    threads: int = 1
    trials: int = TRIALS
    recipe: Recipe = field(default_factory=lambda: Recipe("auto"))
    trust: list[str] = field(default_factory=list)
    reference: Student | None = None
    device: str = "local"
    time_blocks: int = 0

    @property
    def timed(self) -> bool:
        """Whether there are times, the runtime's own; here somebody may stand in for it, who computes the same and tells none."""
        return self.device != "local" or self.runs_here

    @property
    def runs_here(self) -> bool:
        """Whether it is the runtime itself that artifacts are proven in."""
        return RUNTIMES[self.target.name].provenance == "measured"

    def check(self) -> None:
        """Refuse what cannot be searched before anything is made."""
        refuse_foreign(self.out, self.student, self.target)
        if self.trials < FEWEST + self.time_blocks:
            blocks = f", and one for each of the {self.time_blocks} blocks that are timed" if self.time_blocks else ""
            raise EdgesegError(
                f"a search makes float, half precision and {self.target.precision}{blocks}: {FEWEST + self.time_blocks} artifacts at "
                f"least, and {self.trials} are allowed; allow more with --trials"
            )
        if self.split == self.data.test:
            spec = f"{self.data.spec}[{self.split}]"
            raise EdgesegError(f"a search on {spec} would choose by what results are reported on")
        if self.budget_ms is not None and not self.timed:
            raise MissingTool(
                f"{self.target.name} does not run here, so nothing can be held to {self.budget_ms:g} ms; leave the budget out, or search on the device"
            )
        if self.device == "local":
            return
        if RUNTIMES[self.target.name].remotely is None:
            raise EdgesegError(
                f"the agent on {self.device} does not run {self.target.name}; leave --on {self.device} out"
            )
        with closing(open_device(self.device)) as where:
            if where.provenance == "simulated":
                raise EdgesegError(
                    f"{self.device} tells no time, so a search learns nothing there; name a device, or local"
                )
            where.probe()

    @property
    def aside(self) -> Path:
        """Where trials lie until one of them is chosen."""
        return self.out.parent / f".search-{self.out.name}"


def search(plan: Plan, say: Say) -> Search:
    """Look for the fastest artifact that loses at most `max_drop` points of mIoU, and put it at `plan.out`.

    Raises:
        EdgesegError: the split is that of the results, or the float artifact failed.
        MissingTool: there is a budget for the time, and the runtime is not here; or the device is not there.
        InvalidMeasurement: the device went away, or is not to be had; what was found so far is kept.
    """
    plan.check()
    run = _Run(plan, say)
    try:
        return _searched(run)
    finally:
        run.clock()


def _searched(run: _Run) -> Search:
    plan = run.plan
    floats = run.trial(replace(plan.target, precision="fp32"), None)
    if floats.failed:
        raise EdgesegError(f"the float artifact failed, so there is nothing to compare with: {floats.failed}")
    run.trial(replace(plan.target, precision="fp16"), None)
    document = run.calibrated()
    whole = run.trial(plan.target, document)
    damage: list[Damage] = []
    worth = whole.drop is not None and (whole.time is None or whole.time.decision != "slower")
    if worth and not _keeps(whole, plan):
        damage = run.damage(document)
        if plan.timed and plan.time_blocks:
            damage = run.priced(document, whole, damage)
        _with_blocks_in_float(run, document, [row.block for row in damage])
    chosen, words = decide(run.trials, plan.max_drop, plan.budget_ms)
    found = Search(
        schema=1,
        kind="search",
        created=now(),
        target=plan.target.name,
        student=plan.student.name,
        run=plan.source.run,
        images=f"{plan.data.spec}[{plan.split}]",
        calibrated_on=plan.chosen.card.data,
        threads=plan.threads,
        max_drop=plan.max_drop,
        budget_ms=plan.budget_ms,
        trials=run.trials,
        sensitivity=damage,
        chosen=chosen,
        words=words,
        device=plan.device,
        seconds=round(run.clock(), 1),
    )
    if chosen is not None:
        _put(plan.aside / run.trials[chosen].folder, plan.out)
    schema.write(plan.out.parent / f"{plan.out.name}{SUFFIX}", found)
    return found


def _keeps(trial: Trial, plan: Plan) -> bool:
    return trial.failed is None and trial.drop is not None and trial.drop.points <= plan.max_drop


def _with_blocks_in_float(run: _Run, document: Quantization, order: Sequence[str]) -> None:
    """Find the fewest blocks, worst first, that have to be in float."""
    too_few, enough, count = 0, None, 1
    while too_few < count < len(order) and run.left():
        if _keeps(run.trial(run.plan.target, run.keeping(document, order[:count])), run.plan):
            enough = count
            break
        too_few, count = count, min(2 * count, len(order) - 1)  # all of them in float is float
    while enough is not None and enough - too_few > 1 and run.left():
        middle = (enough + too_few) // 2
        if _keeps(run.trial(run.plan.target, run.keeping(document, order[:middle])), run.plan):
            enough = middle
        else:
            too_few = middle


def decide(trials: Sequence[Trial], max_drop: float, budget_ms: float | None) -> tuple[int | None, str]:
    """The number of the trial to take, and why; null where nothing meets what was asked for.

    A trial in whole numbers is taken only where it is faster than float beyond doubt; else float, or half precision, is the answer.
    """
    there = [(trial, trial.drop, trial.time) for trial in trials if trial.failed is None]
    if there and all(time is None for _, _, time in there):
        return _untimed([(trial, drop) for trial, drop, _ in there if drop is not None], max_drop)
    known = [(trial, drop, time) for trial, drop, time in there if drop is not None and time is not None]
    good = [entry for entry in known if entry[1].points <= max_drop]
    if not good:
        nearest = min(known, key=lambda entry: entry[1].points, default=None)
        lost = "" if nearest is None else f"; the nearest, {called(nearest[0])}, loses {nearest[1].points:.2f}"
        return None, f"nothing keeps the loss within {max_drop:.2f} points of mIoU{lost}"
    quick = [entry for entry in good if budget_ms is None or entry[2].p50_ms <= budget_ms]
    if not quick:
        best, _, time = min(good, key=lambda entry: entry[2].ratio)
        least, loss, at_least = min(known, key=lambda entry: entry[2].ratio)
        return None, (
            f"nothing within {max_drop:.2f} points of mIoU meets {budget_ms:g} ms: the fastest of these, {called(best)}, takes "
            f"{time.p50_ms:.2f} ms; the fastest of all, {called(least)}, {at_least.p50_ms:.2f} ms and loses {loss.points:.2f} points"
        )
    sure = [entry for entry in quick if entry[2].decision == "faster" or entry[0].precision == "fp32"] or quick
    best, drop, time = min(sure, key=lambda entry: entry[2].ratio)
    if best.precision == "fp32":
        others = ", ".join(
            f"{called(one)} {at.ratio:.2f} of its time, {lost.points:+.2f}" for one, lost, at in known[1:]
        )
        return best.number, f"float is the answer: nothing that keeps the masks is faster beyond doubt ({others})"
    return best.number, (
        f"{called(best)} takes {time.ratio:.3f} of the time of float ({time.low:.3f} to {time.high:.3f}) and loses "
        f"{drop.points:.2f} points of mIoU ({drop.low:+.2f} to {drop.high:+.2f}, {drop.images} images)"
    )


def _untimed(known: Sequence[tuple[Trial, Drop]], max_drop: float) -> tuple[int | None, str]:
    """Where nobody can tell the time: whole numbers with the fewest blocks in float, else half precision, else float."""
    good = [(trial, drop) for trial, drop in known if drop.points <= max_drop]
    if not good:
        return None, f"nothing keeps the loss within {max_drop:.2f} points of mIoU"
    rank = {"fp16": 1, "fp32": 2}  # whatever else there is, is in whole numbers
    best, drop = min(good, key=lambda entry: (rank.get(entry[0].precision, 0), len(entry[0].keep)))
    lead = "whole numbers lose too much, even with blocks in float; " if best.precision in rank else ""
    return best.number, (
        f"{lead}{called(best)} keeps the masks and loses {drop.points:.2f} points of mIoU ({drop.low:+.2f} to {drop.high:+.2f}, "
        f"{drop.images} images); whether it is faster has to be measured on the device"
    )


def refusal(found: Search) -> EdgesegError | None:
    """Why no trial was chosen, as the error that ends a command; nothing where one was."""
    if found.chosen is not None:
        return None
    return (BudgetExceeded if " meets " in found.words else AccuracyGate)(f"{found.target}: {found.words}")


def _put(trial: Path, out: Path) -> None:
    """Put a trial's artifact in place; what was measured of the one that stands there is kept."""
    with aside_folder(out) as part:
        shutil.copytree(trial, part, dirs_exist_ok=True)
        carry_over(out, part)
    clear_failed(out)


class _Run:
    """A search under way: the trials that there are, in the order of their numbers."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self._tell = plan, say
        self.trials: list[Trial] = []
        self._journal, self._clock = plan.aside / "trials.jsonl", plan.aside / "seconds.json"
        self._weights = read_card(plan.folder).sha256
        self._done = dict(self._read())
        self._reference: Evaluation | None = None
        self._base: Path | None = None
        self._prices = 0
        self._name = sha256(json.dumps(self._what()).encode()).hexdigest()
        self._started, self._before = monotonic(), self._seconds().get(self._name, 0.0)

    def clock(self) -> float:
        """The seconds that this search took in all its sessions, written down: one that is killed has those until its last step."""
        took = self._before + monotonic() - self._started
        self._clock.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._clock, self._seconds() | {self._name: took})
        return took

    def _seconds(self) -> dict[str, float]:
        return dict(read_json(self._clock)) if self._clock.exists() else {}

    def _say(self, words: str) -> None:
        self.clock()
        self._tell(words)

    def left(self) -> bool:
        """Whether there may be another trial."""
        return len(self.trials) + self._prices < self.plan.trials

    def keeping(self, document: Quantization, kept: Sequence[str]) -> Quantization:
        """The quantization with these blocks in float."""
        recipe = replace(document.recipe, keep=(*self.plan.recipe.keep, *kept))
        return replace(document, recipe=recipe)

    def trial(self, target: Target, document: Quantization | None) -> Trial:
        """The artifact of a target, scored and timed; taken from the journal if it is there."""
        keep = list(document.recipe.keep) if document else []
        ranges = document.recipe.ranges if document else None
        recipe = None if document is None else schema.dump(document.recipe)
        key = json.dumps([self._what(), target.options(), recipe])
        number = len(self.trials)
        self._say(
            f"trial {number}: {target.name} {target.precision}" + (f", {len(keep)} blocks in float" if keep else "")
        )
        made = self._done.get(key)
        if made is None or not (self.plan.aside / made.folder / "manifest.json").exists():
            made = self._keep(key, self._made(key, number, target, document, keep, ranges))
        if self.plan.timed and made.time is None and made.failed is None:
            made, lasting = self._timed(made, self._base)
            if lasting:
                self._keep(key, made)
        made = replace(made, number=number)
        if self._base is None:
            self._base = self.plan.aside / made.folder
        self.trials.append(made)
        return made

    def _keep(self, key: str, made: Trial) -> Trial:
        self._done[key] = made
        self._write()
        self.clock()
        return made

    def _made(
        self, key: str, number: int, target: Target, document: Quantization | None, keep: list[str], ranges: str | None
    ) -> Trial:
        plan = self.plan
        # named by all that decides it: another search here, of other images or another size, has other trials
        folder = plan.aside / f"{target.precision}-{sha256(key.encode()).hexdigest()[:12]}"
        shutil.rmtree(folder, ignore_errors=True)  # half of one, or one that the journal does not know
        outcome = self._exported(folder, target, document)
        empty = Trial(number, target.precision, folder.name, keep, ranges)
        if outcome.artifact is None:
            return replace(empty, failed=str(outcome.error))
        scored = evaluate(folder, outcome.artifact, outcome.artifact.sha256, plan.data, plan.split, "artifact")
        drop = paired_drop(self._float_run(), scored)
        manifest = outcome.artifact.manifest
        return replace(
            empty,
            executed=manifest.precision.executed if plan.runs_here else None,
            miou=scored.score.miou,
            drop=drop,
            megabytes=round(sum(file.bytes for file in manifest.files) / 1e6, 2),
            failed=None if outcome.error is None else str(outcome.error),
        )

    def _exported(self, folder: Path, target: Target, document: Quantization | None) -> Outcome:
        plan = self.plan
        card = plan.chosen.card if document else None
        job = Job(
            str(plan.folder),
            target.options(),
            str(folder),
            plan.size,
            plan.bake,
            plan.data.spec,
            plan.source,
            plan.trust,
            document,
            card,
        )
        outcome = export_apart(job, target)
        if isinstance(outcome.error, MissingTool):
            raise outcome.error
        return outcome

    def priced(self, document: Quantization, whole: Trial, damage: Sequence[Damage]) -> list[Damage]:
        """The most damaged blocks with what it takes to have each of them, alone, in float: measured, and kept as trials are."""
        return [
            self._priced(document, whole, row) if number < self.plan.time_blocks else row
            for number, row in enumerate(damage)
        ]

    def _priced(self, document: Quantization, whole: Trial, row: Damage) -> Damage:
        plan = self.plan
        self._prices += 1
        kept = self.keeping(document, [row.block])
        key = json.dumps([self._what(), plan.target.options(), schema.dump(kept.recipe), "price"])
        stored = self._done.get(key)
        if stored is None:
            self._say(f"timing {row.block} in float")
            folder = plan.aside / "price"
            outcome = self._exported(folder, plan.target, kept)
            stored = Trial(len(self._done), plan.target.precision, folder.name, [row.block])
            lasting = False
            if outcome.artifact is None:
                stored = replace(stored, failed=str(outcome.error))
            else:
                stored, lasting = self._timed(stored, plan.aside / whole.folder)
            shutil.rmtree(folder, ignore_errors=True)
            if lasting:
                self._keep(key, stored)
        return replace(row, price=stored.time)

    def _float_run(self) -> Evaluation:
        """The float student in PyTorch on the labelled images."""
        if self._reference is None:
            plan = self.plan
            self._say(f"scoring {plan.student.name} in PyTorch on {plan.data.spec}[{plan.split}]")
            where = plan.aside / "run"
            where.mkdir(parents=True, exist_ok=True)
            self._reference = evaluate(where, plan.reference or plan.student, "", plan.data, plan.split, "run")
        return self._reference

    def _timed(self, made: Trial, base: Path | None) -> tuple[Trial, bool]:
        """The trial with its time against another's (itself where there is none), or with how it failed where it is timed.

        And whether it would be so again: a process that was killed for memory need not be next time.
        """
        plan, place = self.plan, self.plan.aside / made.folder
        try:
            median = _median_ms(place, plan.threads, plan.device)
            if base is None:
                return replace(made, time=Time(median, 1.0, 1.0, 1.0, "equivalent")), True
            found = compare_paired(base, place, threads=plan.threads, pairs=PAIRS, burst_s=BURST_S, device=plan.device)
        except MissingTool as error:
            raise MissingTool(self._ended(error)) from error
        except InvalidMeasurement as error:
            if isinstance(error, Died) and error.outcome in NOT_ITS_FAULT:
                raise InvalidMeasurement(self._ended(error)) from error
            return replace(made, failed=str(error)), not isinstance(error, Died) or error.outcome in ITS_FAULT
        assert found.ratio is not None
        assert found.low is not None
        assert found.high is not None
        return replace(made, time=Time(median, found.ratio, found.low, found.high, _decision(found))), True

    def _ended(self, error: EdgesegError) -> str:
        timed = len(self.trials)
        return f"{error}; {timed} timed trial{'' if timed == 1 else 's'} and the one under way are kept, the same command goes on"

    def calibrated(self) -> Quantization:
        """Everything in whole numbers."""
        plan, network = self.plan, self._network()
        _, pictures = choose(plan.data, plan.split, PROBES, plan.size)
        target = plan.target
        return best(
            network, target.name, target.precision, plan.recipe, feeds(network, plan.chosen), pictures, self._say
        )

    def damage(self, document: Quantization) -> list[Damage]:
        """The blocks of the network, the most damaged first."""
        plan = self.plan
        self._say("looking for the blocks that lose most")
        _, pictures = choose(plan.data, plan.split, IMAGES, plan.size)
        return sensitivity(
            self._network(),
            document,
            pictures,
            plan.student.classes,
            keep=plan.out.parent / f"{plan.out.name}{PICTURES}",
        )

    def _network(self) -> ImageNetwork:
        plan = self.plan
        network = networks(plan.student, plan.size, plan.bake, plan.target.interface)[0]
        assert isinstance(network, ImageNetwork)
        return network

    def _what(self) -> list[object]:
        """What trials of one journal have in common."""
        plan = self.plan
        return [
            __version__,
            RUNTIMES[plan.target.name].version() if plan.runs_here else None,
            plan.student.name,
            self._weights,
            plan.size,
            plan.bake,
            plan.chosen.card.sha256,
            plan.data.spec,
            plan.split,
            plan.threads,
            *([] if plan.device == "local" else [plan.device]),
        ]

    def _read(self) -> Iterator[tuple[str, Trial]]:
        if self._journal.exists():
            for line in self._journal.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                yield entry["key"], schema.parse(Trial, entry["trial"], str(self._journal))

    def _write(self) -> None:
        lines = (json.dumps({"key": key, "trial": schema.dump(trial)}) for key, trial in self._done.items())
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._journal, "".join(f"{line}\n" for line in lines))


def _decision(found: Comparison) -> str:
    """What a comparison says; one that a noisy machine left open is decided where the gap is larger than the noise and the limit."""
    if found.verdict != "inconclusive" or found.noise is None or found.low is None or found.high is None:
        return found.verdict
    noise = math.exp(max(abs(found.noise.low), abs(found.noise.high)))
    if found.high * noise < 1 - EQUIVALENT:
        return "faster"
    return "slower" if found.low / noise > 1 + EQUIVALENT else "inconclusive"


def _median_ms(artifact: Path, threads: int, device: str) -> float:
    """The median of one frame, from a short burst in a fresh process."""
    with closing(open_device(device)) as where, where.held(), closing(where.spawn()) as worker:
        job(artifact).trusted(worker, threads)
        worker.ask("burst", seconds=BURST_S, count=5)
        return float(worker.ask("burst", seconds=MEDIAN_S, count=20)["median_ns"]) / 1e6
