"""Prove an artifact: run the trained student and what was made of it on the same images, and keep the ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.diagnosis import HALVES, diagnose, halved, rounded
from edgeseg.errors import EdgesegError, ParityFailed
from edgeseg.export.deployed import Deployed, DeployedDecoder, DeployedEncoder, ImageNetwork
from edgeseg.ledger import Hop, Ledger
from edgeseg.manifest import InputSpec
from edgeseg.metrics import boundary_counts, confusion, f_score, iou
from edgeseg.pictures import as_jpeg, save_picture
from edgeseg.prompts import box_of, first_click, objects_of
from edgeseg.quantize.document import read
from edgeseg.quantize.post_training import apply
from edgeseg.quantize.precision import MIN_PIXELS, PRECISIONS
from edgeseg.runtimes import PromptSession, pixels
from edgeseg.runtimes.base import GRAPH, HOST, runtime_of
from edgeseg.students import Promptable, Semantic, Student
from edgeseg.students.promptable import BOTTOM_RIGHT, PADDING, POSITIVE, TOP_LEFT

IMAGES = 8
"""Images that an export is verified on, spread over the split."""

OBJECTS = 4
"""Objects per image that a promptable artifact is asked about, each by a click and by a box."""

DIAGNOSED = 2
"""Images that usual mistakes are tried on when an artifact fails."""

ELSEWHERE = 2
"""Images that an artifact is verified on at each other size."""

EVIDENCE = 3
"""Images whose masks are kept for people to look at."""

Array = NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """An image to compare on, at the artifact's size: RGB `[H, W, 3]` and, where known, its true labels."""

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


@dataclass
class Comparison:
    """Adds up how one hop's outputs differ from those before it, image by image."""

    classes: int
    images: int = 0
    squares: float = 0.0
    energy: float = 0.0
    largest: float = 0.0
    logits: bool = True
    nonfinite: int = 0
    matrix: NDArray[np.int64] = field(init=False)
    boundaries: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.classes, self.classes), np.int64)
        self.boundaries = np.zeros((self.classes, 2, 2), np.int64)

    def add(self, before: Array, after: Array) -> None:
        """Count one output; outputs are `logits [1, K, H, W]` or `labels [1, H, W]`, labels win where one of them is."""
        self.nonfinite += sum(int(part.size - np.isfinite(part).sum()) for part in (before, after))  # labels hide NaN
        if before.ndim == after.ndim == 4:
            with np.errstate(invalid="ignore"):  # infinity minus infinity: counted above
                difference = after.astype(np.float64) - before
            self.squares += float(np.square(difference).sum())
            self.energy += float(np.square(before, dtype=np.float64).sum())
            self.largest = max(self.largest, float(np.abs(difference).max()))
        else:
            self.logits = False
        first, second = pixels.labels(before), pixels.labels(after)
        self.matrix += confusion(first, second, self.classes)
        self.boundaries += boundary_counts(first, second, self.classes)

    def hop(self, name: str, precision: str, class_names: Sequence[str]) -> Hop:
        """The ledger's row, held to the tolerances of `precision`; NaN anywhere fails."""
        limit = PRECISIONS[precision]
        total = self.matrix.sum()
        same = float(np.trace(self.matrix) / total)
        each = iou(self.matrix) / 100
        least = max(MIN_PIXELS, 2 * limit.share * total)  # in both maps together
        enough = self.matrix.sum(0) + self.matrix.sum(1) >= least
        judged = np.where(enough, each, np.nan)
        worst = int(np.nanargmin(judged)) if np.isfinite(judged).any() else None
        worst_iou = float(judged[worst]) if worst is not None else 1.0
        edges = f_score(self.boundaries)[enough] / 100
        boundary = float(np.nanmean(edges)) if np.isfinite(edges).any() else 1.0  # nothing is drawn that has an edge
        finite = self.nonfinite == 0
        rms = float(np.sqrt(self.squares / max(self.energy, 1e-30))) if self.logits and finite else None
        checks = (
            (self.nonfinite == 0, f"{self.nonfinite} values are NaN or infinite"),
            (
                not self.logits or (rms is not None and rms <= limit.relative_rms),
                f"logits differ by {'no finite' if rms is None else f'{rms:.2g}'} relative RMS, above {limit.relative_rms:g}",
            ),
            (
                same >= limit.same_label,
                f"only {100 * same:.3f} % of the pixels keep their label, below {100 * limit.same_label} %",
            ),
            (boundary >= limit.boundary_f, f"boundary F is {boundary:.4f}, below {limit.boundary_f}"),
            (
                worst_iou >= limit.worst_class_iou,
                f"class {class_names[worst or 0]} overlaps by {worst_iou:.4f} IoU, below {limit.worst_class_iou}",
            ),
        )
        reasons = [text for passed, text in checks if not passed]
        return Hop(
            name=name,
            precision=precision,
            images=self.images,
            relative_rms=rms,
            max_error=self.largest if self.logits and finite else None,
            same_label=same,
            boundary_f=boundary,
            worst_class=None if worst is None else class_names[worst],
            worst_class_iou=worst_iou,
            nonfinite=self.nonfinite,
            passed=not reasons,
            reasons=reasons,
        )


