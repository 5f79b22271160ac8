"""The operators in ExecuTorch, as its kernels and as standard operators, against the reference; what goes wrong there."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.kernels import build
from edgeseg.kernels.executorch_runtime import load, to_executorch
from edgeseg.kernels.label_map import label_map
from edgeseg.kernels.operators import OPERATORS, relative_rms
from edgeseg.kernels.selective_scan.cases import Case as ScanCase
from edgeseg.kernels.tiers import TIERS, Work
from edgeseg.kernels.wkv import wkv
from edgeseg.kernels.wkv.cases import Case as WkvCase
from edgeseg.kernels.wkv.reference import wkv_sequential
from edgeseg.students.mamba import MambaBlock
from edgeseg.students.rwkv_backbone import RwkvBlock

here = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not here, reason="needs executorch: pip install 'edgeseg[executorch]'")

TIERS_HERE = [name for name in TIERS if name.startswith("ExecuTorch")]

CASES: list[tuple[str, Any]] = [
    ("wkv", WkvCase(1, 32, batch=2)),
    ("wkv", WkvCase(63, 40, "one of 50", causal=True)),
    ("wkv", WkvCase(1000, 192, "N(0, 4)", "steep")),
    ("selective_scan", ScanCase(1, 32, 7)),
    ("selective_scan", ScanCase(63, 40, 1, "large", batch=2)),
    ("label_map", OPERATORS["label_map"].cases[2]),
    ("label_map", OPERATORS["label_map"].cases[6]),
]


@needs_executorch
@pytest.mark.parametrize("tier", TIERS_HERE)
@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_a_tier_is_the_reference(name: str, case: Any, tier: str) -> None:
    _hold(Work(name, case, threads=2), tier)


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_half_precision(name: str) -> None:
    for tier in TIERS_HERE:
        _hold(Work(name, next(case for other, case in CASES if other == name), half=True, threads=2), tier)


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS_HERE)
def test_a_long_scan(tier: str) -> None:
    _hold(Work("selective_scan", ScanCase(1000, 384), threads=2), tier)


def _hold(work: Work, tier: str) -> None:
    made = TIERS[tier](work)()
    assert work.operator.judge(work.case, work.half)(made) <= work.operator.within(work.case, work.half)
    assert made.dtype == (np.uint8 if work.name == "label_map" else np.float16 if work.half else np.float32)


class Several(nn.Module):
    """wkv with other decays after each other, all of them over the whole sequence."""

    def __init__(self, *decays: float) -> None:
        super().__init__()
        self.decays = nn.ParameterList(torch.full((4,), decay) for decay in decays)

    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        count = key.shape[1]
        heard = [wkv(decay / count, torch.zeros(4), key, value) for decay in self.decays]
        return torch.stack(heard)


@needs_executorch
def test_each_place_has_the_form_that_its_decays_allow() -> None:
    """The preferred form overflows on the second and on the third."""
    decays = 3.0, 300.0, -120.0
    key, value = torch.randn(2, 1, 40, 4, generator=torch.Generator().manual_seed(0))
    program = to_executorch(Several(*decays), (key, value), plugin=False)
    for made, decay in zip(load(program, 2)([key, value])[0].numpy(), decays, strict=True):
        rate, bonus = np.full(4, decay / 40, np.float32), np.zeros(4, np.float32)
        assert relative_rms(made, wkv_sequential(rate, bonus, key.numpy(), value.numpy(), causal=False)) <= 1e-5


class DecayFromInput(nn.Module):
    def forward(self, key: Tensor, value: Tensor) -> Tensor:
        return wkv(key.mean((0, 1)), torch.zeros(4), key, value)


@needs_executorch
def test_a_decay_from_the_input_needs_the_plugin() -> None:
    key, value = torch.randn(2, 1, 9, 4)
    with pytest.raises(EdgesegError, match="the decay of a wkv depends on the input"):
        to_executorch(DecayFromInput(), (key, value), plugin=False)
    made = load(to_executorch(DecayFromInput(), (key, value), plugin=True), 2)([key, value])[0]
    assert torch.allclose(made, DecayFromInput()(key, value), atol=1e-6)


@needs_executorch
@pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "graph"])
def test_nan_propagates(plugin: bool) -> None:
    key, value = torch.randn(2, 1, 70, 4)
    key[0, 40, 1] = torch.nan
    made = load(to_executorch(Several(3.0), (key, value), plugin), 2)([key, value])[0][0, 0]
    assert made[:, 1].isnan().all()
    assert made[:, [0, 2, 3]].isfinite().all()


@needs_executorch
@pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "graph"])
def test_inputs_of_another_size_are_refused(plugin: bool) -> None:
    key, value = torch.randn(2, 1, 9, 4)
    run = load(to_executorch(Several(3.0), (key, value), plugin), 2)
    for wrong in ([key[:, :5], value[:, :5]], [key.double(), value], [key]):
        with pytest.raises(EdgesegError, match=r"ExecuTorch: .*got torch.float.*run what the program was exported for"):
            run(wrong)
    assert run([key, value])[0].isfinite().all()


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort().values


@needs_executorch
def test_an_operator_without_a_kernel_is_an_error() -> None:
    with pytest.raises(EdgesegError, match=r"ExecuTorch: .*an operator that it has no kernel for"):
        load(to_executorch(Sorted(), (torch.rand(4),), plugin=True), 2)


WRONG = """
import torch
from torch import nn, ops
import edgeseg.kernels.label_map.torch_op, edgeseg.kernels.selective_scan.torch_op, edgeseg.kernels.wkv.torch_op
from edgeseg.errors import EdgesegError
from edgeseg.kernels.executorch_runtime import load, to_executorch

