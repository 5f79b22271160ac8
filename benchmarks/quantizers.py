"""Our whole numbers beside those of the runtimes' own quantizers: the same float network, calibration images and test images.

    python -m benchmarks.quantizers runs/cam runs/lraspp --data camvid:PATH --work out/quantizers --out benchmarks/results

Theirs get the file of our float artifact, with their defaults for a convolutional network on this processor: NNCF (OpenVINO),
`onnxruntime.quantization` (QDQ, a scale for each channel of a weight), ai-edge-quantizer (LiteRT). What they write takes the
model's place in a copy of that artifact, so that masks and times come from the same code. A row that is done is kept in
`quantizers.jsonl`, of a run and target the last.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, rmtree
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.data.base import Split
from edgeseg.drops import Drop, paired_drop
from edgeseg.errors import EdgesegError, need
from edgeseg.evaluate import evaluate
from edgeseg.files import sha256, write_text
from edgeseg.manifest import FileEntry, Precision
from edgeseg.metrics import Evaluation
from edgeseg.provenance import now
from edgeseg.runs import load_run, read_card
from edgeseg.runtimes import pixels
from edgeseg.schema import STRICT

BAKED = ("pre", "labels")
HEADS = (
    "student", "target", "quantizer", "float mIoU", "ours: mIoU lost", "theirs: mIoU lost", "ours: time / float's",
    "theirs: time / float's", "MB float, ours, theirs",
)  # fmt: skip

AT_ONCE = 8
"""Images whose activations `onnxruntime.quantization` holds in memory at once; the ranges are those of all."""

Feeds: TypeAlias = "list[NDArray[np.uint8]]"
"""Calibration images as the artifact takes them, `[1, H, W, 3]`."""


def nncf(model: Path, name: str, feeds: Feeds, made: Path) -> None:
    """OpenVINO's, on the processor it is meant for."""
    theirs, openvino = import_module("nncf"), need("openvino")
    network = openvino.Core().read_model(model)
    quantized = theirs.quantize(
        network, theirs.Dataset(feeds), target_device=theirs.TargetDevice.CPU, subset_size=len(feeds)
    )
    openvino.save_model(quantized, made, compress_to_fp16=False)