def verify_with(
    artifact: Artifact,
    against: Student,
    data: Data | None = None,
    split: str | None = None,
    count: int = IMAGES,
    progress: Progress | None = None,
) -> Artifact:
    """Verify on `count` images of `data` (its selection split by default), or on generated scenes."""
    where, pictures = choose(data or load_data(default_data(against)), split, count, artifact.size)
    return verify_on(artifact, against, where, pictures, progress)


def default_data(student: Student) -> str:
    """The generated images that a student is compared on where nobody names others."""
    return "synthetic_objects" if isinstance(student, Promptable) else "synthetic"


def verify_on(
    artifact: Artifact, against: Student, where: str, pictures: Sequence[Picture], progress: Progress | None = None
) -> Artifact:
    """The artifact with its ledger and evidence renewed; `where` names the images in the ledger.

    Three rows: the student against its folded graph in torch, the graph against what the runtime gives, and the student
    against the runtime, which is what the other two add up to. A runtime that executes in another precision than asked
    for is held to the coarser of the two (weights rounded to float16 stay rounded, computed in float32 or not); the
    manifest says so.
    """
    manifest = artifact.manifest
    check_pair(artifact, against)
    answers = asked if isinstance(against, Promptable) else labelled
    rows = [Comparison(against.classes, images=len(pictures)) for _ in range(3)]
    kept = set(np.linspace(0, len(pictures) - 1, min(EVIDENCE, len(pictures))).astype(int).tolist())
    evidence: list[tuple[Picture, NDArray[np.uint8], NDArray[np.uint8]]] = []
    given: list[NDArray[np.uint8]] = []
    answer = answers(artifact, against)
    for index, one in enumerate(pictures):
        made = answer(one)
        if index < DIAGNOSED:
            given.append(pixels.labels(made[0][2]))
        for trained, graph, device in made:
            for row, before, after in zip(rows, (trained, graph, trained), (graph, device, device), strict=True):
                row.add(before, after)
        if index in kept:
            if not evidence and isinstance(against, Semantic):
                # elsewhere this file is drawn from, and held to what is drawn here: of its very pixels, not those before a JPEG
                made = answer(replace(one, image=pixels.decode(as_jpeg(one.image))))
            evidence.append((one, pixels.labels(made[0][0]), pixels.labels(made[0][2])))
        if progress:
            progress(index + 1, len(pictures))
    execution = artifact.session.execution
    executed = execution.precision
    tiers = dict.fromkeys(manifest.op_tiers, execution.settings.get("ops", GRAPH))
    if manifest.output.kind == "labels" and manifest.op_tiers.get("label_map") == HOST:
        tiers["label_map"] = HOST
    precision = coarser(manifest.precision.asked, executed)
    names, runtime = against.class_names, str(manifest.target["name"])
    if execution.runtime != runtime:  # somebody stands in for it
        runtime = f"{runtime} in {execution.runtime}"
    hops = [
        rows[0].hop("student -> graph", manifest.precision.asked if manifest.calibration else "fp32", names),
        rows[1].hop(f"graph -> {runtime}", precision, names),
        rows[2].hop(f"student -> {runtime}", precision, names),
    ]
    if not hops[2].passed and not hops[2].nonfinite and (why := _why(against, pictures, given, artifact.size)):
        hops[2].reasons.append(why)
    elif not hops[2].passed and precision in HALVES and isinstance(against, Semantic):
        what, alone = NAMES[precision], _alone(artifact, against, pictures, precision)
        if (
            alone.passed and executed not in HALVES
        ):  # float32, of weights that stay rounded: not always the lesser change
            rounded = _alone(artifact, against, pictures, precision, weights=True)
            what, alone = (what, alone) if rounded.passed else (f"{what} of the weights", rounded)
        hops[2].reasons.append(_blame(alone, what, execution.settings.get("sums")))
    hops[1:] = (replace(hop, placed=execution.placed) for hop in hops[1:])
    keep_evidence(artifact.folder / "evidence", evidence)
    if manifest.input.sizes is not None:
        assert isinstance(against, Semantic)
        hops += (
            row.hop(f"student -> {runtime}{at}", precision, names) for at, row in elsewhere(artifact, against, pictures)
        )
    hops += in_other_ways(artifact, against, pictures, runtime)
    return artifact.update(
        ledger=Ledger(where, hops), precision=replace(manifest.precision, executed=executed), op_tiers=tiers
    )


