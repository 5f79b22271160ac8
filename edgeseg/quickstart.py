"""The whole way on generated scenes: train, export, prove, evaluate, measure, judge, report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgeseg.data import load_data
from edgeseg.evaluate import evaluate
from edgeseg.export import OnnxRuntime, OpenVino, export_model
from edgeseg.manifest import Source
from edgeseg.report import write_report
from edgeseg.results import collect
from edgeseg.runs import load_run, read_card
from edgeseg.runtimes import record as records
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.protocol import parse
from edgeseg.train.loop import Event, Trainer
from edgeseg.train.recipe import read_recipe
from edgeseg.verdict import Verdict, judge

Step = Callable[[str], AbstractContextManager[Callable[[float, float], None]]]
"""Opens a progress bar of that name; what it gives is called with (done, all)."""

DATA = "synthetic:train=384"
RECIPE = (
    "optimizer.type=adamw",
    "optimizer.lr=0.002",
    "schedule.type=cosine",
    "warmup_epochs=0.5",
    "augment.scale=[0.75, 1.5]",
)


@dataclass(frozen=True)
class Ending:
    """What the quickstart leaves: the verdicts and the page."""

    verdicts: list[Verdict]
    report: Path


def quickstart(out: Path, student: str, epochs: int, threads: int, protocol: str, step: Step) -> Ending:
    """Run the whole way into `out`; a training that was stopped is resumed, a finished one is kept."""
    data, run = load_data(DATA), out / "run"
    recipe = read_recipe(None, [*RECIPE, f"epochs={epochs}", f"evaluate={max(1, epochs // 3)}"])
    with step(f"training {student} on generated scenes") as bar:

        def notify(event: Event) -> None:
            bar((event.epoch - 1) * event.steps + event.step, event.epochs * event.steps)

        trainer = Trainer(student, data, run, recipe, notify=notify)
        trainer.run(resume=(run / "checkpoint.safetensors").exists())
    card, trained = read_card(run), load_run(run)
    with step("evaluating the run") as bar:
        evaluate(run, trained, card.sha256, data, data.test, "run", bar)
    height, width = card.size or (240, 320)
    for target in (OnnxRuntime(), OpenVino(), OpenVino(precision="fp16")):
        folder = (
            out / "artifacts" / (target.name if target.precision == "fp32" else f"{target.name}-{target.precision}")
        )
        with step(f"exporting and verifying {folder.name}") as bar:
            source = Source(str(run), card.sha256)
            artifact = export_model(trained, target, folder, (height, width), ("pre", "labels"), source, data, bar)
        with step(f"evaluating {folder.name}") as bar:
            evaluate(folder, artifact, artifact.sha256, data, data.test, "artifact", bar)
        with step(f"measuring {folder.name}") as bar:
            record = measure(
                folder,
                protocol=parse(protocol),
                threads=threads,
                e2e=True,
                image=folder / "evidence" / "01-image.jpg",
                progress=lambda share, bar=bar: bar(share, 1.0),  # type: ignore[misc]
            )
        records.write(folder / "records" / f"local-t{threads}-{protocol}.json", record)
    return Ending(judge(collect(out)), write_report(out, out / "report.html"))
