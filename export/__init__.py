"""From a trained student to the file a device runs, with the proof that it still draws the same masks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg import schema
from edgeseg.artifact import MANIFEST, Artifact, read_manifest
from edgeseg.errors import EdgesegError
from edgeseg.export.coreml_package import CoreMl as CoreMl
from edgeseg.export.deployed import NATURAL, Deployed, DeployedDecoder, DeployedEncoder, Interface, Network
from edgeseg.export.executorch_program import ExecuTorch as ExecuTorch
from edgeseg.export.litert_file import LiteRt as LiteRt
from edgeseg.export.ncnn_files import Ncnn as Ncnn
from edgeseg.export.onnx_file import OnnxRuntime as OnnxRuntime
from edgeseg.export.openvino_ir import OpenVino as OpenVino
from edgeseg.export.target import TARGETS as TARGETS
from edgeseg.export.target import Target, Written
from edgeseg.export.target import from_options as from_options
from edgeseg.export.tensorrt_onnx import TensorRt as TensorRt
from edgeseg.files import aside_folder, sha256
from edgeseg.manifest import (
    SCHEMA,
    Calibration,
    Fact,
    FileEntry,
    InputSpec,
    Manifest,
    OutputSpec,
    Precision,
    Sizes,
    Source,
    StudentCard,
)
from edgeseg.provenance import made_by, now, versions
from edgeseg.quantize.document import DOCUMENT, Quantization
from edgeseg.quantize.scheme import QUANTIZED
from edgeseg.runtimes.base import GRAPH, HOST
from edgeseg.students import Promptable, Semantic, Student

if TYPE_CHECKING:
    from edgeseg.data import Data
    from edgeseg.parity import Progress


def export_model(
    student: Student,
    target: Target,
    out: Path | str,
    size: tuple[int, int],
    bake: Iterable[str] = (),
    source: Source | None = None,
    data: Data | None = None,
    progress: Progress | None = None,
    quantization: Quantization | None = None,
    calibration: Calibration | None = None,
) -> Artifact:
    """Export a student at `size` (height, width), verify the result, and put the folder in place when it is complete.

    bake:   `pre` takes uint8 RGB `[1, H, W, 3]`, with `bgr` BGR, `labels` gives uint8 `[1, H, W]`: labels, or the best mask of a prompt.
    source: the run the student comes from; unknown for one that was made in Python.
    data:   where the images come from that the masks are compared on; generated scenes by default.
    quantization, calibration: what makes it an artifact of whole numbers, and the images that it is from (`quantize_model`).

    A failed proof leaves the artifact with its failed ledger, to be looked at, in `out`, or in `OUT-failed` where `out` has one
    that passed, until the next one passes; whoever calls decides what that means.
    """
    from edgeseg.parity import verify_with
    from edgeseg.quantize.post_training import apply

    out = Path(out)
    refuse_foreign(out, student, target)
    if target.precision in QUANTIZED and quantization is None:
        raise EdgesegError(
            f"{target.name} {target.precision} needs calibration images: `edgeseg quantize` and es.quantize_model take them"
        )
    if quantization is not None and (quantization.target, quantization.precision) != (target.name, target.precision):
        raise EdgesegError(
            f"the quantization is for {quantization.target} {quantization.precision}, the export to {target.name} {target.precision}; "
            "quantize for that"
        )
    parts = networks(student, size, bake, target.interface, target.sizes)
    if quantization is not None:
        parts[0].whole = apply(parts[0], quantization)
    place = out

    def instead(part: Path) -> Path:
        nonlocal place
        if not _passed(part) and _passed(out):
            place = failed_place(out)
            refuse_foreign(place, student, target)
        else:
            carry_over(out, part)
        return place

    with aside_folder(out, instead) as part:
        manifest = write(parts, target, part, source or source_of(student))
        if quantization is not None:
            schema.write(part / DOCUMENT, quantization)
            files = [*manifest.files, entry(part, DOCUMENT)]
            manifest = replace(manifest, files=files, calibration=calibration)
        schema.write(part / MANIFEST, manifest)
        verify_with(Artifact(part, manifest), student, data, progress=progress)
    if place == out:
        clear_failed(out)
    return Artifact.open(place)


def failed_place(out: Path) -> Path:
    """Where an artifact goes whose proof failed while `out` has one that passed."""
    return out.with_name(f"{out.name}-failed")


def clear_failed(out: Path) -> None:
    """Remove `OUT-failed` of an earlier try once what was put into `out` has passed: the verdict would count it for ever.

    It stays where it may be something else: of another student or target, or no failure.
    """
    failed = failed_place(out)
    try:
        old, new = Artifact.open(failed).manifest, Artifact.open(out).manifest
    except EdgesegError:
        return
    same = (old.student.name, old.target.get("name")) == (new.student.name, new.target.get("name"))
    if same and _passed(out) and not _passed(failed):
        shutil.rmtree(failed, ignore_errors=True)


def refuse_foreign(out: Path, student: Student, target: Target) -> None:
    """Refuse a place where something else than an artifact of this student for this target would be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).exists():
        raise EdgesegError(f"{out} holds something that is no artifact and would be replaced; export to another folder")
    try:
        manifest = read_manifest(out)
    except EdgesegError as error:
        raise EdgesegError(f"{error}; it would be replaced: export to another folder, or remove {out}") from error
    there = manifest.student.name, manifest.student.class_names, str(manifest.target.get("name"))
    if there != (student.name, list(student.class_names), target.name):
        classes = f" with {len(there[1])} classes" if there[1] else ""
        raise EdgesegError(
            f"{out} is a {there[0]}{classes} for {there[2]}, which a {student.name} for {target.name} would replace; "
            f"export to another folder, or remove {out}"
        )