def _why(
    student: Student, pictures: Sequence[Picture], given: Sequence[NDArray[np.uint8]], size: tuple[int, int]
) -> str | None:
    """The usual mistake that explains the labels given for the first pictures, in words."""
    if isinstance(student, Promptable):
        if student.masks > 1:
            return None  # which of the masks was seen is not known
        points, labels = questions(pictures[0], size)
        prompt = torch.from_numpy(points[:1]), torch.from_numpy(labels[:1])
        words = diagnose(student, [(pictures[0].image, given[0])], EXPLAINED, prompt)
    else:
        words = diagnose(
            student, [(one.image, labels) for one, labels in zip(pictures, given, strict=False)], EXPLAINED
        )
    return None if words is None else f"it draws what the student draws when {words}"


def _alone(
    artifact: Artifact, student: Semantic, pictures: Sequence[Picture], precision: str, weights: bool = False
) -> Hop:
    """What rounding does without any runtime, in PyTorch: of the weights, and unless it is `weights` alone of all that operators make."""
    row = Comparison(student.classes, images=len(pictures))
    network = halved(Deployed(student, artifact.size, artifact.manifest.input.baked), precision).eval()
    for one in pictures:
        normal, given = both(one, artifact.manifest.input)
        made = rounded(
            network, torch.from_numpy(given if network.bakes_pre else normal), None if weights else precision
        )
        with torch.inference_mode():
            row.add(student.eval()(torch.from_numpy(normal)).numpy(), made.numpy())
    return row.hop("student -> rounded", precision, student.class_names)


def _blame(alone: Hop, what: str, sums: str | None) -> str:
    """Whether it is rounding that these weights do not bear, or what the runtime does beside it."""
    if not alone.passed:
        return f"{what} alone, in PyTorch, fails too ({'; '.join(alone.reasons)}): these weights need float32 in places"
    kept = f"{100 * alone.same_label:.3f} % of the labels and a boundary F of {alone.boundary_f:.4f}"
    adds = f", which adds up in {sums}" if sums else ""
    return f"{what} alone, in PyTorch, keeps {kept} and would pass: the rest is lost by the runtime{adds}"


NAMES = {"fp16": "float16", "bf16": "bfloat16"}


EXPLAINED = 0.98
"""The share of pixels that a usual mistake must explain before it is named."""


def coarser(asked: str, executed: str | None) -> str:
    """The precision with the wider tolerance; one that was not read back counts as the one asked for."""
    if executed is None or executed not in PRECISIONS:
        return asked
    return max(asked, executed, key=lambda name: PRECISIONS[name].relative_rms)


def check_pair(artifact: Artifact, student: Student) -> None:
    """Refuse to compare an artifact with a student it was not made from."""
    card = artifact.manifest.student
    if (card.name, card.class_names) != (student.name, list(student.class_names)):
        raise EdgesegError(
            f"{artifact.folder} is a {card.name} with {len(card.class_names)} classes, not the {student.name} with "
            f"{student.classes} classes it is to be verified against"
        )


