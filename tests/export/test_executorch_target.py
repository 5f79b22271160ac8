"""ExecuTorch's programs: every kind of network with its proof, what is delegated, and what goes wrong in one line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.export import ExecuTorch, networks
from edgeseg.export.deployed import Interface
from edgeseg.kernels import executorch_bodies
from edgeseg.kernels.executorch_bodies import (
    GroupNorm,
    LayerNorm,
    WkvInRows,
    cast_first,
    matmul,
    mean,
    without_checks,
)
from edgeseg.kernels.label_map import label_map, onnx_body
from edgeseg.kernels.operators import relative_rms
from edgeseg.kernels.wkv.reference import wkv_sequential
from tests.students.test_registry import families, settled, sizes

here = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not here, reason="needs executorch: pip install 'edgeseg[executorch]'")

BAKES = ("pre", "labels")
Export = Callable[..., Artifact]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a student once per set of options."""
    made: dict[Any, Artifact] = {}

    def once(name: str, bake: tuple[str, ...] = (), **options: Any) -> Artifact:
        key = name, bake, tuple(sorted(options.items()))
        if key not in made:
            student = settled(name)
            folder = tmp_path_factory.mktemp("executorch") / "artifact"
            made[key] = es.export_model(student, ExecuTorch(**options), folder, sizes(student)[0], bake)
        return made[key]

    return once


def proven(artifact: Artifact) -> bool:
    ledger = artifact.manifest.ledger
    assert ledger is not None
    assert ledger.passed, [hop.reasons for hop in ledger.hops]
    return True


SMALL = "lraspp_mobilenet_v3_small"


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_every_family_is_proven(export: Export, name: str) -> None:
    artifact = export(name)
    assert proven(artifact)
    facts: dict[str, Any] = dict(artifact.manifest.conversion)
    assert facts["delegated"] >= 0.95  # FFNet enlarges by the nearest, which XNNPACK does not
    assert facts["partitions"] <= 4
    assert not facts["plugin"]
    assert artifact.manifest.precision.executed == "fp32"
    assert set(artifact.manifest.op_tiers.values()) <= {"graph"}


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_every_family_is_proven_in_half_precision(export: Export, name: str) -> None:
    artifact = export(name, BAKES, precision="fp16")
    assert proven(artifact)
    assert artifact.manifest.precision.executed == "fp16"
    assert artifact.session.execution.settings["sums"] == "float16, rounded after every term"


@needs_executorch
@pytest.mark.slow
def test_xnnpack_rounds_a_half_sum_after_every_term() -> None:
    # so its float16 loses more than other runtimes', the more the longer the sums are; records and ledgers say so
    from edgeseg.kernels.executorch_runtime import load_code, lower

    terms = 256
    layer = nn.Conv2d(terms, 8, 1, bias=False).requires_grad_(False)
    image = torch.randn(1, terms, 12, 12, generator=torch.Generator().manual_seed(0)).half()
    weight = layer.weight.half().double()
    exported = torch.export.export(layer, (image.float(),))
    made = load_code(lower(exported, False, half=True).code, 1).run([image.float()])[0].double()
    step = torch.zeros_like(made)
    for term in range(terms):
        step = (step + image[:, [term]].double() * weight[:, term].view(1, -1, 1, 1)).half().double()
    once = nn.functional.conv2d(image.double(), weight)
    assert (made == step).double().mean() > 0.95  # all but a few that double rounding moves
    assert relative_rms(made.numpy(), once.numpy()) > 5 * relative_rms(once.half().double().numpy(), once.numpy())


@needs_executorch
@pytest.mark.slow
def test_what_is_baked_in_runs_inside(export: Export) -> None:
    artifact = export(SMALL, BAKES)
    assert proven(artifact)
    assert artifact.manifest.conversion["not_delegated"] == "_to_dim_order_copy 2, argmax 1"
    image = np.random.default_rng(0).integers(0, 256, (50, 71, 3), np.uint8)
    labels = artifact.predict(image)
    assert labels.shape == (50, 71)
    assert labels.dtype == np.uint8
    execution = artifact.session.execution
    assert execution.placed is not None
    assert execution.placed.keys() == {"xnnpack", "portable"}
    assert execution.placed["portable"] == 3
    assert execution.settings["delegate"] == "xnnpack"


@needs_executorch
@pytest.mark.slow
def test_our_kernels_take_part_when_asked(export: Export) -> None:
    artifact = export(SMALL, BAKES, ops="plugin")
    assert proven(artifact)
    assert artifact.manifest.op_tiers == {"label_map": "plugin"}
    assert artifact.manifest.conversion["plugin"]
    assert (artifact.session.execution.placed or {})["edgeseg"] == 1