class Reader:
    """Calibration images as `onnxruntime.quantization` reads them: a range of them at a time, since it keeps all that they make."""

    def __init__(self, name: str, feeds: Feeds) -> None:
        self._name, self._feeds, self._left = name, feeds, iter(feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Which come next."""
        self._left = iter(self._feeds[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next image, null after the last."""
        feed = next(self._left, None)
        return None if feed is None else {self._name: feed}


def onnxruntime_static(model: Path, name: str, feeds: Feeds, made: Path) -> None:
    """ONNX Runtime's, as its documentation recommends for x86: prepared, QDQ, uint8 activations, int8 weights by channel."""
    theirs = import_module("onnxruntime.quantization")
    theirs.CalibrationDataReader.register(Reader)
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        prepare = import_module("onnxruntime.quantization.shape_inference").quant_pre_process
        prepare(
            model, prepared, skip_symbolic_shape=True
        )  # every shape is known, and it gives up at functions of others
        theirs.quantize_static(
            prepared,
            made,
            Reader(name, feeds),
            per_channel=True,
            activation_type=theirs.QuantType.QUInt8,
            weight_type=theirs.QuantType.QInt8,
            extra_options={"CalibStridedMinMax": math.gcd(len(feeds), AT_ONCE)},
        )


def ai_edge(model: Path, name: str, feeds: Feeds, made: Path) -> None:
    """LiteRT's."""
    theirs = import_module("ai_edge_quantizer")
    quantizer = theirs.Quantizer(str(model), theirs.recipe.static_wi8_ai8())
    found = quantizer.calibrate({"serving_default": [{name: feed} for feed in feeds]})
    made.write_bytes(bytes(quantizer.quantize(found).quantized_model))


@dataclass(frozen=True)
class Theirs:
    """A quantizer of others: the package it comes in, and what writes its file."""

    package: str
    write: Callable[[Path, str, Feeds, Path], None]


QUANTIZERS = {
    "openvino": Theirs("nncf", nncf),
    "onnxruntime": Theirs("onnxruntime", onnxruntime_static),
    "litert": Theirs("ai-edge-quantizer", ai_edge),
}
"""Target -> the quantizer that its runtime's documentation names."""


@dataclass(frozen=True)
class Ratio:
    """A time over the float artifact's, with its 95 % interval, and what `compare` says of it."""

    __pydantic_config__ = STRICT
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Row:
    """One student on one target; losses are against the run's float artifact there, times to that artifact's, measured in turns.

    why: of theirs, where it has no figures.
    """

    __pydantic_config__ = STRICT
    created: str
    data: str
    calibrated_on: int
    size: tuple[int, int]
    student: str
    target: str
    quantizer: str
    miou: float
    ours: Drop
    theirs: Drop | None
    our_time: Ratio | None
    their_time: Ratio | None
    megabytes: list[float | None]
    why: str | None = None


class Some(Split):
    """So many images of a split, spread over it."""

    def __init__(self, whole: Split, count: int) -> None:
        self._whole = whole
        self._chosen = np.linspace(0, len(whole) - 1, min(count, len(whole))).astype(int).tolist()
        self.names = tuple(whole.names[index] for index in self._chosen)

    def __getitem__(self, index: int) -> Any:
        """That image and its labels."""
        return self._whole[self._chosen[index]]


@dataclass(frozen=True)
class Asked:
    """What decides the rows, as the options of the command have it; `size` null takes that of the run's crops."""

    data: Data
    work: Path
    size: tuple[int, int] | None
    threads: int
    images: int
    scored: int
    pairs: int


def rows(runs: Sequence[Path], targets: Sequence[str], asked: Asked) -> Iterator[Row]:
    """Make, score and time, one after the other."""
    for run in runs:
        for target in targets:
            print(f"{run.name} on {target}", file=sys.stderr, flush=True)
            yield row(run, target, asked)


def row(run: Path, name: str, asked: Asked) -> Row:
    """The three artifacts of one run and target."""
    from edgeseg.quantize.calibration import choose_images

    plain, ours = made(run, name, asked)
    chosen = choose_images(asked.data, None, asked.images)
    feeds = [pixels.prepare(image, plain.manifest.input) for image in chosen.images]
    why, theirs = None, None
    try:
        theirs = swapped(plain, asked.work / run.name / f"{name}-theirs", QUANTIZERS[name], feeds)
    except Exception as error:  # noqa: BLE001 (whatever another library raises is what is known of it)
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    reference = scored(plain, asked)
    times, refused = timed(plain, [one for one in (ours, theirs) if one], asked)
    return Row(
        created=now(),
        data=f"{asked.data.spec.partition(':')[0]}[{asked.data.test}], {reference.score.images} images",
        calibrated_on=len(feeds),
        size=plain.size,
        student=plain.manifest.student.name,
        target=name,
        quantizer=f"{QUANTIZERS[name].package} {version(QUANTIZERS[name].package)}",
        miou=reference.score.miou,
        ours=paired_drop(reference, scored(ours, asked)),
        theirs=None if theirs is None else paired_drop(reference, scored(theirs, asked)),
        our_time=times[0] if times else None,
        their_time=times[1] if len(times) > 1 else None,
        megabytes=[None if one is None else megabytes(one) for one in (plain, ours, theirs)],
        why=why or refused,
    )


def made(run: Path, name: str, asked: Asked) -> tuple[Artifact, Artifact]:
    """Our float artifact, of standard operators alone so that others read it, and our int8."""
    from edgeseg.export import TARGETS, export_model
    from edgeseg.quantize.model import quantize_model

    card, work = read_card(run), asked.work / run.name
    size = asked.size or card.size
    assert size is not None
    options: dict[str, Any] = {"ops": "graph"}
    found = [work / name, work / f"{name}-int8"]
    if not (found[0] / "manifest.json").exists():
        export_model(load_run(run), TARGETS[name](**options), found[0], size, BAKED, data=asked.data)
    if not (found[1] / "manifest.json").exists():
        target = TARGETS[name](precision="int8", **options)
        quantize_model(load_run(run), target, asked.data, found[1], size, asked.images, bake=BAKED)
    return Artifact.open(found[0]), Artifact.open(found[1])


def swapped(plain: Artifact, folder: Path, quantizer: Theirs, feeds: Feeds) -> Artifact:
    """A copy of an artifact with what a quantizer makes of its file in the file's place."""
    rmtree(folder, ignore_errors=True)
    with TemporaryDirectory() as aside:
        written = Path(aside) / plain.model_file.name
        quantizer.write(plain.model_file, plain.manifest.input.name, feeds, written)
        copytree(plain.folder, folder)
        for entry in plain.manifest.files:
            (folder / entry.path).unlink()
        for file in Path(aside).iterdir():
            (folder / plain.manifest.files[0].path).with_name(file.name).write_bytes(file.read_bytes())
    files = [
        FileEntry(entry.path, sha256(folder / entry.path), (folder / entry.path).stat().st_size)
        for entry in plain.manifest.files
    ]
    return Artifact(folder, plain.manifest).rewrite(
        replace(plain.manifest, files=files, precision=Precision("int8", "int8"), ledger=None)
    )


def scored(artifact: Artifact, asked: Asked) -> Evaluation:
    """On the test images, as many as were asked for."""
    data = asked.data
    some = Some(data.split(data.test), asked.scored)
    few = replace(data, splits={**data.splits, data.test: lambda: some})
    return evaluate(artifact.folder, artifact, artifact.sha256, few, data.test, "artifact")


def timed(plain: Artifact, others: Sequence[Artifact], asked: Asked) -> tuple[list[Ratio], str | None]:
    """Each against the float one, in turns; or why not: masks that are none of the student's any more are not timed."""
    from edgeseg.runtimes.compare import compare_in_turns

    try:
        found = compare_in_turns(plain, others, threads=asked.threads, pairs=asked.pairs)
    except EdgesegError as error:
        return (timed(plain, others[:1], asked)[0] if len(others) > 1 else []), str(error)
    times = [
        Ratio(one.ratio, one.low, one.high, one.verdict)
        for one in found
        if one.ratio is not None and one.low is not None and one.high is not None
    ]
    return times, None


def megabytes(artifact: Artifact) -> float:
    """Of the files of the model."""
    return round(sum(entry.bytes for entry in artifact.manifest.files if not entry.path.endswith(".json")) / 1e6, 2)


def read(file: Path) -> list[Row]:
    """The rows that were made so far: of one that was made anew the last."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = (schema.parse(Row, json.loads(line), str(file)) for line in lines)
    return list({(one.data, one.student, one.target): one for one in found}.values())


def document(found: Sequence[Row]) -> str:
    """The table as Markdown."""
    about = ", ".join(
        dict.fromkeys(
            f"`{one.data}` at {one.size[0]}x{one.size[1]}, calibrated on {one.calibrated_on} training images"
            for one in found
        )
    )
    lines = [
        "# Our quantizer and the runtimes' own",
        "",
        f"Made by `python -m benchmarks.quantizers`: {about}.",
        "All three are of the same float network and the same calibration images. mIoU lost in points against our float artifact in the same",
        "runtime, with its 95 % interval over images; times are medians in turns with that artifact, with their 95 % interval; `open` where",
        "the machine was too noisy for a word. Theirs with their defaults for this processor. Labels baked in, standard operators alone.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "| --- | --- | --- |" + " ---: |" * (len(HEADS) - 3),
        *("| " + " | ".join(cells(one)) + " |" for one in found),
    ]
    told = [f"- {one.student} on {one.target}: {one.why}" for one in found if one.why]
    return "\n".join([*lines, *(["", *told] if told else [])]) + "\n"


def cells(one: Row) -> list[str]:
    """A line of the table."""
    sizes = ", ".join("" if size is None else f"{size:g}" for size in one.megabytes)
    losses = [_drop(one.ours), _drop(one.theirs)]
    return [
        one.student, one.target, one.quantizer, f"{one.miou:.2f}", *losses, _time(one.our_time), _time(one.their_time), sizes
    ]  # fmt: skip


def _drop(drop: Drop | None) -> str:
    return "" if drop is None else f"{drop.points:+.2f} ({drop.low:+.2f} to {drop.high:+.2f})"


def _time(time: Ratio | None) -> str:
    if time is None:
        return ""
    return f"{time.ratio:.3f} ({time.low:.3f} to {time.high:.3f}){', open' if time.verdict == 'inconclusive' else ''}"


def main() -> int:
    """Make what is missing and write the table."""
    from edgeseg.cli.app import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", default=",".join(QUANTIZERS))
    parser.add_argument("--work", type=Path, required=True, help="where artifacts go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64, help="to calibrate on")
    parser.add_argument("--scored", type=int, default=100, help="test images")
    parser.add_argument("--pairs", type=int, default=8, help="rounds of bursts, in each of three sets of processes")
    parser.add_argument("--size", help="of the artifacts, e.g. 360x480; of the run's crops where nothing is said")
    given: Any = parser.parse_args()
    size = parse_size(given.size)
    asked = Asked(load_data(given.data), given.work, size, given.threads, given.images, given.scored, given.pairs)
    store = given.out / "quantizers.jsonl"
    for one in rows(given.runs, given.to.split(","), asked):
        store.parent.mkdir(parents=True, exist_ok=True)
        with store.open("a", encoding="utf-8") as out:
            out.write(json.dumps(schema.dump(one)) + "\n")
        write_text(given.out / "quantizers.md", document(read(store)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
