"""ncnn: every family's masks, what it cannot do said in one line, and what its files say of themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeseg as es
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export import TARGETS, Ncnn, networks, write
from edgeseg.export import ncnn_files as files
from edgeseg.export.deployed import Network
from edgeseg.export.ncnn_network import for_pnnx
from edgeseg.manifest import Source
from edgeseg.parity import bad_hops
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes.base import Opening
from edgeseg.runtimes.ncnn_net import BIN, CARD, PARAM, NcnnGraph, card_of, layers
from edgeseg.students import Semantic, Stage
from tests.export.test_operators import student
from tests.students.test_registry import families, settled, sizes

pytest.importorskip("ncnn", reason="needs the extra ncnn")
pytest.importorskip("pnnx", reason="needs the extra ncnn")

SIZE = (64, 96)
BAKES = ("pre", "labels")


class Tiny(Semantic):
    """One convolution, and then what a test wants."""

    licence, paper, multiple = "Apache-2.0", "none", 2
    feature_info = (Stage(4, 2),)

    def __init__(self, tail: nn.Module, classes: int) -> None:
        super().__init__(classes)
        self.name = "tiny"
        self.body, self.tail = nn.Conv2d(3, classes, 3, 2, 1), tail

    def forward_features(self, image: Tensor) -> list[Tensor]:
        return [self.body(image)]

    def low_logits(self, image: Tensor) -> Tensor:
        result: Tensor = self.tail(self.body(image))
        return result


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, compute: Any) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.compute(x)
        return result


def tiny(compute: Any = lambda x: x, classes: int = 4) -> Tiny:
    torch.manual_seed(0)
    return Tiny(Function(compute), classes).eval()


def opened(folder: Path, name: str, outputs: list[str], precision: str = "fp32") -> NcnnGraph:
    return NcnnGraph(Opening(folder / name, outputs, precision, 1))


def answers(network: Network, folder: Path, target: Ncnn) -> tuple[list[Any], list[Any], Any]:
    """What the network and the files made of it say to one input, and how it was executed."""
    written = target.write(network, folder)
    numbers = torch.Generator().manual_seed(1)
    feeds = {
        name: torch.randn(feed.shape, generator=numbers) if feed.ndim == 4 else feed
        for name, feed in network.feeds().items()
    }
    graph = opened(folder, written.files[0], network.outputs, target.precision)
    arrays = {name: feed.numpy() for name, feed in feeds.items()}
    got, execution = graph.run(arrays), graph.execution(arrays)
    graph.close()
    with torch.inference_mode():
        wanted = network(*feeds.values())
    return [each.numpy() for each in ([wanted] if isinstance(wanted, Tensor) else wanted)], got, execution


def far(wanted: Any, got: Any) -> float:
    return float(np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean()))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", families())
def test_every_family_computes_the_same(name: str, precision: Any, tmp_path: Path) -> None:
    made = settled(name)
    with torch.no_grad():
        for key, value in made.named_parameters():
            if "layer_scale" in key:  # 0.01 in a fresh network: what wkv says would drown
                value.fill_(0.5)
    for index, network in enumerate(networks(made, sizes(made)[1], (), Ncnn.interface)):
        folder = tmp_path / str(index)
        folder.mkdir()
        wanted, got, execution = answers(network, folder, Ncnn(precision=precision))
        for one, other in zip(wanted, got, strict=True):
            assert other.shape == one.shape
            assert far(one, other) <= PRECISIONS[precision].relative_rms
        assert execution.placed == {"cpu": len(layers((folder / PARAM).read_text()))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rwkv_seg_tiny", "mamba"])
def test_our_operators_are_layers_of_its_own(name: str, tmp_path: Path) -> None:
    (network,) = networks(student(name), SIZE, (), Ncnn.interface)
    operator = "wkv" if "rwkv" in name else "selective_scan"
    assert Ncnn().write(network, tmp_path).operators == [operator]
    wanted, got, _ = answers(network, tmp_path, Ncnn())
    assert far(wanted[0], got[0]) <= 2e-5


@pytest.mark.parametrize("bake", [(), ("pre",), BAKES], ids=lambda bake: "+".join(bake) or "nothing")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artifact_draws_the_students_masks(
    precision: Any, bake: tuple[str, ...], tiny_data: Data, tmp_path: Path
) -> None:
    made = tiny(classes=len(tiny_data.class_names))
    made.describe(tiny_data.class_names, tiny_data.palette)
    artifact = es.export_model(made, Ncnn(precision=precision), tmp_path / "out", SIZE, bake, data=tiny_data)
    manifest = artifact.manifest
    assert manifest.ledger is not None
    assert manifest.ledger.passed, list(bad_hops(manifest.ledger))
    assert manifest.op_tiers == ({"label_map": "host"} if "labels" in bake else {})
    assert manifest.precision.executed in {"fp32", precision}
    assert manifest.conversion["layers"] == len(layers(artifact.model_file.read_text()))
    assert manifest.conversion["transposes"] == 0


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small network, without a ledger."""
    folder = tmp_path_factory.mktemp("ncnn")
    parts = networks(tiny(), SIZE, BAKES, Ncnn.interface)
    schema.write(folder / "manifest.json", write(parts, Ncnn(), folder, Source(None, None)))
    return folder


