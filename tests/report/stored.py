"""A folder of results made by hand: realistic figures, the real dataclasses, nothing trained or run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeseg import schema
from edgeseg.drops import Drop
from edgeseg.ledger import Hop, Ledger
from edgeseg.manifest import FileEntry, InputSpec, Manifest, OutputSpec, Precision, Source, StudentCard
from edgeseg.metrics import Evaluation, Score, iou, pack_confusions
from edgeseg.provenance import MadeBy
from edgeseg.quantize.findings import MARKED, PICTURES, SUFFIX, Damage, Search, Time, Trial
from edgeseg.runs import RunCard, Training
from edgeseg.runtimes import record as records
from edgeseg.runtimes.record import (
    Device,
    DeviceState,
    Execution,
    Latency,
    Noise,
    Protocol,
    Record,
    Samples,
    Segment,
    Stage,
    Subject,
)

CLASSES = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "Sign", "Fence", "Car", "Pedestrian", "Bicyclist"]
PALETTE: list[tuple[int, int, int]] = [
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
]
SHARES = np.array([0.17, 0.23, 0.01, 0.30, 0.07, 0.11, 0.011, 0.016, 0.061, 0.007, 0.005])
MADE = MadeBy("0.1.0", "0123456789abcdef0123456789abcdef01234567", False)
DATA = "camvid:data/camvid"
STATE = DeviceState(0.12, 2599.9, None, None)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GOOD_HOP = Hop("torch -> artifact", "fp32", 6, 2.1e-6, 4.3e-5, 0.99994, 0.9998, "Pole", 0.9987, 0, True)


def digest(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def confusions(images: int = 40, hit: float = 0.9, seed: int = 0) -> NDArray[np.int64]:
    """Plausible counts `[images, classes, classes]`: small classes are missed more often."""
    rng = np.random.default_rng(seed)
    classes = len(SHARES)
    truth = (rng.dirichlet(SHARES * 60, images) * 172_800).astype(np.int64)
    right = np.clip(hit * (0.55 + 0.45 * (SHARES / SHARES.max()) ** 0.2) + rng.normal(0, 0.03, (images, classes)), 0, 1)
    counts = np.zeros((images, classes, classes), np.int64)
    hits = (truth * right).astype(np.int64)
    for offset in (1, 3):
        rows = np.arange(classes)
        counts[:, rows, (rows + offset) % classes] = (truth - hits) // 2
    counts[:, np.arange(classes), np.arange(classes)] = hits
    return counts


def latency(durations_ms: NDArray[np.float64], upper: float | None = None) -> Latency:
    """Figures of the samples; the bound of p90 is a little above p90 unless given."""
    p50, p90, p99 = np.quantile(durations_ms, [0.5, 0.9, 0.99])
    wall = float(durations_ms.sum() / 1e3 * 1.002)
    return Latency(
        count=len(durations_ms),
        wall_s=wall,
        mean_ms=float(durations_ms.mean()),
        p50_ms=float(p50),
        p50_low_ms=float(p50) * 0.99,
        p50_high_ms=float(p50) * 1.01,
        p90_ms=float(p90),
        p90_upper_ms=float(p90) * 1.04 if upper is None else upper,
        p99_ms=float(p99) if len(durations_ms) >= 662 else None,
        sustained_fps=len(durations_ms) / wall,
        autocorrelation=0.11,
    )


def durations(median_ms: float, count: int = 512, seed: int = 0) -> NDArray[np.float64]:
    """Milliseconds with a right tail and a few spikes, as a real machine gives them."""
    rng = np.random.default_rng(seed)
    times = median_ms * (1 + rng.gamma(2.0, 0.02, count) - 0.03)
    times[rng.choice(count, max(1, count // 60), replace=False)] *= rng.uniform(1.5, 3.5, max(1, count // 60))
    return times


def pack(durations_ms: NDArray[np.float64]) -> Samples:
    """Samples that follow one another closely."""
    ns = (durations_ms * 1e6).astype(np.int64)
    return Samples.pack(np.concatenate([[0], np.cumsum(ns + 40_000)[:-1]]).astype(np.int64), ns)


@dataclass
class Store:
    """Writes results below `folder`; every method takes what should differ from the usual."""

    folder: Path
    images: int = 40
    base: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.base = confusions(self.images)

    def run(self, name: str = "ddrnet23_slim", folder: str = "runs/cam", **changes: Any) -> RunCard:
        """A training result with a stand-in for its weights."""
        weights = f"weights of {folder}".encode()
        training = Training(
            DATA, "train", 500, 488, "held", 67.2, 5400.0, 2, "2 cores", {"optimizer": "sgd", "lr": 0.01}
        )
        card = RunCard(
            schema=1,
            kind="run",
            created="2026-11-20T08:00:00+00:00",
            edgeseg=MADE,
            name=name,
            task="semantic",
            classes=len(CLASSES),
            options={},
            class_names=CLASSES,
            palette=PALETTE,
            mean=MEAN,
            std=STD,
            multiple=64,
            licence="MIT",
            params=5_695_000,
            size=(360, 480),
            sha256=digest(weights),
            training=training,
        )
        card = replace(card, **changes)
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "model.safetensors").write_bytes(weights)
        schema.write(path / "model.json", card)
        return card

    def artifact(
        self, run: RunCard, folder: str = "out/onnx", target: str = "onnxruntime", asked: str = "fp32", **changes: Any
    ) -> Manifest:
        """An exported folder with a stand-in for its model, a ledger that passes, and no accuracy yet."""
        model = f"model of {folder}".encode() * 1000
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "model.bin").write_bytes(model)
        manifest = Manifest(
            schema=1,
            created="2026-11-20T09:00:00+00:00",
            edgeseg=MADE,
            student=StudentCard(
                run.name, "semantic", run.class_names, run.palette, run.licence, run.params, MEAN, STD, run.multiple
            ),
            source=Source("runs/cam", run.sha256),
            input=InputSpec("image", [1, 360, 480, 3], "NHWC", "uint8", "RGB", MEAN, STD, ["pre", "labels"]),
            output=OutputSpec("labels", "labels", [1, 360, 480], "uint8"),
            decoder=None,
            target={"name": target, "opset": 20, "precision": asked},
            precision=Precision(asked, asked),
            files=[FileEntry("model.bin", digest(model), 22_940_123)],
            tools={"torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.31.1"},
            calibration=None,
            op_tiers={},
            ledger=Ledger(
                f"{DATA} [held]", [GOOD_HOP, replace(GOOD_HOP, name="artifact -> runtime", relative_rms=None)]
            ),
            accuracy=None,
        )
        manifest = replace(manifest, **changes)
        schema.write(path / "manifest.json", manifest)
        return manifest

    def record(
        self,
        folder: str,
        subject: RunCard | Manifest,
        median_ms: float = 22.0,
        *,
        count: int = 512,
        threads: int = 2,
        executed: str | None = "fp32",
        device: str = "local",
        created: str = "2026-11-20T10:00:00+00:00",
        e2e: bool = False,
        **changes: Any,
    ) -> Record:
        """A measurement of a run or an artifact."""
        artifact = isinstance(subject, Manifest)
        seed = int(median_ms * 1000) % 2**31
        times = durations(median_ms, count, seed)
        if isinstance(subject, Manifest):
            name, target, sha = subject.student.name, str(subject.target["name"]), subject.files[0].sha256
            asked, size = subject.precision.asked, subject.files[0].bytes
        else:
            name, target, sha, asked, size = subject.name, "torch", subject.sha256, "fp32", 22_800_000
        parts = [("decode", 3.1), ("resize", 0.9), ("infer", median_ms), ("labels", 0.35)]
        stages = [Stage(n, ms, ms * 1.1, pack(durations(ms, count, seed))) for n, ms in parts] if e2e else None
        figures = latency(times)
        record = Record(
            schema=1,
            kind="measurement",
            created=created,
            edgeseg=MADE,
            subject=Subject(
                path=folder,
                student=name,
                target=target,
                precision=asked,
                sha256=sha,
                input_shape=[1, 360, 480, 3] if artifact else [1, 3, 360, 480],
                baked=["pre", "labels"] if artifact else [],
                file_bytes=size,
            ),
            device=Device(device, "local", "Intel Xeon 2.6 GHz", 2, 8 * 10**9, "Linux 6.1", STATE, STATE),
            execution=Execution(target, "1.31.1", threads, executed, {"CPU": 58}, {"spinning": "off"}),
            protocol=Protocol("quick", 10.0, 128, 60.0, 3, 0.5),
            load_ms=312.0,
            first_ms=median_ms * 4,
            warmup=pack(durations(median_ms, 12, 1) * np.linspace(2.4, 1, 12)),
            samples=pack(times),
            latency=figures,
            segments=[Segment(0.0, figures.wall_s, figures.sustained_fps)],
            stages=stages,
            e2e=latency(durations(median_ms + 4.4, count, 1)) if e2e else None,
            peak_memory_bytes=212_000_000,
            model_memory_bytes=61_000_000,
            energy_mj=None,
            noise=Noise(0.002, -0.006, 0.009),
            valid=True,
            reasons=[],
            provenance="measured",
        )
        record = replace(record, **changes)
        stamp = "".join(letter for letter in created if letter.isdigit())
        records.write(self.folder / folder / f"bench-{device}-{threads}-{stamp}.json", record)
        return record

    def evaluation(
        self, folder: str, subject: RunCard | Manifest, counts: NDArray[np.int64] | None = None, **changes: Any
    ) -> Evaluation:
        """An evaluation on the test split; without `counts` the usual scenes."""
        counts = self.base if counts is None else counts
        artifact = isinstance(subject, Manifest)
        total = counts.sum(0)
        each = iou(total)
        evaluation = Evaluation(
            schema=1,
            kind="evaluation",
            created="2026-11-20T11:00:00+00:00",
            edgeseg=MADE,
            subject=folder,
            subject_kind="artifact" if artifact else "run",
            sha256=subject.files[0].sha256 if isinstance(subject, Manifest) else subject.sha256,
            data=DATA,
            split="test",
            class_names=subject.student.class_names if isinstance(subject, Manifest) else subject.class_names,
            score=Score(
                len(counts),
                float(np.nanmean(each)) if np.isfinite(each).any() else 0.0,
                [None if np.isnan(value) else float(value) for value in each],
                float(100 * np.trace(total) / max(1, total.sum())),
                71.3,
            ),
            confusions=pack_confusions(counts),
            provenance="measured",
        )
        evaluation = replace(evaluation, **changes)
        schema.write(self.folder / folder / f"eval-{evaluation.split}.json", evaluation)
        return evaluation

    def search(self, name: str = "out/vino-int8", pictures: int = 3, **changes: Any) -> Search:
        """A search in which int8 loses too much, and two blocks in float make up for it."""
        trials = [
            trial(0, "fp32", [], 0.0, 1.0, 23.1),
            trial(1, "fp16", [], -0.02, 0.52, 11.8, executed="bf16"),
            trial(2, "int8", [], 6.31, 0.321, 6.9, failed="same label 91.20 % is below 98.00 %"),
            trial(3, "int8", BLOCKS[:1], 1.84, 0.338, 7.0),
            trial(4, "int8", BLOCKS[:2], 0.41, 0.352, 7.4),
            Trial(
                5, "int8", "int8-5", BLOCKS[:4], "mse", failed="the converter gave up: no kernel for `Resize` in int8"
            ),
        ]
        sensitivity = [
            Damage(
                block,
                [f"{block}.0", f"{block}.1"],
                3.2 / 2**rank,
                4.1 / 2**rank - 0.03,
                0.061 / 2**rank,
                f"sensitivity-{rank + 1}.png" if rank < pictures else None,
            )
            for rank, block in enumerate(BLOCKS)
        ]
        found = Search(
            schema=1,
            kind="search",
            created="2026-11-20T12:00:00+00:00",
            target="openvino",
            student="ddrnet23_slim",
            run="runs/cam",
            images=f"{DATA}[held]",
            calibrated_on=f"{DATA}[fit]",
            threads=1,
            max_drop=0.5,
            budget_ms=None,
            trials=trials,
            sensitivity=sensitivity,
            chosen=4,
            words="int8 with 2 blocks in float takes 0.352 of the time of float (0.341 to 0.366) and loses 0.41 points of mIoU",
        )
        found = replace(found, **changes)
        schema.write(self.folder / f"{name}{SUFFIX}", found)
        folder = self.folder / f"{name}{PICTURES}"
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(pictures):
            labels = scene(index)
            image = np.array(PALETTE, np.uint8)[labels] // 2
            edge = np.flatnonzero((labels != np.roll(labels, 1, 1)).ravel())
            image.reshape(-1, 3)[np.random.default_rng(index).choice(edge, 900 >> index, replace=False)] = MARKED
            Image.fromarray(image).save(folder / f"sensitivity-{index + 1}.png")
        return found

    def evidence(self, folder: str, changed: int = 40, truth: bool = True, count: int = 2) -> None:
        """Drawn scenes with label maps of both sides that differ in `changed` pixels."""
        place = self.folder / folder / "evidence"
        place.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng(index)
            labels = scene(index)
            photo = np.array(PALETTE, np.uint8)[labels].astype(np.int16) // 2 + 70
            photo = np.clip(photo + rng.normal(0, 9, photo.shape), 0, 255).astype(np.uint8)
            other = labels.copy()
            edge = np.flatnonzero((labels != np.roll(labels, 1, 1)).ravel())
            other.ravel()[rng.choice(edge, changed, replace=False)] = 2
            Image.fromarray(photo).save(place / f"{index:02d}-image.jpg", quality=88)
            Image.fromarray(labels).save(place / f"{index:02d}-reference.png")
            Image.fromarray(other).save(place / f"{index:02d}-artifact.png")
            if truth:
                Image.fromarray(np.where(rng.random(labels.shape) < 0.02, 255, labels).astype(np.uint8)).save(
                    place / f"{index:02d}-truth.png"
                )


BLOCKS = ["head.conv", "layer5.0", "layer4.1", "spp.scale2", "stem.0", "layer3.0", "compression3"]


def trial(
    number: int, precision: str, keep: list[str], points: float, ratio: float, megabytes: float, **changes: Any
) -> Trial:
    """A trial of a search, scored and timed."""
    made = Trial(
        number,
        precision,
        f"{precision}-{number}",
        keep,
        "mse" if precision == "int8" else None,
        precision,
        66.9 - points,
        Drop(points, points - 0.08 - 0.1 * abs(points), points + 0.07 + 0.1 * abs(points), 36),
        Time(25.94 * ratio, ratio, 0.97 * ratio, 1.04 * ratio, "faster" if ratio < 1 else "equivalent"),
        megabytes,
    )
    return replace(made, **changes)


def scene(seed: int, height: int = 360, width: int = 480) -> NDArray[np.uint8]:
    """A street of rectangles: sky, buildings, road, pavement, poles, cars; class ids `[height, width]`."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    horizon = height // 2
    left = 0
    while left < width:
        wide, tall = int(rng.integers(40, 110)), int(rng.integers(60, 150))
        labels[horizon - tall : horizon + 20, left : left + wide] = 5 if rng.random() < 0.3 else 1
        left += wide
    labels[horizon + 10 :] = 3
    for row in range(horizon + 10, height):
        side = max(0, 150 - (row - horizon))
        labels[row, :side], labels[row, width - side :] = 4, 4
    for _ in range(4):
        x, top = int(rng.integers(20, width - 30)), int(rng.integers(horizon - 90, horizon - 30))
        labels[top : horizon + 30, x : x + 3] = 2
        labels[top : top + 14, x - 5 : x + 8] = 6
    for _ in range(3):
        x, y = int(rng.integers(60, width - 120)), int(rng.integers(horizon + 5, height - 70))
        labels[y : y + 34, x : x + 62] = 8
    return labels


