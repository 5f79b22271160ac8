"""The operators in Core ML's standard operators, read back from .mlpackage files and interpreted: no Mac, so no speed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Deployed
from edgeseg.kernels import bench, conformance
from edgeseg.kernels.baselines import RUNTIMES
from edgeseg.kernels.label_map import cases as label_map
from edgeseg.kernels.label_map.torch_op import label_map as label_map_operator
from edgeseg.kernels.operators import OPERATORS as OURS
from edgeseg.kernels.operators import relative_rms
from edgeseg.kernels.selective_scan import cases as selective_scan
from edgeseg.kernels.tiers import TIERS, Work, timed
from edgeseg.kernels.tiers_coreml import in_mil
from edgeseg.kernels.wkv import cases as wkv
from edgeseg.kernels.wkv import wkv as wkv_function
from edgeseg.quantize.graph import MARKS
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes.mil_interpreter import Program, arithmetic, model_file, parse, read_package
from edgeseg.runtimes.mil_operators import OPERATORS
from tests.export.test_operators import student

pytestmark = pytest.mark.skipif(find_spec("coremltools") is None, reason="needs Core ML Tools: pip install coremltools")

TIER = "Core ML graph"
STORED = {"iOS17": "constexpr_affine_dequantize", "iOS18": "constexpr_blockwise_shift_scale"}
"""Deployment -> the operator that stands for a weight of 8 bits."""

BANDS = label_map.Case(1, 150, (8, 9), (250, 300))
CASES = {
    "wkv": (wkv.Case(1, 32), wkv.Case(63, 32, "one of 50", "steep", batch=2), wkv.Case(1000, 32, causal=True)),
    "selective_scan": (
        selective_scan.Case(1, 32, 7),
        selective_scan.Case(63, 32, 16, "large", batch=2),
        selective_scan.Case(1000, 32, 1, "long memory"),
    ),
    "label_map": (label_map.CASES[2], label_map.CASES[6], label_map.CASES[7], BANDS),
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("name", "case"), [(name, case) for name in OURS for case in CASES[name]], ids=str)
def test_every_operator_is_the_reference(name: str, case: Any, half: bool) -> None:
    assert OURS[name].judge(case, half)(TIERS[TIER](Work(name, case, half))()) <= OURS[name].within(case, half)


@pytest.mark.parametrize("causal", [False, True])
def test_decays_beyond_the_chunk_form_take_the_doubling_one(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wkv.DECAYS, "beyond", (-30.0, 1000.0))
    case = wkv.Case(100, 32, "N(0, 4)", "beyond", causal=causal)
    work = Work("wkv", case)
    assert in_mil(work, ()).counts()["matmul"] == 0
    assert OURS["wkv"].judge(case, False)(TIERS[TIER](work)()) <= case.within


def test_growth_beyond_float32_and_a_decay_of_the_input_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(wkv.DECAYS, "growth", (-200.0, 0.0))
    with pytest.raises(EdgesegError, match=r"grows by exp\(200\) over the sequence"):
        in_mil(Work("wkv", wkv.Case(63, 32, decays="growth")), ())

    def free(key: Tensor) -> Tensor:
        return wkv_function(key[0, 0].sigmoid(), key.new_zeros(4), key, key)

    with pytest.raises(EdgesegError, match="the decay of a wkv depends on the input"):
        converted(free, (torch.rand(1, 8, 4),), tmp_path)


@dataclass(frozen=True)
class Memory(selective_scan.Case):
    """Nothing but what is remembered: no way around the states."""

    def feeds(self) -> dict[str, Any]:
        feeds = super().feeds()
        return {**feeds, "D": 0 * feeds["D"]}


@pytest.mark.parametrize(
    ("name", "case", "without"),
    [
        ("wkv", wkv.Case(1000, 32), 1e-3),  # twice the error with: what float16 sums and weights add to rounded keys
        ("wkv", wkv.Case(1000, 32, decays="steep"), np.nan),  # exp(15) overflows
        (
            "selective_scan",
            Memory(4096, 32, 1, "long memory"),
            4e-3,
        ),  # decays near 1 are off by half an ulp, 4096 times
    ],
)
def test_float32_islands_save_float16(name: str, case: Any, without: float) -> None:
    work = Work(name, case, half=True)
    errors = []
    for islands in ((name,), ()):
        program = in_mil(work, islands)
        feeds = dict(zip((each.name for each in program.inputs), work.given().values(), strict=True))
        errors.append(work.operator.judge(case, True)(program.run(feeds)[program.outputs[0]]))
        kinds = {each.kind for step in program.steps if step.operator != "cast" for each in step.made}
        assert kinds == {"float32"} if islands else "float16" in kinds
    assert errors[0] <= case.half
    assert errors[1] > without or np.isnan(errors[1])


def test_how_many_operators_they_take() -> None:
    counts = in_mil(Work("wkv", wkv.Case(4096, 32)), ()).counts()
    around = {"reduce_max": 1, "sub": 1, "exp": 1, "concat": 1, "split": 1, "real_div": 1}
    both_ways = {"reshape": 2, "mul": 2 + 2 * 4, "matmul": 2 * 2, "reduce_sum": 2, "expand_dims": 2, "add": 2 + 2}
    assert counts == {**around, **both_ways}
    causal = in_mil(Work("wkv", wkv.Case(4097, 32, causal=True)), ()).counts()
    assert causal["matmul"] == 2 and causal["pad"] == causal["slice_by_index"] == 1
    scan = in_mil(Work("selective_scan", selective_scan.Case(256, 32)), ()).counts()  # 16 chunks of 16
    assert (scan["exp"], scan["matmul"], scan["split"], scan["concat"]) == (2, 1, 4, 2)
    assert scan["add"] == 15 + 14 + 16 + 1 and scan.total() < 130
    large = in_mil(Work("label_map", BANDS), ()).counts()  # 43 MiB in bands of 8
    assert large == {"resize_bilinear": 1 + 6, "split": 1, "reduce_argmax": 6, "concat": 1}
    assert in_mil(Work("label_map", label_map.CASES[0]), ()).counts() == {"resize_bilinear": 1, "reduce_argmax": 1}


def test_interpreted_times_enter_no_table() -> None:
    assert TIERS[TIER].simulated
    assert TIER not in timed() and {*timed(), TIER} == set(TIERS)
    ways = list(bench._ways(Work("wkv", OURS["wkv"].ordinary)))
    assert TIER not in ways and "Core ML" not in RUNTIMES and ways == [*timed(), *RUNTIMES]


def test_ops_test_knows_the_tier() -> None:
    rows = list(conformance.examine(["label_map"], most_cases=1, halves=[False], tiers=[TIER]))
    assert [(row.tier, row.state, row.error) for row in rows] == [(TIER, "ok", 0.0)]


def converted(
    function: Callable[..., Any],
    given: tuple[Tensor, ...],
    folder: Path,
    half: bool = False,
    deployment: str = "iOS17",
) -> Path:
    from edgeseg.kernels.coreml_ops import half_outside, save_package

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = function if isinstance(function, nn.Module) else None

        def forward(self, *given: Tensor) -> Any:
            return function(*given)

    exported = torch.export.export(Network().eval(), given)
    return save_package(exported, folder / "network.mlpackage", half_outside() if half else None, deployment)


def results(program: Program, *given: Tensor) -> list[Any]:
    feeds = {each.name: tensor.numpy() for each, tensor in zip(program.inputs, given, strict=True)}
    made = program.run(feeds)
    return [made[name] for name in program.outputs]


class Zoo(nn.Module):
    """Every operator that the interpreter knows, in the ways that networks use it; one result each."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, (2, 1), (1, 2), dilation=(1, 2), groups=2)
        self.point = nn.Conv2d(4, 5, 1, bias=False)
        self.norm, self.linear = nn.LayerNorm(10, 1e-3), nn.Linear(10, 7)
        self.plain = nn.Linear(10, 3, bias=False)
        self.up = nn.ConvTranspose2d(4, 6, 3, 2, (1, 0), groups=2, dilation=(1, 2))
        self.batch = nn.BatchNorm2d(4, 1e-2)
        self.batch.running_mean, self.batch.running_var = torch.rand(4), 1 + torch.rand(4)
        torch.nn.init.normal_(self.norm.weight)
        torch.nn.init.normal_(self.norm.bias)
        self.register_buffer("order", torch.randperm(10))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`x [1, 4, 8, 10]`."""
        first, rest = x.split([1, 3], 1)
        low, high = x.chunk(2, 2)
        tokens = x.flatten(2).transpose(1, 2)
        return (
            *(self.conv(x), self.point(x)),
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            F.avg_pool2d(x, (2, 3), (2, 1)),
            *(self.norm(x), self.linear(x), self.plain(x)),
            *(F.relu(x), x.sigmoid(), F.silu(x), F.softplus(x), F.gelu(x)),
            *(x.exp() / (1 + x.sigmoid()), low * high - 2.5 * low + high),
            *(torch.cat([rest, first], 1), x.mT @ x, tokens @ x.flatten(2)),
            *(x.sum((1, 3)), x.amax(2, keepdim=True), x.amax(3)),
            *(x[:, 1:3, ::2, -4:], x[:, 2], F.pad(x, (1, 0, 2, 3)), x[..., self.order]),
            *(x.unsqueeze(2) * 2, (4 * x).to(torch.int32)),
            F.interpolate(x, scale_factor=2, mode="bilinear"),
            F.interpolate(x, size=(15, 28), mode="bilinear", align_corners=True),
            label_map_operator(x, 13, 21, False).to(torch.int32),
            *(self.up(x), F.max_pool2d(x, 3, 2, 1), self.batch(x.relu()), F.pixel_shuffle(x, 2)),
            *(F.relu6(x), x.clamp(-1, 2), F.hardsigmoid(x), F.hardswish(x), x.softmax(1), x.softmax(-1)),
            *(x.sin(), x.cos(), F.group_norm(x, 2), (x * x + 1).sqrt(), x.mean((2, 3)), x.mean(1, keepdim=True)),
            *(torch.stack([low, high], 1), first.expand(1, 3, 8, 10) * rest, first.tile(1, 2, 1, 3)),
            x.gather(3, self.order[:4].expand(1, 4, 8, 4)),
            *(((x == first) | (x != low.mean())).int(), ((x > 1) & (x >= first)).int(), (~(x <= 0)).int()),
            *(F.interpolate(x, size=size, mode="nearest") for size in ((16, 30), (12, 15))),
            *(F.interpolate(x, size=(16, 15), mode="bicubic", align_corners=align) for align in (False, True)),
        )


class Whole(nn.Module):
    """Every operator of whole numbers: a convolution between marks, and a sum of both kinds of them."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-127, 128, (6, 4, 3, 3), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(6) / 100 + 1e-3)
        self.register_buffer("zero", torch.zeros(6, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """`x [1, 4, 8, 10]`."""
        signed, unsigned = (-128, 127, torch.int8), (0, 255, torch.uint8)
        weight = MARKS.dequantize_per_channel(self.weight, self.scale, self.zero, 0, -127, 127, torch.int8)
        given = MARKS.dequantize_per_tensor(MARKS.quantize_per_tensor(x, 0.05, 0, *signed), 0.05, 0, *signed)
        made: Tensor = F.conv2d(given, weight)
        return MARKS.dequantize_per_tensor(MARKS.quantize_per_tensor(made, 0.3, 7, *unsigned), 0.3, 7, *unsigned)


@pytest.mark.parametrize(("deployment", "stored"), STORED.items())
def test_whole_numbers_are_what_pytorch_makes(deployment: str, stored: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, x = Whole().eval(), 3 * torch.randn(1, 4, 8, 10)
    package = converted(whole, (x,), tmp_path, deployment=deployment)
    program = read_package(package)
    assert program.counts() == {"quantize": 2, "dequantize": 2, "conv": 1, stored: 1}
    assert arithmetic(parse(model_file(package))) == {"int8": 1}
    assert np.array_equal(results(program, x)[0], whole(x).numpy())
    halved = read_package(converted(whole, (x,), tmp_path / "half", half=True, deployment=deployment))
    kinds = {each.kind for step in halved.steps if step.operator != "cast" for each in step.made}
    assert kinds == {"float16", "int8", "uint8"}
    assert relative_rms(results(halved, x)[0], whole(x).double().numpy()) <= 1e-1  # some are rounded to the next one


def test_weights_alone_are_no_integer_arithmetic(tmp_path: Path) -> None:
    weight = torch.randint(-127, 128, (6, 4, 3, 3), dtype=torch.int8)

    def alone(x: Tensor) -> Tensor:
        scale, zero = torch.ones(6), torch.zeros(6, dtype=torch.int64)
        return F.conv2d(x, MARKS.dequantize_per_channel(weight, scale, zero, 0, -127, 127, torch.int8))

    package = converted(alone, (torch.zeros(1, 4, 8, 10),), tmp_path)
    assert arithmetic(parse(model_file(package))) == {"fp32": 1}


def test_scales_that_float16_has_not_are_raised() -> None:
    from edgeseg.kernels.coreml_ops import scales_in_half

    class Marked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            numbers = (-128, 127, torch.int8)
            dead = MARKS.dequantize_per_tensor(MARKS.quantize_per_tensor(x, 1e-10, 0, *numbers), 1e-10, 0, *numbers)
            return MARKS.dequantize_per_tensor(MARKS.quantize_per_tensor(dead, 0.5, 0, *numbers), 0.5, 0, *numbers)

    program = torch.export.export(Marked(), (torch.zeros(1, 4),))
    scales_in_half(program)
    made = [node.args[1] for node in program.graph.nodes if node.op == "call_function"]
    assert made == [2**-14, 2**-14, 0.5, 0.5]


def test_the_interpreter_computes_what_pytorch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    zoo, x = Zoo().eval(), 3 * torch.randn(1, 4, 8, 10)
    program = read_package(converted(zoo, (x,), tmp_path))
    used = {*program.counts(), *(kind for name in OURS for kind in in_mil(Work(name, CASES[name][1]), ()).counts())}
    assert used | {"quantize", "dequantize", *STORED.values()} == OPERATORS.keys()
    with torch.inference_mode():
        wanted = zoo(x)
    for index, (made, exact) in enumerate(zip(results(program, x), wanted, strict=True)):
        assert made.shape == exact.shape, index
        assert relative_rms(made, exact.double().numpy()) <= 1e-6, index
    halved = read_package(converted(zoo, (x,), tmp_path / "half", half=True))
    for index, (made, exact) in enumerate(zip(results(halved, x), wanted, strict=True)):
        assert relative_rms(made, exact.double().numpy()) <= 5e-3 or made.dtype == np.int32, index  # exp(8)


def test_what_every_operator_makes_can_be_watched(tmp_path: Path) -> None:
    program = read_package(converted(lambda x: (x.relu() + 1).sigmoid(), (torch.ones(1, 4),), tmp_path))
    feeds = {program.inputs[0].name: -np.ones((1, 4), np.float32)}
    values = program.given(feeds)
    seen = {each.name: values[each.name] for step in program.executed(values) for each in step.made}
    made = program.run(feeds)
    assert list(seen) == [each.name for step in program.steps for each in step.made]
    assert [float(value[0, 0]) for value in seen.values()] == pytest.approx([0, 1, 1 / (1 + np.exp(-1))])
    assert np.array_equal(made[program.outputs[0]], seen[program.outputs[0]].numpy())


def test_float16_is_rounded_and_overflows(tmp_path: Path) -> None:
    x = torch.tensor([1 / 3, 1000.0, 60000.0])
    made = results(read_package(converted(lambda x: (x + x, x * 0.5), (x,), tmp_path, half=True)), x)
    half = x.half()
    assert np.array_equal(made[0], (half + half).numpy()) and np.isinf(made[0][2])
    assert np.array_equal(made[1], (half * 0.5).numpy())


def small(folder: Path) -> Path:
    torch.manual_seed(0)
    return converted(nn.Linear(32, 8), (torch.zeros(1, 32),), folder)


def test_an_operator_that_is_not_known_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = small(tmp_path)
    monkeypatch.delitem(OPERATORS, "linear")
    with pytest.raises(EdgesegError, match=r"has the MIL operators linear, .* add them to runtimes/mil_operators.py"):
        read_package(package)
    pooled = converted(lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), (torch.zeros(1, 1, 8, 8),), tmp_path / "pool")
    with pytest.raises(EdgesegError, match=r"the MIL operator avg_pool is not known so: .*ceil_mode=True"):
        results(read_package(pooled), torch.zeros(1, 1, 8, 8))


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    program = read_package(small(tmp_path))
    name = program.inputs[0].name
    for feeds in ({}, {name: np.zeros((1, 31), np.float32)}):
        with pytest.raises(EdgesegError, match=rf"the network takes {name} \[1, 32\], got "):
            program.run(feeds)


MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def edited(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        from coremltools.proto.Model_pb2 import Model

        model = Model.FromString((package / MODEL).read_bytes())
        change(model.mlProgram.functions["main"].block_specializations["CoreML7"])
        (package / MODEL).write_bytes(model.SerializeToString())

    return damage


def first_blob(block: Any) -> Any:
    values = (each.attributes["val"] for each in block.operations if each.type == "const")
    return next(value.blobFileValue for value in values if value.HasField("blobFileValue"))


def cut(name: str, share: float) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        data = (package / name).read_bytes()
        (package / name).write_bytes(data[: int(share * len(data))])

    return damage


def elsewhere(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    for entry in manifest["itemInfoEntries"].values():
        entry["path"] = "../../elsewhere/model.mlmodel"
    (package / "Manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda package: (package / "Manifest.json").unlink(), "Manifest.json does not exist"),
        (lambda package: (package / "Manifest.json").write_text("[]"), "names no model"),
        (elsewhere, "leaves its folder"),
        (lambda package: (package / MODEL).unlink(), "is damaged or no mlprogram: FileNotFoundError"),
        (cut(MODEL, 0.9), "is damaged or no mlprogram: DecodeError"),
        (cut(MODEL, 0.0), "is damaged or no mlprogram"),
        (cut(WEIGHTS, 0.9), r"weight.bin has no 1024 bytes at \d+"),
        (cut(WEIGHTS, 0.0), "is damaged or no mlprogram"),
        (lambda package: shutil.rmtree(package / "Data/com.apple.CoreML/weights"), "FileNotFoundError"),
        (edited(lambda block: setattr(first_blob(block), "fileName", "@model_path/../../../x")), "leaves its folder"),
        (edited(lambda block: setattr(first_blob(block), "offset", 100)), "has no 1024 bytes at 100"),
        (edited(lambda block: block.operations.pop()), "nothing makes linear"),
    ],
)
def test_a_damaged_package_is_one_line(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    package = small(tmp_path)
    damage(package)
    with pytest.raises(EdgesegError, match=said) as caught:
        read_package(package)
    assert "\n" not in str(caught.value)


def test_what_coremltools_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match=r"cannot convert the network to Core ML: .*polygamma"):
        converted(lambda x: torch.special.polygamma(1, x), (torch.ones(1, 4),), tmp_path)


class Both(nn.Module):
    """Logits around their mean, so that every class wins somewhere, and the labels of their upsampling."""

    middle: Tensor

    def __init__(self, deployed: Deployed, image: Tensor) -> None:
        super().__init__()
        self.deployed = deployed
        with torch.inference_mode():
            mean = deployed.student.low_logits(image).mean((0, 2, 3), keepdim=True)
        self.register_buffer("middle", mean.clone())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.deployed.student.low_logits(image) - self.middle
        return logits, label_map_operator(logits, *self.deployed.size, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "half", [pytest.param(False, marks=pytest.mark.wide, id="fp32"), pytest.param(True, id="fp16")]
)
@pytest.mark.parametrize("name", ["rwkv_seg_tiny", "mamba"])
def test_networks_draw_the_same(name: str, half: bool, tmp_path: Path) -> None:
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    small: Any = student(name)
    net = Both(Deployed(small, (64, 96)), image).eval()
    middle = net.middle.clone()
    logits, labels = results(read_package(converted(net, (image,), tmp_path, half)), image)
    assert torch.equal(net.middle, middle)  # without a copy its sign was seen to change
    with torch.inference_mode():
        wanted, drawn = (each.numpy() for each in net(image))
    assert min(np.bincount(drawn.ravel(), minlength=5)) > 0.02 * drawn.size
    allowed = PRECISIONS["fp16" if half else "fp32"]
    assert relative_rms(logits, wanted.astype(np.float64)) <= allowed.relative_rms
    assert (labels == drawn).mean() >= allowed.same_label