@needs_executorch
@pytest.mark.slow
def test_without_a_delegate_its_own_kernels_run(export: Export) -> None:
    artifact = export(SMALL, delegate="portable")
    assert proven(artifact)
    assert artifact.manifest.conversion["partitions"] == 0
    assert set(artifact.session.execution.placed or {}) == {"portable"}


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize(("delegate", "known_as"), [("coreml", "CoreMLBackend"), ("vulkan", "VulkanBackend")])
def test_a_delegate_that_is_not_here_is_one_line(tmp_path: Path, delegate: Any, known_as: str) -> None:
    student = settled(SMALL)
    (network,) = networks(student, sizes(student)[0], (), ExecuTorch.interface)
    written = ExecuTorch(delegate=delegate).write(network, tmp_path)
    assert written.facts["delegated"] == 1
    from edgeseg.kernels.executorch_runtime import load_code

    with pytest.raises(
        MissingTool, match=rf"made for {known_as}, and ExecuTorch .* has .*XnnpackBackend here; [^\n]*$"
    ):
        load_code((tmp_path / "model.pte").read_bytes(), 1)


@needs_executorch
@pytest.mark.slow
def test_outputs_are_new_and_inputs_stay(export: Export) -> None:
    session = export(SMALL, BAKES).session
    images = np.random.default_rng(0).integers(0, 256, (2, *session.input.shape), np.uint8)
    kept = images.copy()
    first = session.run(images[0])
    before = first.copy()
    session.run(images[1])
    assert (first == before).all()
    assert (images == kept).all()


@needs_executorch
@pytest.mark.slow
def test_the_file_alone_says_what_it_is(export: Export) -> None:
    from edgeseg.kernels.executorch_runtime import load_code

    artifact = export(SMALL, BAKES)
    said = load_code(artifact.model_file.read_bytes(), 1).card
    assert said["student"] == artifact.manifest.student.name
    assert said["class_names"] == artifact.manifest.student.class_names
    assert (said["inputs"], said["outputs"], said["baked"]) == (["image"], ["labels"], list(BAKES))


@needs_executorch
@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(export: Export, tmp_path: Path) -> None:
    student = settled(SMALL)
    again = es.export_model(student, ExecuTorch(), tmp_path / "again", sizes(student)[0], BAKES)
    assert again.manifest.files == export(SMALL, BAKES).manifest.files


@needs_executorch
def test_a_file_that_is_no_program_is_one_line(tmp_path: Path) -> None:
    from edgeseg.runtimes.base import Opening
    from edgeseg.runtimes.executorch_method import ExecuTorchGraph

    (tmp_path / "model.pte").write_bytes(b"x" * 1000)
    with pytest.raises(EdgesegError, match=r"^ExecuTorch: [^\n]*export again$"):
        ExecuTorchGraph(Opening(tmp_path / "model.pte", ["logits"], "fp32", 1))
    with pytest.raises(EdgesegError, match=r"cannot read .*No such file"):
        ExecuTorchGraph(Opening(tmp_path / "other.pte", ["logits"], "fp32", 1))


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(EdgesegError, match="delegate is xnnpack, coreml, vulkan, portable, got 'cuda'"):
        ExecuTorch(delegate="cuda")  # type: ignore[arg-type]


POOL = """
import sys
import torch
from edgeseg.kernels.executorch_runtime import load, to_executorch

network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
x = torch.rand(1, 3, 40, 40)
program = to_executorch(network, (x,), plugin=False)
runs = [load(program, 2), load(program, 1), load(program, 2)]
wanted = runs[0]([x])[0]
assert all(torch.equal(run([x])[0], wanted) for _ in range(20) for run in runs)
print("alive")
"""


@needs_executorch
def test_another_number_of_threads_does_not_end_the_process() -> None:
    """The pool of a program that is still open was replaced under it: a crash, five times out of six."""
    done = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 24, 64, 65, 97, 1000])
def test_wkv_with_tokens_innermost_is_the_reference(tokens: int, causal: bool) -> None:
    rng = np.random.default_rng(tokens)
    decay = (np.linspace(-5, 60, 12) / tokens).astype(np.float32)
    bonus = rng.normal(size=12).astype(np.float32)
    key, value = rng.normal(0, 3, (2, 2, tokens, 12)).astype(np.float32)
    module = WkvInRows(torch.from_numpy(decay), torch.from_numpy(bonus), tokens, causal)
    made = module(torch.from_numpy(key), torch.from_numpy(value)).numpy()
    # sums of a chunk over 32 tokens with exponents up to 40: a few units in the last place
    assert relative_rms(made, wkv_sequential(decay, bonus, key, value, causal=causal)) <= 2e-6


def test_a_layer_norm_of_products_is_one() -> None:
    x, weight, bias = torch.randn(2, 5, 7, 24) * 3 + 1, torch.rand(24), torch.rand(24)
    assert torch.allclose(
        LayerNorm(24, 1e-6)(x, weight, bias), nn.functional.layer_norm(x, (24,), weight, bias, 1e-6), atol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 4])
