"""The operators in LiteRT: as composites that run anywhere, and as custom operators with our kernels."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.export import networks
from edgeseg.kernels import build
from edgeseg.kernels.build import library
from edgeseg.kernels.litert_plugin import customs, read, with_customs
from edgeseg.kernels.litert_runtime import CompiledModel
from edgeseg.kernels.operators import OPERATORS, relative_rms
from edgeseg.kernels.tiers import TIERS, Work
from edgeseg.kernels.wkv.reference import wkv_reference
from tests.export.test_operators import student

pytestmark = pytest.mark.skipif(find_spec("litert_torch") is None, reason="needs litert-torch and ai-edge-litert")

COMPOSITE, CUSTOM, CUMSUM, REVERSE = 206, 32, 128, 105
"""Operators, as LiteRT's schema numbers them."""

LITERT = ("LiteRT plugin", "LiteRT graph")

PICKED = {"wkv": ((1, 0), (63, 5), (1000, 2), (1000, 3)), "selective_scan": ((1, 3), (63, 0), (1000, 7))}
"""Operator -> tokens and which of their cases: outliers, gentle and steep decays, one way and both."""

CHOSEN = [
    (name, [case for case in OPERATORS[name].cases if case.tokens == tokens][index])
    for name, some in PICKED.items()
    for tokens, index in some
] + [("label_map", OPERATORS["label_map"].cases[index]) for index in (0, 6)]


@pytest.mark.parametrize(("name", "case"), CHOSEN, ids=str)
def test_both_tiers_are_the_reference(name: str, case: Any) -> None:
    operator = OPERATORS[name]
    for tier in LITERT:
        made = TIERS[tier](Work(name, case, threads=2))()
        assert operator.judge(case, False)(made) <= case.within, tier


@pytest.mark.parametrize("name", OPERATORS)
def test_half_precision_around_the_operators(name: str) -> None:
    operator = OPERATORS[name]
    case = operator.cases[2]
    for tier in LITERT:
        made = TIERS[tier](Work(name, case, half=True))()
        assert operator.judge(case, True)(made) <= operator.within(case, True), tier


class Two(nn.Module):
    """Two wkv, of which the second has decays that chunks do not bear, and labels of what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-3, 3, 8))
        self.bonus = nn.Parameter(torch.zeros(8))

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Values, and the labels of them as an image of 4x10."""
        from edgeseg.kernels.label_map import label_map
        from edgeseg.kernels.wkv import wkv

        first = wkv(self.decay / key.shape[1], self.bonus, key, value)
        second = wkv(self.decay.abs() * 3, self.bonus, key, first, causal=True)
        return second, label_map(second.transpose(1, 2).unflatten(2, (4, 10)), (8, 30))


@cache
def two() -> tuple[bytes, dict[str, Tensor]]:
    """Its file, and what it was made with."""
    from edgeseg.kernels.litert_composite import convert

    key, value = torch.randn(2, 1, 40, 8, generator=torch.Generator().manual_seed(0))
    given = {"key": key, "value": value}
    return convert(torch.export.export(Two().eval(), (), given), given), given


def opened(file: bytes, given: dict[str, Tensor]) -> CompiledModel:
    model = CompiledModel(file, 1, customs(file, library("litert"), 1))
    for name, tensor in given.items():
        model.inputs[name][...] = tensor.numpy()
    model.run()
    return model


def operators(file: bytes) -> list[Counter[int]]:
    """For every graph of a file, how often it has each operator."""
    model = read(file)
    return [
        Counter(int(model.operatorCodes[op.opcodeIndex].builtinCode) for op in g.operators) for g in model.subgraphs
    ]


def test_composites_have_a_name_and_a_body_each() -> None:
    file, _ = two()
    main, *bodies = operators(file)
    assert main[COMPOSITE] == 3
    assert not any(body[CUMSUM] or body[REVERSE] for body in bodies)
    nodes = [op.builtinOptions2 for op in read(file).subgraphs[0].operators if op.builtinOptions2 is not None]
    assert [node.name for node in nodes] == [b"edgeseg.wkv", b"edgeseg.wkv", b"edgeseg.label_map"]
    assert len({node.decompositionSubgraphIndex for node in nodes}) == 3
    chunk, doubling = (bodies[node.decompositionSubgraphIndex - 1] for node in nodes[:2])
    assert chunk != doubling


def test_customs_take_the_place_of_composites() -> None:
    file, given = two()
    rewritten = with_customs(file)
    main, *bodies = operators(rewritten)
    assert (main[CUSTOM], main[COMPOSITE], sum(map(Counter.total, bodies))) == (3, 0, 0)
    assert [each.name for each in customs(rewritten, library("litert"), 1)] == [
        "edgeseg.wkv(0)",
        "edgeseg.wkv(1)",
        "edgeseg.label_map(8,30,0)",
    ]
    with torch.inference_mode():
        values, labels = Two()(**given)
    for model in (opened(file, given), opened(rewritten, given)):
        assert relative_rms(model.outputs["output_0"], values.double().numpy()) <= 1e-5
        assert (model.outputs["output_1"] == labels.numpy()).mean() >= 0.999
        model.close()