class Raw(nn.Module):  # past the functions that check shapes
    def __init__(self, name, *last):
        super().__init__()
        self.operator, self.last = getattr(ops.edgeseg, name), last
    def forward(self, *given):
        return self.operator(*given, *self.last)

o = torch.zeros
for name, given, last in (
    ("wkv", (o(3), o(4), o(1, 9, 4), o(1, 9, 4)), (False,)),
    ("wkv", (o(4), o(4), o(1, 900, 4), o(1, 9, 4)), (False,)),
    ("wkv", (o(4), o(4), o(1, 9, 4).half(), o(1, 9, 4)), (False,)),
    ("selective_scan", (o(1, 9, 4), o(1, 9, 4), o(4, 2), o(1, 9, 3), o(1, 9, 2), o(4)), ()),
    ("selective_scan", (o(1, 9, 4), o(1, 9, 4), o(4), o(1, 9, 2), o(1, 9, 2), o(4)), ()),
    ("label_map", (o(1, 300, 2, 2), ), (4, 4, False)),
    ("label_map", (o(1, 3, 2, 2).double(), ), (4, 4, False)),
):
    run = load(to_executorch(Raw(name, *last), given, plugin=True), 2)
    try:
        run(given)
    except EdgesegError as error:
        print(error)
"""


@needs_executorch
def test_a_program_with_wrong_shapes_ends_in_an_error() -> None:
    """In a process of its own, for what would go wrong is a crash."""
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
    assert all(line.startswith("ExecuTorch: method->execute()") for line in done.stdout.splitlines())
    for line in ("wkv takes decay [C]", "selective_scan takes u and delta", "label_map takes logits"):
        assert line in done.stderr


TWICE = """
import ctypes, torch
from edgeseg.kernels.build import library
from edgeseg.kernels.executorch_runtime import load, to_executorch
from edgeseg.kernels.label_map import label_map

class Labels(torch.nn.Module):
    def forward(self, logits):
        return label_map(logits, (4, 4))

x = torch.eye(4)[None, :, :, None]
program = to_executorch(Labels(), (x,), plugin=True)
runs = [load(program, 2), load(program, 1), load(program, 2)]
ctypes.CDLL(str(library("executorch")))
print([run([x])[0][0, :, 0].tolist() for run in runs])
"""


@needs_executorch
def test_loading_twice_is_harmless() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([[0, 1, 2, 3]] * 3), done.stderr


@needs_executorch
def test_without_a_compiler_standard_operators_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    name, case = CASES[-1]
    with pytest.raises(MissingTool, match=r"^no C\+\+ compiler .*apt-get install g\+\+.*$"):
        TIERS["ExecuTorch plugin"](Work(name, case, threads=2))
    _hold(Work(name, case, threads=2), "ExecuTorch graph")


def test_without_the_package_a_tier_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("executorch.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "executorch", None)
    build._build.cache_clear()
    for tier in TIERS_HERE:
        with pytest.raises(MissingTool, match=r"^executorch is not installed; pip install 'edgeseg\[executorch\]'$"):
            TIERS[tier](Work(*CASES[-1]))
    build._build.cache_clear()


class Small(nn.Module):
    """A network with all three operators, for images of 32x48, and constants of its own that ExecuTorch could not sort."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 5, 1)
        self.mamba, self.rwkv = MambaBlock(16, states=4, directions=2), RwkvBlock(16, 5)
        nn.init.constant_(self.rwkv.layer_scale_1, 1.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.mamba(self.stem(image))
        tokens = self.rwkv(x.flatten(2).transpose(1, 2), (8, 12))
        return label_map(self.head(tokens.transpose(1, 2).unflatten(2, (8, 12))), (32, 48))


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "graph"])
def test_a_network_draws_the_same(plugin: bool) -> None:
    torch.manual_seed(0)
    network, images = Small().eval(), torch.randn(4, 1, 3, 32, 48)
    program = to_executorch(network, (images[0],), plugin)
    assert program.plugin == plugin
    assert 0.2 < program.delegated < 1
    run = load(program, 2)
    with torch.inference_mode():
        pairs = [(network(image), run([image])[0]) for image in images]
    assert torch.cat([wanted for wanted, _ in pairs]).unique().numel() > 2
    assert np.mean([(wanted == made).float().mean().item() for wanted, made in pairs]) >= 0.999