Made = TypeVar("Made", bound=ImageNetwork)


def in_whole_numbers(artifact: Artifact, network: Made) -> Made:
    """The network, quantized as the artifact was, if it was: so that what whole numbers change and what the runtime adds are two hops."""
    quantization = read(artifact.folder)
    if quantization is not None:
        network.whole = apply(network, quantization)
    return network


Answers = list[tuple[Array, Array, Array]]
"""What the trained student, its folded graph and the runtime say to the same question, for every question to one image."""


def labelled(artifact: Artifact, student: Student) -> Callable[[Picture], Answers]:
    """How a semantic student answers: one label map for an image."""
    assert isinstance(student, Semantic)
    deployed = in_whole_numbers(artifact, Deployed(student, artifact.size, artifact.manifest.input.baked))

    @torch.inference_mode()
    def answer(one: Picture) -> Answers:
        normal, given = both(one, artifact.manifest.input)
        trained: Array = student.eval()(torch.from_numpy(normal)).numpy()
        graph: Array = deployed.graph(torch.from_numpy(given if deployed.bakes_pre else normal)).numpy()
        return [(trained, graph, artifact.session.run(given))]

    return answer


def asked(artifact: Artifact, student: Student) -> Callable[[Picture], Answers]:
    """How a promptable student answers: a mask, or as many as it offers, for every prompt about an image."""
    assert isinstance(student, Promptable)
    encoder = in_whole_numbers(artifact, DeployedEncoder(student, artifact.size, artifact.manifest.input.baked))
    decoder = DeployedDecoder(encoder)
    session = artifact.session
    assert isinstance(session, PromptSession)

    @torch.inference_mode()
    def answer(one: Picture) -> Answers:
        normal, given = both(one, artifact.manifest.input)
        points, labels = questions(one, artifact.size)
        prompts = torch.from_numpy(points), torch.from_numpy(labels)
        trained = student.eval()(torch.from_numpy(normal), *prompts)
        graph = decoder(*encoder.graph(torch.from_numpy(given if encoder.bakes_pre else normal)), *prompts)
        device = session.decode(session.encode(given), points, labels)
        masks = [trained[0].numpy(), graph[0].numpy(), device[0]]
        if masks[1].ndim == 3:  # the best mask is chosen inside
            masks[0] = trained[0].numpy()[np.arange(len(points)), trained[1].argmax(1).numpy()]
            first, second, third = (each[:, None] for each in masks)
            return [(first[[i]], second[i], third[i]) for i in range(len(points))]
        first, second, third = (each.reshape(-1, 1, 1, *each.shape[2:]) for each in masks)
        return list(zip(first, second, third, strict=True))

    return answer


def in_other_ways(artifact: Artifact, student: Student, pictures: Sequence[Picture], runtime: str) -> Iterator[Hop]:
    """The student against the runtime in each other way that it may run the artifact."""
    for name, other in runtime_of(artifact).others(artifact).items():
        row = Comparison(student.classes, images=len(pictures))
        answer = (asked if isinstance(student, Promptable) else labelled)(other, student)
        for one in pictures:
            for trained, _, device in answer(one):
                row.add(trained, device)
        execution = other.session.execution
        precision = coarser(artifact.manifest.precision.asked, execution.precision)
        hop = row.hop(f"student -> {runtime} on {name}", precision, student.class_names)
        yield replace(hop, placed=execution.placed)
        other.session.close()


