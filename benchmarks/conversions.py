"""An exported artifact against what the same runtime's own converter makes of the student, on the same threads.

- `logits`: a normalised image in, logits out, on both sides. The plain side is what each converter's first example shows.
- `labels`: a photo's pixels in, a label map out, 150 classes. The artifact has both baked in; by hand, NumPy normalises and takes
  the argmax of what the plain conversion gives.
- `labels, plugin`: the same with our kernel of label_map in the runtime, for ExecuTorch, which takes standard operators unless told
  otherwise.

Targets that are not installed are left out; those that nobody executes here (Core ML, TensorRT) have no figure.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.artifact_latency import agree, lively
from benchmarks.ratio import Finding, Logs, burst, finding, fresh, in_turns
from edgeseg.errors import MissingTool, ParityFailed, need
from edgeseg.runtimes import open_artifact, pixels

if TYPE_CHECKING:
    from edgeseg.students import Student

STUDENTS = ("ddrnet23_slim", "lraspp_mobilenet_v3_large")
CLASSES = {"logits": 11, "labels": 150, "labels, plugin": 150}
SIZE = (360, 480)
THREADS = 2
LIMITS = {"logits": 1.02, "labels": 1 / 3, "labels, plugin": 1 / 3}
PLUGIN = ("executorch",)
"""Targets whose labels are found by standard operators unless `ops` says otherwise."""
ROUNDS, PAIRS, CALLS = 3, 6, 3

Logits = Callable[[NDArray[Any]], NDArray[Any]]
"""A normalised image `[1, 3, H, W]` to logits `[1, K, H, W]`."""


def plain_openvino(student: Student, size: tuple[int, int], folder: Path, threads: int) -> Logits:
    """`openvino.convert_model`, in float32 as the artifact."""
    import torch

    from edgeseg.runtimes.openvino_model import core, openvino

    model = openvino().convert_model(student, example_input=torch.zeros(1, 3, *size), input=[1, 3, *size])
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = core().compile_model(model, "CPU", hints)
    return lambda image: compiled(image)[0]


def plain_litert(student: Student, size: tuple[int, int], folder: Path, threads: int) -> Logits:
    """`litert_torch.convert`, in LiteRT's `Interpreter`."""
    import torch

    file = folder / "plain.tflite"
    need("litert_torch").convert(student, (torch.zeros(1, 3, *size),)).export(str(file))
    interpreter = need("ai_edge_litert.interpreter").Interpreter(str(file), num_threads=threads)
    runner = interpreter.get_signature_runner()
    name = next(iter(runner.get_input_details()))
    return lambda image: next(iter(runner(**{name: image}).values()))


def plain_executorch(student: Student, size: tuple[int, int], folder: Path, threads: int) -> Logits:
    """`to_edge_transform_and_lower` with XNNPACK's partitioner."""
    import torch

    from edgeseg.kernels.executorch_runtime import Program, load

    partitioner = need("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
    exported = torch.export.export(student, (torch.zeros(1, 3, *size),))
    lowered = need("executorch.exir").to_edge_transform_and_lower(exported, partitioner=[partitioner])
    run = load(Program(bytes(lowered.to_executorch().buffer), False, 0.0), threads)

    def logits(image: NDArray[Any]) -> NDArray[Any]:
        return run([torch.from_numpy(image)])[0].numpy()

    return logits


def plain_ncnn(student: Student, size: tuple[int, int], folder: Path, threads: int) -> Logits:
    """pnnx with its defaults, but weights in float32 as in the artifact, and ncnn told to compute in it."""
    import torch

    file, example = folder / "plain.pt", torch.zeros(1, 3, *size)
    torch.jit.trace(student, example, check_trace=False).save(str(file))
    need("pnnx").convert(str(file), (example,), fp16=False)
    ncnn = need("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(folder / "plain.ncnn.param"))
    net.load_model(str(folder / "plain.ncnn.bin"))

    def logits(image: NDArray[Any]) -> NDArray[Any]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image[0])).clone())  # it does not own what it is made of
        return np.array(extractor.extract("out0")[1])[None]

    return logits


PLAIN = {
    "openvino": plain_openvino,
    "litert": plain_litert,
    "executorch": plain_executorch,
    "ncnn": plain_ncnn,
}
"""Target -> its converter's own way."""


def contest(target: str, name: str, turn: int) -> dict[str, Logs]:
    """Kind -> log-ratios, everything made and opened anew; empty where the target is not installed."""
    from edgeseg.export import TARGETS, export_model
    from edgeseg.parity import Picture, both

    logs = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters' remarks about their own dependencies
        for kind in CLASSES if target in PLUGIN else ("logits", "labels"):
            bake = () if kind == "logits" else ("pre", "labels")
            made = TARGETS[target](ops="plugin" if kind.endswith("plugin") else "auto")
            place = Path(folder) / kind
            place.mkdir()
            student = lively(name, CLASSES[kind])
            try:
                artifact = export_model(student, made, place / "artifact", SIZE, bake)
                plain = PLAIN[target](student, SIZE, place, THREADS)
            except MissingTool:
                return {}
            if artifact.manifest.ledger is None or not artifact.manifest.ledger.passed:
                raise ParityFailed(f"conversions: {name} failed its proof in {target}; no speed to compare")
            session = open_artifact(artifact, THREADS)
            picture = pixels.pattern(*SIZE)
            given = pixels.prepare(picture, session.input)
            normal = both(Picture("", picture, None), session.input)[0]

            def ours() -> NDArray[Any]:
                return session.run(given)  # noqa: B023 (called within the turn of the loop)

            def other() -> NDArray[Any]:
                if kind == "logits":  # noqa: B023
                    return plain(normal)  # noqa: B023
                image = both(Picture("", picture, None), session.input)[0]  # noqa: B023
                return pixels.labels(np.asarray(plain(image)))[None]  # noqa: B023

            agree(f"{target}, {name}, {kind}", ours, other)
            logs[kind] = in_turns(burst(ours, CALLS), burst(other, CALLS), PAIRS, seed=turn)
            session.close()
    return logs


def findings(
    targets: Sequence[str] = tuple(PLAIN), students: Sequence[str] = STUDENTS, rounds: int = ROUNDS
) -> list[Finding]:
    """Our time over the plain one, for every target that is installed, student and kind."""
    found: dict[tuple[str, str], list[Logs]] = {}
    for target in targets:
        for name in students:
            for turn in range(rounds):
                for kind, row in fresh(contest, target, name, turn).items():
                    title = (
                        f"{target} artifact / plain conversion, {name} {SIZE[0]}x{SIZE[1]}, {kind}, threads {THREADS}"
                    )
                    found.setdefault((title, kind), []).append(row)
    return [finding(title, rows, LIMITS[kind]) for (title, kind), rows in found.items()]