def test_a_group_norm_of_products_is_one(groups: int) -> None:
    x, weight, bias = torch.randn(2, 8, 7, 9) * 3 + 1, torch.rand(8), torch.rand(8)
    made = GroupNorm(8, groups, 1e-6)(x, weight, bias)
    assert torch.allclose(made, nn.functional.group_norm(x, groups, weight, bias, 1e-6), atol=1e-5)


class Norms(nn.Module):
    """Both norms, over many numbers and far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.groups = nn.LayerNorm(32), nn.GroupNorm(1, 32)

    def forward(self, image: Tensor) -> Tensor:
        normal: Tensor = self.groups(image + 3) + self.rows(image.mT + 3).mT
        return normal


@needs_executorch
@pytest.mark.parametrize("half", [False, True])
def test_norms_are_exact(half: bool) -> None:
    """ExecuTorch's own are off by 3e-4 in float32 and by twice the result in float16."""
    from edgeseg.kernels.executorch_runtime import load, lower

    image = torch.randn(1, 32, 32, 128, generator=torch.Generator().manual_seed(0))
    network = Norms().eval()
    program = lower(torch.export.export(network, (image,)), plugin=False, half=half)
    with torch.inference_mode():
        made, wanted = load(program, 1)([image])[0], network(image)
    # float16: the image and the sum are rounded, 5e-4 of numbers around 3 each
    assert relative_rms(made.numpy(), wanted.numpy()) <= (3e-3 if half else 2e-6)


def test_products_and_means_are_those_of_pytorch() -> None:
    x, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 6)
    assert torch.allclose(matmul(x, y), x @ y, atol=1e-6)
    assert torch.allclose(matmul(x, y[0, 0]), x @ y[0, 0], atol=1e-6)
    for dim in ([2], [3], [2, 3], [-1], [1], [0, 1]):
        for keepdim in (False, True):
            assert torch.allclose(mean(x, dim, keepdim), x.mean(dim, keepdim), atol=1e-6)


class Pixels(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2).contiguous().float() / 2


def test_pixels_are_cast_before_they_are_moved() -> None:
    image = torch.randint(0, 256, (1, 4, 6, 3), dtype=torch.uint8)
    network: Any = torch.export.export(Pixels(), (image,)).module()
    without_checks(network)
    cast_first(network)
    network.recompile()
    order = [str(node.target).split(".")[1] for node in network.graph.nodes if node.op == "call_function"]
    assert order == ["to", "permute", "contiguous", "div"]
    assert torch.equal(network(image), Pixels()(image))


@needs_executorch
def test_prompts_stay_exact_in_half_precision() -> None:
    """Places of a map beyond 2048 are no numbers of float16."""
    from edgeseg.kernels.executorch_runtime import lower

    class Prompted(nn.Module):
        def forward(self, image: Tensor, points: Tensor) -> Tensor:
            return image.mean((2, 3), keepdim=True) * 0 + (points - 4097).abs().amin((1, 2))[:, None, None, None]

    inputs = torch.rand(1, 3, 8, 8), torch.tensor([[[4097.0, 4098.0]]])
    program = lower(torch.export.export(Prompted(), inputs), plugin=False, half=True)
    from edgeseg.kernels.executorch_runtime import load

    assert load(program, 1)(inputs)[0].abs().max() == 0


def test_a_number_of_places_is_part_of_the_file() -> None:
    assert ExecuTorch.interface == Interface(places=8)


@pytest.mark.parametrize("align", [False, True])
def test_labels_of_large_logits_come_in_bands_and_are_the_same(align: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of 7 rows, the last of 4; both ways round rounding may differ where two classes are equal, which random ones are not."""
    logits = torch.randn(2, 12, 9, 11, generator=torch.Generator().manual_seed(0))
    wanted = label_map(logits, (60, 80), align)
    for large, band in ((onnx_body.LARGE, onnx_body.BAND), (0, 7 * 4 * 2 * 12 * 80)):
        monkeypatch.setattr(onnx_body, "LARGE", large)
        monkeypatch.setattr(onnx_body, "BAND", band)
        program = torch.export.export(Labels(align), (logits,), strict=False)
        assert sum("argmax" in str(node.target) for node in program.graph.nodes) == (1 if large else 9)
        made = program.module()(logits)
        assert made.dtype == torch.uint8 and torch.equal(made, wanted)


class Labels(nn.Module):
    def __init__(self, align: bool) -> None:
        super().__init__()
        self.align = align

    def forward(self, logits: Tensor) -> Tensor:
        labels: Tensor = executorch_bodies._label_map(logits, 60, 80, self.align)
        return labels