def test_the_file_says_what_it_is_and_ncnn_reads_no_further(artifact: Path) -> None:
    card = card_of(artifact / PARAM)
    assert card.about["student"] == "tiny"
    assert card.about["baked"] == list(BAKES)
    assert card.inputs["image"].shape == [1, 3, *SIZE]
    assert card.outputs["labels"].shape == [1, 4, 32, 48]
    last = (artifact / PARAM).read_text().splitlines()[-1]
    assert last.startswith(CARD)
    assert len(last.split()) == 5
    assert json.loads(last.removeprefix(CARD))["about"]["class_names"] == card.about["class_names"]


def test_what_was_set_is_read_back(artifact: Path) -> None:
    session = Artifact.open(artifact).session
    execution = session.execution
    assert execution.precision == "fp32"
    assert execution.settings["use_fp16_arithmetic"] == "off"
    assert execution.settings["use_fp16_storage"] == "off"
    assert session.run(np.zeros((1, *SIZE, 3), np.uint8)).shape == (1, *SIZE)


def test_answers_are_the_callers_to_keep(artifact: Path) -> None:
    graph = opened(artifact, PARAM, ["labels"])
    first, second = (np.full((1, *SIZE, 3), value, np.uint8) for value in (0, 200))
    kept = graph.run({"image": first})[0]
    before = kept.copy()
    assert not np.array_equal(graph.run({"image": second})[0], before)
    graph.close()
    assert np.array_equal(kept, before)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_writing_twice_gives_the_same_bytes(precision: Any, tmp_path: Path) -> None:
    made = []
    for index in range(2):
        (network,) = networks(settled("pp_mobileseg_tiny"), (64, 96), (), Ncnn.interface)
        folder = tmp_path / str(index)
        folder.mkdir()
        Ncnn(precision=precision).write(network, folder)
        made.append([(folder / name).read_bytes() for name in (PARAM, BIN)])
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: torch.where(x > 0.1, x, -x),
        lambda x: (x >= 0.1).float() + (x < -0.1).to(x.dtype) * x + (x <= 0).float() * 0.5,
        lambda x: x * ((x > 0) & (x < 0.3) | ~(x > -0.2)),
        lambda x: x * ((x > 0).int() + ((x < 0.3) & (torch.arange(4).view(4, 1, 1) > 1)).long()),
        lambda x: x + (x.round() == 0).any(1, keepdim=True) + (x.round() != 0).float(),
        lambda x: x.masked_fill(x > 0.2, -3.0),
        lambda x: torch.lerp(x, x.square(), torch.linspace(0, 1, x.shape[3])),
        lambda x: torch.cat([part for part in x.split([3, 0, 1], 1) if part.shape[1]][::-1], 1),
        lambda x: nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic"),
        lambda x: nn.functional.interpolate(x, scale_factor=(1.3, 1.7), mode="bicubic"),
        lambda x: nn.functional.interpolate(x, scale_factor=(1.3, 1.7), mode="nearest"),
    ],
    ids=[
        "where",
        "less",
        "and-or-not",
        "whole",
        "any",
        "masked-fill",
        "lerp",
        "split",
        "bicubic",
        "bicubic by",
        "nearest by",
    ],
)
def test_what_it_lacks_is_computed_otherwise(compute: Any, tmp_path: Path) -> None:
    (network,) = networks(tiny(compute), SIZE, (), Ncnn.interface)
    wanted, got, _ = answers(network, tmp_path, Ncnn())
    assert far(wanted[0], got[0]) <= 1e-5


