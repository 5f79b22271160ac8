"""The real runtimes, on a convolution that numpy can check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import sha256
from edgeseg.manifest import FileEntry, InputSpec, Manifest, OutputSpec, Precision, Source, StudentCard
from edgeseg.pictures import save_picture
from edgeseg.provenance import MadeBy
from edgeseg.runtimes import RUNTIMES, Session, open_artifact, pixels
from edgeseg.runtimes.agent import half
from edgeseg.runtimes.devices import DEVICES, trust
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.record import Protocol
from edgeseg.runtimes.torch_eager import TorchSession
from tests.runtimes.here import here

TINY = Protocol("tiny", min_s=0.2, min_count=20, max_s=10.0, warmup_count=3, warmup_s=0.05)
HEIGHT, WIDTH, CLASSES = 24, 40, 4
WITHIN = 1e-5  # float32, sums of 27 products of numbers around 1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHT = np.random.default_rng(1).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32)
BAKED = pytest.mark.parametrize("baked", [False, True], ids=["logits", "baked"])
TARGETS = pytest.mark.parametrize("target", ["onnxruntime", "openvino"])


def reference(image: NDArray[Any]) -> NDArray[np.float64]:
    """The convolution of `image [1, 3, H, W]` in float64."""
    padded = np.pad(image[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.asarray(np.einsum("chwyx,kcyx->khw", windows, WEIGHT)[None])


def graph(baked: bool) -> onnx.ModelProto:
    """Float NCHW to logits, or uint8 NHWC to labels."""
    conv = helper.make_node("Conv", ["planes", "weight"], ["logits"], pads=[1, 1, 1, 1])
    initializers = [numpy_helper.from_array(WEIGHT, "weight")]
    if not baked:
        image = helper.make_tensor_value_info("planes", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES, HEIGHT, WIDTH])
        nodes = [conv]
    else:
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3])
        out = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, HEIGHT, WIDTH])
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            conv,
            helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
            helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
        ]
    return helper.make_model(
        helper.make_graph(nodes, "conv", [image], [out], initializers),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def artifact(folder: Path, target: str, baked: bool = False, precision: str = "fp32") -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    onnx.save(graph(baked), model)
    shape, layout, dtype = (
        ([1, HEIGHT, WIDTH, 3], "NHWC", "uint8") if baked else ([1, 3, HEIGHT, WIDTH], "NCHW", "float32")
    )
    document = schema.dump(
        Manifest(
            schema=1,
            created="2026-01-01T00:00:00+00:00",
            edgeseg=MadeBy("0", None, None),
            student=StudentCard("conv", "semantic", list("abcd"), [(0, 0, 0)] * 4, "", 108, MEAN, STD, 1),
            source=Source(None, None),
            input=schema.parse(
                InputSpec,
                {
                    "name": "image" if baked else "planes",
                    "shape": shape,
                    "layout": layout,
                    "dtype": dtype,
                    "colour": "RGB",
                    "mean": MEAN,
                    "std": STD,
                    "baked": ["pre", "labels"] if baked else [],
                },
                "input",
            ),
            output=OutputSpec("labels", "labels", [1, HEIGHT, WIDTH], "uint8")
            if baked
            else OutputSpec("logits", "logits", [1, CLASSES, HEIGHT, WIDTH], "float32"),
            decoder=None,
            target={"name": target},
            precision=Precision(precision, None),
            files=[FileEntry(model.name, sha256(model), model.stat().st_size)],
            tools={},
            calibration=None,
            op_tiers={},
            ledger=None,
            accuracy=None,
        )
    )
    schema.write(folder / "manifest.json", schema.parse(Manifest, document, "manifest"))
    return Artifact.open(folder)


def image(session: Session, seed: int) -> NDArray[Any]:
    picture = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return pixels.prepare(picture, session.input)


@TARGETS
def test_logits_are_numpy_s(tmp_path: Path, target: str) -> None:
    session = open_artifact(artifact(tmp_path, target), threads=1)
    given = image(session, seed=0)
    error = np.abs(session.run(given) - reference(given)).max()
    assert error <= WITHIN * np.abs(reference(given)).max()


@TARGETS
def test_baked_labels_are_numpy_s(tmp_path: Path, target: str) -> None:
    session = open_artifact(artifact(tmp_path, target, baked=True), threads=2)
    given = image(session, seed=0)
    labels = session.run(given)
    assert labels.dtype == np.uint8
    assert np.mean(labels == reference(given.transpose(0, 3, 1, 2)).argmax(axis=1)) > 0.999  # ties of rounding


@TARGETS
@BAKED
def test_an_output_stays_when_the_next_one_is_made(tmp_path: Path, target: str, baked: bool) -> None:
    session = open_artifact(artifact(tmp_path, target, baked), threads=1)
    first = session.run(image(session, seed=0))
    kept = first.copy()
    second = session.run(image(session, seed=1))
    assert np.array_equal(first, kept) and not np.array_equal(first, second)
    session.close()
    assert np.array_equal(first, kept)


@TARGETS
def test_an_input_need_not_be_contiguous(tmp_path: Path, target: str) -> None:
    session = open_artifact(artifact(tmp_path, target), threads=1)
    given = image(session, seed=0)
    strided = np.repeat(given, 2, axis=3)[..., ::2]
    assert not strided.flags.c_contiguous
    assert np.array_equal(session.run(strided), session.run(given))


@TARGETS
@BAKED
def test_a_wrong_input_is_one_line(tmp_path: Path, target: str, baked: bool) -> None:
    session = open_artifact(artifact(tmp_path, target, baked), threads=1)
    given = image(session, seed=0)
    for wrong in (given[:, :, :-1], given.astype(np.float64), given[0]):
        with pytest.raises(EdgesegError, match=r"the input is .* got"):
            session.run(wrong)


@TARGETS
def test_the_executed_precision_is_read_back(tmp_path: Path, target: str) -> None:
    execution = open_artifact(artifact(tmp_path, target), threads=1).execution
    assert (execution.runtime, execution.precision, execution.threads) == (target, "fp32", 1)
    assert execution.version == RUNTIMES[target].version()
    assert execution.settings["arithmetic"] == "fp32 1"
    assert execution.placed is not None and sum(execution.placed.values()) >= 1


def test_openvino_says_what_it_made_of_half_precision(tmp_path: Path) -> None:
    execution = open_artifact(artifact(tmp_path, "openvino", precision="fp16"), threads=1).execution
    assert execution.precision in {"fp16", "bf16", "fp32"}  # by processor
    assert execution.settings["arithmetic"] == f"{execution.precision} 1"
    assert execution.settings["inference_precision_hint"] == execution.precision


@pytest.mark.parametrize(("own", "taken"), [("bf16", "bf16"), ("f16", "f16"), ("f32", "f16")])
def test_half_precision_in_openvino_is_the_one_the_processor_is_fast_in(own: str, taken: str) -> None:
    class Type:
        def get_type_name(self) -> str:
            return own

    class Core:
        def get_property(self, device: str, name: str) -> Type:
            assert (device, name) == ("CPU", "INFERENCE_PRECISION_HINT")
            return Type()

    assert half(Core()) == taken


@TARGETS
def test_a_broken_model_is_one_line(tmp_path: Path, target: str) -> None:
    broken = artifact(tmp_path, target)
    broken.model_file.write_bytes(b"not a model")
    with pytest.raises(EdgesegError, match=r"cannot open .*model\.onnx") as caught:
        open_artifact(broken, threads=1)
    assert "\n" not in str(caught.value)


@TARGETS
@BAKED
def test_a_real_runtime_is_measured(tmp_path: Path, target: str, baked: bool) -> None:
    found = measure(artifact(tmp_path, target, baked), protocol=TINY, threads=1, e2e=baked)
    assert found.provenance == "measured"
    assert (found.subject.target, found.execution.runtime) == (target, target)
    assert (found.execution.precision, found.execution.threads) == ("fp32", 1)
    assert found.latency.count >= TINY.min_count
    assert (found.e2e is not None) == baked
    assert not any("label" in reason or "asked" in reason for reason in found.reasons)


def test_a_run_is_measured_in_eager_torch(tmp_path: Path) -> None:
    from edgeseg.runs import save
    from edgeseg.students import create

    run = save(create("ddrnet23_slim", classes=3), tmp_path / "run", size=(64, 64))
    found = measure(run, protocol=TINY, threads=1)
    assert (found.subject.student, found.subject.target, found.execution.runtime) == ("ddrnet23_slim", "torch", "torch")
    assert (found.subject.input_shape, found.execution.precision) == ([1, 3, 64, 64], "fp32")
    with pytest.raises(EdgesegError, match="multiple"):
        TorchSession(run, threads=1, size=(65, 64))


def test_the_torch_runtime_takes_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="runs a run"):
        open_artifact(artifact(tmp_path, "torch"), threads=1)


@TARGETS
def test_the_agent_of_a_device_runs_it_as_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setitem(DEVICES._entries, "here", lambda address, entry: here(tmp_path))
    made = artifact(tmp_path, target, baked=target == "openvino")
    there = measure(made, protocol=TINY, threads=1, device="here://")
    local = measure(made, protocol=TINY, threads=1)
    assert there.execution == local.execution
    assert not [reason for reason in there.reasons if "masks" in reason]


def test_without_the_runtime_here_a_device_is_held_to_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, picture = artifact(tmp_path, "onnxruntime", baked=True), pixels.pattern(HEIGHT, WIDTH)
    given = pixels.prepare(picture, made.manifest.input)
    drawn = pixels.labels(open_artifact(made, threads=1).run(given))
    image = tmp_path / "evidence" / "01-image.jpg"
    save_picture(image, picture)
    save_picture(image.with_name("01-artifact.png"), drawn)

    def missing(*_: object, **__: object) -> None:
        raise MissingTool("the runtime is not installed")

    monkeypatch.setattr(trust, "open_artifact", missing)
    assert trust.doubt(made, given, image, drawn) is None
    assert "wrong masks: 0.00% of" in str(trust.doubt(made, given, image, (drawn + 1) % CLASSES))
    assert "wrong masks: [1, 1] labels" in str(trust.doubt(made, given, image, drawn[:1, :1]))
    assert "nothing to compare its masks with" in str(trust.doubt(made, given, None, drawn))


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_runtime_knows_its_name_and_version(name: str) -> None:
    assert RUNTIMES[name].name == name
    try:
        assert RUNTIMES[name].version()
    except MissingTool as error:
        assert "pip install" in str(error)


def test_importing_the_runtimes_loads_none_of_them() -> None:
    heavy = "torch onnxruntime openvino cv2 pydantic"
    script = f"import edgeseg.runtimes, sys; print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    assert _python(script) == "[]"


def test_openvino_does_not_phone_home() -> None:
    script = (
        "from edgeseg.runtimes.openvino_model import version; version()\n"
        "from openvino.tools.ovc import telemetry; print(type(telemetry).__module__)"
    )
    assert _python(script) == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.skipif(sys.platform != "linux", reason="signal stacks of glibc")
def test_a_signal_after_openvino_closed_is_survived(tmp_path: Path) -> None:
    artifact(tmp_path, "openvino")
    script = f"""
import gc, signal, subprocess
from edgeseg.artifact import Artifact
from edgeseg.runtimes import open_artifact
signal.signal(signal.SIGCHLD, lambda number, frame: None)
opened = [open_artifact(Artifact.open({str(tmp_path)!r}), 1) for _ in range(2)]
for session in opened:  # the first one goes first
    session.close()
gc.collect()
subprocess.run(["true"], check=True)
print("alive")
"""
    assert _python(script) == "alive"


def _python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("small", "large"), [(8, 12), (8, 20), (6, 4), (5, 3), (7, 7)])
def test_labels_lie_where_the_picture_is(small: int, large: int) -> None:
    """The label of an enlarged pixel is that of the small one that its centre lies in, to the left or right where it is on an edge."""
    row = pixels.enlarge(np.arange(small, dtype=np.uint8)[None].repeat(2, 0), 3, large)[0]
    centres = (np.arange(large) + 0.5) * small / large
    assert np.all((row <= centres) & (centres <= row + 1))