def worse(counts: NDArray[np.int64], share: float, images: int | None = None) -> NDArray[np.int64]:
    """The same scenes with a `share` of the right pixels of every class, in the first `images`, now labelled wrong."""
    counts = counts.copy()
    rows = np.arange(counts.shape[1])
    some = slice(None, images)
    uneven = np.random.default_rng(1).uniform(0, 2 * share, (len(counts[some]), 1))
    moved = (counts[some, rows, rows] * uneven).astype(np.int64)
    counts[some, rows, rows] -= moved
    counts[some, rows, (rows + 1) % len(rows)] += moved
    return counts


def street(folder: Path) -> Store:
    """The usual folder: a run, three artifacts of it of which one is not good enough, and their measurements."""
    store = Store(folder)
    run = store.run()
    store.evaluation("runs/cam", run)
    store.record("runs/cam", run, 38.4, e2e=True)
    ort = store.artifact(run, "out/onnx", "onnxruntime")
    store.evaluation("out/onnx", ort, worse(store.base, 0.0001))
    store.record("out/onnx", ort, 22.3, e2e=True)
    store.evidence("out/onnx", changed=3)
    vino = store.artifact(run, "out/vino", "openvino", "fp16", precision=Precision("fp16", "bf16"))
    store.evaluation("out/vino", vino, worse(store.base, 0.003))
    store.record("out/vino", vino, 17.1, executed="bf16", e2e=True)
    store.evidence("out/vino", changed=160)
    hop = replace(
        GOOD_HOP,
        precision="int8",
        same_label=0.943,
        boundary_f=0.871,
        worst_class="Sign",
        worst_class_iou=0.412,
        passed=False,
        reasons=["same label 94.30 % is below 98.00 %", "worst class Sign has IoU 41.2 %, below 85 %"],
    )
    int8 = store.artifact(run, "out/int8", "onnxruntime", "int8", ledger=Ledger(f"{DATA} [held]", [GOOD_HOP, hop]))
    store.evaluation("out/int8", int8, worse(store.base, 0.05))
    store.record("out/int8", int8, 26.0, executed="int8")
    store.evidence("out/int8", changed=900)
    return store