def test_xnnpack_takes_a_composite_as_a_whole() -> None:
    from edgeseg.kernels.litert_composite import single

    operator = OPERATORS["wkv"]
    case = next(case for case in operator.cases if case.tokens == 1000 and not case.causal)
    file = single("wkv", case.feeds(), operator.constant, case.attributes())
    model = CompiledModel(file, 1)
    model.run()
    assert model.delegated
    rewritten = with_customs(file)
    model = CompiledModel(rewritten, 1, customs(rewritten, library("litert"), 1))
    model.run()
    assert not model.delegated


def test_nan_stays_in_its_channel() -> None:
    file, given = two()
    spoilt = {name: tensor.clone() for name, tensor in given.items()}
    spoilt["key"][0, 20, 5] = torch.nan
    for each in (file, with_customs(file)):
        bad = np.isnan(opened(each, spoilt).outputs["output_0"]).any((0, 1))
        assert np.flatnonzero(bad).tolist() == [5]


def test_a_decay_that_depends_on_the_input_is_refused() -> None:
    from edgeseg.kernels.litert_composite import convert

    class Wrong(Two):
        def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            from edgeseg.kernels.wkv import wkv

            return wkv(key.mean((0, 1)), self.bonus, key, value), value

    with pytest.raises(EdgesegError, match="the decay of wkv depends on the input; only a trained decay"):
        convert(torch.export.export(Wrong().eval(), (), two()[1]), two()[1])


def test_a_file_that_is_none_is_one_line() -> None:
    file, _ = two()
    for spoilt in (b"", b"not a model at all", file[:100], file[: len(file) // 2]):
        with pytest.raises(EdgesegError, match="no LiteRT file, or a damaged one") as caught:
            with_customs(spoilt)
        assert "\n" not in str(caught.value)
        with pytest.raises(EdgesegError, match=r"LiteRT answers CreateModelFromBuffer with status \d+: "):
            CompiledModel(spoilt, 1)
    with pytest.raises(EdgesegError, match=r"LiteRT answers RunCompiledModel with status 3: it does not run, see"):
        CompiledModel(with_customs(file), 1).run()
    newer = with_customs(file).replace(b"edgeseg.wkv(1)", b"edgeseg.new(1)")
    with pytest.raises(EdgesegError, match=r"has an operator 'edgeseg.new\(1\)', there is wkv, .*; update edgeseg"):
        customs(newer, library("litert"), 1)


def test_without_a_compiler_the_graph_tier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    build._build.cache_clear()
    operator = OPERATORS["wkv"]
    work = Work("wkv", operator.cases[0])
    with pytest.raises(MissingTool, match=r"no C\+\+ compiler .*apt-get install g\+\+"):
        TIERS["LiteRT plugin"](work)
    assert operator.judge(work.case, False)(TIERS["LiteRT graph"](work)()) <= work.case.within


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba", "rwkv_seg_tiny"])
def test_networks_draw_the_same_both_ways(name: str) -> None:
    from edgeseg.kernels.litert_composite import convert

    (net,) = networks(student(name), (64, 64), ("pre", "labels"))
    file = convert(torch.export.export(net, tuple(net.feeds().values())), net.feeds())
    models = [opened(each, net.feeds()) for each in (file, with_customs(file))]
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 255, (1, 64, 64, 3), np.uint8)
        with torch.inference_mode():
            wanted = net(torch.from_numpy(image)).numpy()
        for model in models:
            model.inputs["image"][...] = image
            model.run()
            assert (model.outputs["output_0"] == wanted).mean() >= 0.999


def test_growth_that_no_sum_bears_is_told_pair_by_pair() -> None:
    from edgeseg.kernels.litert_composite import single

    rng = np.random.default_rng(0)
    feeds = {"decay": np.full(4, -3.0), "bonus": np.zeros(4), "key": rng.normal(size=(1, 40, 4))}
    feeds["value"] = rng.normal(size=(1, 40, 4))
    single_precision = {name: array.astype(np.float32) for name, array in feeds.items()}
    file = single("wkv", single_precision, ("decay", "bonus"), {"causal": 0})
    given = {name: torch.from_numpy(single_precision[name]) for name in ("key", "value")}
    for each in (file, with_customs(file)):
        made = opened(each, given).outputs["output_0"]
        assert relative_rms(made, wkv_reference(*single_precision.values())) <= 1e-5