@pytest.mark.parametrize("apart", [0.0, 1e-30, 3e-8, 1.0, 1e30])
def test_comparisons_are_exact(apart: float) -> None:
    class Compared(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
            return (
                (a < b).float(),
                (a <= b).float(),
                (a > b).float(),
                (a >= b).float(),
                (a == b).float(),
                (a != b).float(),
            )

    for base in (0.0, 0.1) if apart != 1e-30 else (0.0,):
        a = torch.tensor([base, base + apart, base])
        b = torch.tensor([base, base, base + apart])
        module = for_pnnx(torch.export.export(Compared(), (a, b)))
        for one, other in zip(module(a, b), Compared()(a, b), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        (lambda x: x * x.argsort(1).float(), "ncnn has no layer for .*argsort in student.tail"),
        (lambda x: nn.functional.avg_pool2d(x, 3, 2, ceil_mode=True), "is wrong by 0.3 .*in student.tail"),
        (lambda x: x.topk(4, 1)[0], "cannot load the file: topk in student.tail"),
        (lambda x: (x * 3).int().float() + x, "no torch.int32: aten.to in student.tail would not cut the numbers"),
        (lambda x: x * (x * 3).type_as(torch.ones(1).long()), "no torch.int64: aten.type_as in student.tail"),
        (lambda x: x * x.bool(), "cannot make truths of torch.float32 numbers: aten.to in student.tail; use x != 0"),
        (lambda x: x * torch.logical_not(x), "0 and 1 for truths: aten.logical_not of numbers in student.tail"),
        (lambda x: x * torch.logical_or(x > 0, x), "0 and 1 for truths: aten.logical_or of numbers in student.tail"),
        (lambda x: x * x.any(1, keepdim=True), "0 and 1 for truths: aten.any of numbers in student.tail"),
        (lambda x: x * torch.logical_and(x > 0, torch.arange(4.0).view(4, 1, 1)), "aten.logical_and of numbers in"),
    ],
)
def test_what_it_cannot_do_is_named(compute: Any, said: str, tmp_path: Path) -> None:
    (network,) = networks(tiny(compute), SIZE, (), Ncnn.interface)
    with pytest.raises(EdgesegError, match=said) as caught:
        Ncnn().write(network, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; print('one'); print('segment 7 is odd'); sys.exit(3)", "exit code 3; its last words: segment 7"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV; its last words: it said nothing"),
        ("pass", "exit code 0"),
        ("import time; time.sleep(60)", "was stopped after 2 s"),
    ],
)
def test_a_converter_that_fails_is_one_line(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "pnnx"
    stand_in.write_text(f"#!{sys.executable}\n{program}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr("pnnx.EXEC_PATH", str(stand_in))
    monkeypatch.setattr(files, "LIMIT_S", 2.0)
    with pytest.raises(EdgesegError, match=said) as caught:
        files.run_pnnx(tmp_path, "model.pt")
    assert "\n" not in str(caught.value)


def test_files_that_do_not_open_are_one_line(artifact: Path, tmp_path: Path) -> None:
    text = (artifact / PARAM).read_text()
    (tmp_path / PARAM).write_text(text.replace("Convolution ", "Convolutiom ", 1))
    with pytest.raises(EdgesegError, match=r"cannot open .*model.ncnn.param \(code -1\); export again"):
        opened(tmp_path, PARAM, ["labels"])
    (tmp_path / PARAM).write_text(text)
    with pytest.raises(EdgesegError, match=r"cannot open .*model.ncnn.bin"):
        opened(tmp_path, PARAM, ["labels"])
    with pytest.raises(EdgesegError, match="has no output masks"):
        opened(artifact, PARAM, ["masks"])
    (tmp_path / PARAM).write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(EdgesegError, match="does not end with what edgeseg writes"):
        opened(tmp_path, PARAM, ["labels"])
    graph = opened(artifact, PARAM, ["labels"])
    with pytest.raises(EdgesegError, match=r"in0 is \[1, 3, 64, 96\], got \[1, 3, 32, 32\]"):
        graph.run({"image": np.zeros((1, 32, 32, 3), np.uint8)})


def test_values_are_float16_only_where_the_network_bears_it(artifact: Path, tmp_path: Path) -> None:
    assert not card_of(artifact / PARAM).half
    for index, network in enumerate(networks(settled("rwkv_sam_tiny"), (64, 64), (), Ncnn.interface)[1:]):
        folder = tmp_path / str(index)
        folder.mkdir()
        Ncnn(precision="fp16").write(network, folder)
        assert not card_of(folder / PARAM).half
    (plain,) = networks(tiny(), SIZE, (), Ncnn.interface)
    Ncnn(precision="fp16").write(plain, tmp_path)
    assert card_of(tmp_path / PARAM).half
    settings = opened(tmp_path, PARAM, ["logits"], "fp16").execution({}).settings
    assert settings["use_fp16_storage"] == "on"
    assert settings["use_fp16_arithmetic"] == "off"


def test_weights_that_float16_has_no_room_for_are_named(tmp_path: Path) -> None:
    student = tiny()
    (network,) = networks(student, SIZE, (), Ncnn.interface)
    weight = network.get_parameter("student.body.weight")
    with torch.no_grad():
        weight.mul_(1e-4)
    with pytest.raises(
        EdgesegError, match=r"stores float16 weights below 6\.1e-05 as 0, which takes \d+ % of student\.body\.weight"
    ):
        Ncnn(precision="fp16").write(network, tmp_path)
    Ncnn(precision="fp32").write(network, tmp_path)
    with torch.no_grad():
        weight.mul_(1e-6)  # nothing is left of it anywhere
    Ncnn(precision="fp16").write(network, tmp_path)


def test_there_is_no_plugin() -> None:
    assert TARGETS["ncnn"] is Ncnn
    with pytest.raises(EdgesegError, match="has no plugin; choose ops auto or graph"):
        Ncnn(ops="plugin")