def elsewhere(artifact: Artifact, student: Semantic, pictures: Sequence[Picture]) -> Iterator[tuple[str, Comparison]]:
    """The student against the runtime at what else the artifact takes: its least and largest sizes, one of both, and a full batch.

    Gives words for a hop's name, and the comparison.
    """
    spec = artifact.manifest.input
    assert spec.sizes is not None
    (low, narrow), (high, wide) = spec.sizes.least, spec.sizes.most
    places = [(size, 1) for size in dict.fromkeys([(low, narrow), (high, wide), (low, wide)]) if size != artifact.size]
    if spec.sizes.batch > 1:
        places.append((artifact.size, spec.sizes.batch))
    for (height, width), count in places:
        there = pixels.at(spec, height, width)
        chosen = pictures[: max(count, ELSEWHERE)]
        chosen = [chosen[index % len(chosen)] for index in range(max(count, len(chosen)))]
        row = Comparison(student.classes, images=len(chosen))
        for start in range(0, len(chosen), count):
            pairs = [both(one, there) for one in chosen[start : start + count]]
            made = artifact.session.run(np.concatenate([given for _, given in pairs]))
            with torch.inference_mode():
                for index, (normal, _) in enumerate(pairs):
                    row.add(student.eval()(torch.from_numpy(normal)).numpy(), made[index : index + 1])
        yield f" at {height}x{width}" if count == 1 else f" in batches of {count}", row


def both(one: Picture, spec: InputSpec) -> tuple[Array, Array]:
    """The image as the student takes it, and as the artifact does."""
    normal = replace(spec, shape=[1, 3, *pixels.size(spec)], layout="NCHW", dtype="float32", colour="RGB", baked=[])
    return pixels.prepare(one.image, normal), pixels.prepare(one.image, spec)


def questions(one: Picture, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prompts `[P, 2, 2]` and `[P, 2]` about an image: a click and a box for each of its largest objects, else a grid of clicks."""
    height, width = size
    clicks = [(width * x, height * y) for y in (0.25, 0.5, 0.75) for x in (0.25, 0.5, 0.75)]
    boxes = [(width * 0.25, height * 0.25, width * 0.75, height * 0.75)]
    objects = objects_of(one.truth)[:OBJECTS] if one.truth is not None else []
    if objects:
        clicks, boxes = [first_click(mask, None) for mask in objects], [box_of(mask) for mask in objects]
    points = [[click, (0, 0)] for click in clicks] + [[box[:2], box[2:]] for box in boxes]
    labels = [[POSITIVE, PADDING]] * len(clicks) + [[TOP_LEFT, BOTTOM_RIGHT]] * len(boxes)
    return np.array(points, np.float32), np.array(labels, np.float32)


def choose(data: Data, split: str | None, count: int, size: tuple[int, int]) -> tuple[str, list[Picture]]:
    """`count` images spread over a split, resized to (height, width), and a name for them."""
    name = split or data.select
    part = data.split(name)
    if not len(part):
        raise EdgesegError(f"{data.spec}[{name}] has no images to compare on")
    chosen = np.linspace(0, len(part) - 1, min(count, len(part))).astype(int)
    return f"{data.spec}[{name}]", [picture(part.names[i], *part[i], size) for i in chosen]


def picture(name: str, image: NDArray[np.uint8], truth: NDArray[np.uint8], size: tuple[int, int]) -> Picture:
    """The pair at another size: the image as the runtimes see it, the labels by nearest neighbour."""
    if truth.shape == size:
        return Picture(name, image, truth)
    import cv2

    resized = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return Picture(name, resized, pixels.enlarge(truth, *size))


def keep_evidence(folder: Path, evidence: Sequence[tuple[Picture, NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Write images, masks and truth as the report reads them; those of an earlier proof go."""
    for old in folder.glob("*"):
        if re.fullmatch(r"\d\d-\w+\.(jpg|png)|bisect\.png", old.name):
            old.unlink()
    for index, (one, reference, made) in enumerate(evidence, 1):
        save_picture(folder / f"{index:02d}-image.jpg", one.image)
        save_picture(folder / f"{index:02d}-reference.png", reference)
        save_picture(folder / f"{index:02d}-artifact.png", made)
        if one.truth is not None:
            save_picture(folder / f"{index:02d}-truth.png", one.truth)


def refusal(artifact: Artifact) -> ParityFailed | None:
    """Why an artifact that was verified must not be used; null when it may."""
    ledger = artifact.manifest.ledger
    if ledger is None or ledger.passed:
        return None
    return ParityFailed(f"{artifact.folder} does not draw the masks of its run: {'; '.join(bad_hops(ledger))}")


def bad_hops(ledger: Ledger) -> Iterator[str]:
    """One line per reason a hop failed for."""
    for hop in ledger.hops:
        yield from (f"{hop.name}: {reason}" for reason in hop.reasons)