def _passed(folder: Path) -> bool:
    """Whether an artifact is there whose proof holds."""
    try:
        ledger = Artifact.open(folder).manifest.ledger
    except EdgesegError:
        return False
    return ledger is not None and ledger.passed


def carry_over(old: Path, new: Path) -> None:
    """Keep the records and evaluations of an earlier export; they name its files by hash, so other bytes do not inherit them."""
    for evaluation in old.glob("eval-*.json"):
        if not (new / evaluation.name).exists():
            shutil.copy2(evaluation, new)
    if (old / "records").is_dir():
        shutil.copytree(old / "records", new / "records", dirs_exist_ok=True)


def source_of(student: Student) -> Source:
    """The run that a student was loaded from, as long as it has its weights; unknown for any other."""
    from edgeseg.runs import CARD, digest, read_card

    if student.run is None or not (Path(student.run) / CARD).exists():
        return Source(None, None)
    card = read_card(Path(student.run))
    return Source(student.run, card.sha256) if digest(student) == card.sha256 else Source(None, None)


def networks(
    student: Student,
    size: tuple[int, int],
    bake: Iterable[str],
    interface: Interface = NATURAL,
    sizes: Sizes | None = None,
) -> tuple[Network, ...]:
    """The graphs a student is exported as: one, or an encoder and a decoder.

    Raises:
        EdgesegError: a size that does not line up, or something that cannot be baked in.
    """
    if isinstance(student, Promptable):
        if sizes is not None:
            raise EdgesegError(f"{student.name} has one size, into which photos of all shapes are fitted; got {sizes}")
        encoder = DeployedEncoder(student, size, bake, interface)
        return encoder, DeployedDecoder(encoder)
    if not isinstance(student, Semantic):
        raise EdgesegError(f"{student.name} is neither semantic nor promptable; derive it from one of the two")
    usual = size if sizes is None else sizes.nearest(size, student.step)
    return (Deployed(student, usual, bake, interface, sizes),)


def write(parts: Sequence[Network], target: Target, folder: Path, source: Source) -> Manifest:
    """Write the networks of a student into `folder`; the manifest, still without its ledger."""
    first, last = parts[0], parts[-1]
    begun = time.monotonic()
    if isinstance(first, DeployedEncoder) and isinstance(last, DeployedDecoder):
        encoder, decoder = (
            _write_into(target, each, folder, name) for each, name in ((first, "encoder"), (last, "decoder"))
        )
        facts = encoder.facts | {f"decoder_{name}": fact for name, fact in decoder.facts.items()}
        written = Written(encoder.files + decoder.files, encoder.operators + decoder.operators, facts)
        made, decoding = last.output_spec(), last.decoder_spec(decoder.files[0], target.at_once)
    else:
        assert isinstance(first, Deployed)
        written, made, decoding = target.write(first, folder), first.output_spec(), None
    seconds: dict[str, Fact] = {"seconds": round(time.monotonic() - begun, 1)}
    manifest = describe(first, target, first.input_spec(), made, source, folder, written)
    return replace(manifest, decoder=decoding, conversion=seconds | written.facts)


def _write_into(target: Target, network: Network, folder: Path, name: str) -> Written:
    (folder / name).mkdir()
    written = target.write(network, folder / name)
    return replace(written, files=[f"{name}/{file}" for file in written.files])


def describe(
    network: Network,
    target: Target,
    given: InputSpec,
    made: OutputSpec,
    source: Source,
    folder: Path,
    written: Written,
) -> Manifest:
    """What is known of a fresh export from its files."""
    student = network.student
    host = {"label_map": HOST} if made.kind == "labels" and network.interface.labels == "host" else {}
    return Manifest(
        schema=SCHEMA,
        created=now(),
        edgeseg=made_by(),
        student=StudentCard(
            name=student.name,
            task=student.task,
            class_names=list(student.class_names),
            palette=list(student.palette),
            licence=student.licence,
            params=sum(value.numel() for value in student.deployed_parameters()),
            mean=student.mean,
            std=student.std,
            multiple=student.multiple,
        ),
        source=source,
        input=given,
        output=made,
        decoder=None,
        target=target.options(),
        precision=Precision(asked=target.precision, executed=None),
        files=[entry(folder, name) for name in written.files],
        tools=versions(*target.tools),
        calibration=None,
        op_tiers=dict.fromkeys(written.operators, GRAPH) | host,  # until it has run
        ledger=None,
        accuracy=None,
    )


def entry(folder: Path, name: str) -> FileEntry:
    """A file as the manifest has it."""
    return FileEntry(name, sha256(folder / name), (folder / name).stat().st_size)
