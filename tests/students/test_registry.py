"""Every student of the registry keeps the contract; one that is an exception says so itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.diagnosis import halved, rounded
from edgeseg.errors import EdgesegError
from edgeseg.export import OnnxRuntime, OpenVino
from edgeseg.export.deployed import Deployed
from edgeseg.export.target import Target
from edgeseg.runs import load_run, save
from edgeseg.students import STUDENTS, Promptable, Semantic, Student, fuse
from edgeseg.students.student import parameters
from tests.export.test_operators import USES

CLASSES = 5


def build(name: str, **options: Any) -> Any:
    """A student of that name; a side that can be chosen is the smallest."""
    parameters = inspect.signature(STUDENTS[name]).parameters
    classes = CLASSES if "classes" in parameters else None
    small = {"side": 256} if "side" in parameters else {}
    return es.create(name, classes=classes, **{**small, **options})


@cache
def families() -> list[str]:
    """The smallest student of each file, for what takes long and is the same code for all of them."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in STUDENTS:
        with torch.device("meta"):
            student = build(name)
        size = sum(value.numel() for value in student.parameters()), name
        smallest[type(student).__module__] = min(size, smallest.get(type(student).__module__, size))
    return [name for _, name in smallest.values()]


@pytest.fixture(scope="module", params=list(STUDENTS))
def student(request: pytest.FixtureRequest) -> Any:
    """Each student once, with statistics that a fresh network does not have."""
    return settled(request.param)


def settled(name: str) -> Any:
    torch.manual_seed(0)
    made = build(name).eval()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.25)
    return made


def sizes(student: Student) -> list[tuple[int, int]]:
    """Two sizes that are legal, small, and not square."""
    step = student.multiple
    up = [-(-side // step) * step for side in (64, 96, 120)]
    return [(up[0], up[1]), (up[2], up[0])]


def picture(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_every_student_is_of_a_kind(student: Student) -> None:
    assert isinstance(student, (Semantic, Promptable))
    assert student.task == ("semantic" if isinstance(student, Semantic) else "promptable")


def test_answers_come_at_the_size_of_the_image(student: Student) -> None:
    channels = student.masks if isinstance(student, Promptable) else CLASSES
    with torch.inference_mode():
        for height, width in sizes(student):
            made = student.probe(picture(height, width, batch=2))
            assert made.shape == (2, channels, height, width)
            assert made.isfinite().all()


def test_a_size_that_does_not_line_up_is_refused_with_the_one_that_does(student: Student) -> None:
    height, width = sizes(student)[0]
    odd = picture(height + 1, width + 3)
    if student.multiple == 1:
        with torch.inference_mode():
            assert student.probe(odd).shape[-2:] == (height + 1, width + 3)
        return
    fit = f"pad to {height + student.multiple}x{width + -(-3 // student.multiple) * student.multiple}"
    with pytest.raises(EdgesegError, match=f"{height + 1}x{width + 3} is not a multiple of .*{fit}"):
        student.probe(odd)


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 3, 0, 64)])
def test_no_image_is_refused(student: Student, shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgesegError, match="at least one image with at least one pixel"):
        student.probe(torch.zeros(shape))


def answer(student: Student, image: Any) -> Any:
    if isinstance(student, Promptable):
        return student.segment(image, [(image.shape[1] / 2, image.shape[0] / 2)])[0]
    return student.predict(image)


@pytest.mark.parametrize("size", [(67, 71), (1, 1)])
def test_photos_may_have_any_size(student: Student, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    labels = answer(student, image)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert labels.max() < student.classes


@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 4), (0, 96, 3)])
def test_what_is_no_image_is_refused(student: Student, shape: tuple[int, ...]) -> None:
    with pytest.raises(EdgesegError, match="an image is uint8 RGB"):
        answer(student, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("name", list(STUDENTS))
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    auxiliary = {"auxiliary": True} if name in with_auxiliary() else {}
    side = {"side": 512} if "side" in inspect.signature(STUDENTS[name]).parameters else {}
    learning = build(name, **auxiliary, **side).train()
    for value in learning.parameters():
        if not value.any():
            nn.init.constant_(value, 0.1)  # what begins at zero stops the gradient of what is before it, for one step
    height, width = 128, 192  # two places at least for every attention
    image = picture(height, width, batch=2)
    if isinstance(learning, Promptable):
        made = learning.training_masks(image, *all_kinds_of_prompts(height, width), 2, lambda _, *prompts: prompts)
        heads = [part for pair in made for part in pair]
    else:
        heads = learning.training_logits(image)
        assert len(heads) == 1 + len(learning.auxiliary)
    torch.autograd.backward(torch.stack([(head * torch.randn_like(head)).sum() for head in heads]).sum())
    learned = {key: value for key, value in learning.named_parameters() if value.requires_grad}
    assert [key for key, value in learned.items() if value.grad is None or not value.grad.any()] == []


def all_kinds_of_prompts(height: int, width: int) -> tuple[Tensor, Tensor]:
    """For each of two images, a click, one on the background, a box, an empty place."""
    points = torch.tensor([[0.5, 0.5], [0.1, 0.2], [0.2, 0.3], [0.8, 0.7], [0.0, 0.0]]) * torch.tensor([width, height])
    return points.expand(2, -1, -1), torch.tensor([1.0, 0.0, 2.0, 3.0, -1.0]).expand(2, -1)


def test_features_are_what_the_student_says(student: Any) -> None:
    height, width = sizes(student)[0]
    with torch.inference_mode():
        maps = student.forward_features(picture(height, width))
    seen = (student.side, student.side) if hasattr(student, "side") else (height, width)
    assert len(maps) == len(student.feature_info) > 0
    for found, said in zip(maps, student.feature_info, strict=True):
        assert found.shape == (1, said.channels, -(-seen[0] // said.stride), -(-seen[1] // said.stride))
    strides = [stage.stride for stage in student.feature_info]
    assert strides == sorted(strides)


@pytest.mark.parametrize(
    "name",
    {STUDENTS[name].__module__: name for name in STUDENTS if "classes" in parameters(name)}.values(),  # one of a family
)
def test_logits_and_features_come_out_of_one_pass(name: str) -> None:
    student = build(name, **({"auxiliary": True} if name in with_auxiliary() else {})).eval()
    image, passes = picture(64, 96), []
    first = next(part for part in student.modules() if isinstance(part, nn.Conv2d))
    with torch.inference_mode():
        wanted = student.training_logits(image), student.forward_features(image)
        hook = first.register_forward_hook(lambda *_: passes.append(1))
        made = student.training_outputs(image)
        hook.remove()
    assert sum(passes) == 1  # or BatchNorm learns every image twice, at twice the time
    for got, want in zip(made, wanted, strict=True):
        assert len(got) == len(want)
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


def test_folding_changes_nothing_but_the_work(student: Student) -> None:
    folded = fuse(student)
    image = picture(*sizes(student)[1])
    with torch.inference_mode():
        wanted, got = student.probe(image), folded.probe(image)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()  # products of 60 layers in another order
    norms = [sum(isinstance(part, nn.BatchNorm2d) for part in model.modules()) for model in (student, folded)]
    before = any(
        isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
        for part in student.modules()
        for first, second in pairwise(part.children())
    )
    assert (norms[1] < norms[0]) == before


def test_a_run_gives_back_the_same_bits(student: Student, tmp_path: Path) -> None:
    student.describe([f"kind {i}" for i in range(student.classes)], student.palette)
    again = load_run(save(student, tmp_path / "run", size=(64, 96)))
    assert (again.name, again.class_names, again.palette) == (student.name, student.class_names, student.palette)
    assert again.options == student.options
    mine, theirs = student.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def graph_inputs(student: Student, image: Tensor) -> tuple[Tensor, ...]:
    if isinstance(student, Semantic):
        return (image,)
    points, labels = all_kinds_of_prompts(image.shape[2], image.shape[3])
    return (image, points[:1], labels[:1])


def test_exports_with_a_fixed_shape(student: Student) -> None:
    given = graph_inputs(student, picture(*sizes(student)[0]))
    with torch.inference_mode():
        traced = torch.export.export(student, given, strict=False).module()
        for got, wanted in zip(as_tuple(traced(*given)), as_tuple(student(*given)), strict=True):
            assert torch.equal(got, wanted)


def as_tuple(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.wide
@pytest.mark.parametrize("name", [name for name in families() if isinstance(build(name), Semantic)])
def test_exports_with_free_height_and_width(name: str) -> None:
    fresh(f"free_size({name!r})")


def free_size(name: str) -> None:
    student = settled(name)
    fewest = 16 * student.feature_info[-1].stride // 64  # below, a pooled map is one pixel: another graph
    height, width = Dim("height", min=fewest + 1, max=64), Dim("width", min=fewest + 1, max=64)
    free = {2: 64 * height, 3: 64 * width}
    with torch.inference_mode():
        example = picture(64 * (fewest + 1), 64 * (fewest + 2))
        traced = torch.export.export(student, (example,), dynamic_shapes={"image": free}, strict=False).module()
        image = picture(64 * (fewest + 2), 64 * (fewest + 1))
        assert torch.allclose(traced(image), student(image), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in families() if isinstance(build(name), Semantic)])
def test_rounding_alone_can_be_blamed(name: str) -> None:
    """Of every family, what half precision does without a runtime can be looked at when an artifact fails."""
    student = settled(name)
    network = halved(Deployed(student, sizes(student)[0]), "bf16")
    image = picture(*sizes(student)[0])
    exact, half = (rounded(network, image, precision) for precision in (None, "bf16"))
    assert 0 < relative(half, exact) < 1


def relative(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


@pytest.mark.slow
@pytest.mark.parametrize("target", [OnnxRuntime, pytest.param(OpenVino, marks=pytest.mark.wide)])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.wide if issubclass(type(build(name)), Promptable) else ())
        for name in families()
        if name not in USES  # those pass it there, in both tiers
    ],
)  # promptable ones answer as artifacts in test_promptable
def test_every_family_passes_its_ledger(name: str, target: type[Target], tmp_path: Path) -> None:
    fresh(f"prove({name!r}, {target.__name__!r}, {str(tmp_path / 'out')!r})")


def prove(name: str, target: str, out: str) -> None:
    student = settled(name)
    artifact = es.export_model(student, getattr(es, target)(), out, sizes(student)[0])
    ledger = artifact.manifest.ledger
    assert ledger is not None
    assert [hop.reasons for hop in ledger.hops] == [[], [], []]
    assert isinstance(es.load(out), Artifact)


def fresh(call: str) -> None:
    """Run a function of this file in a process of its own: exporters and runtimes leave much behind in one."""
    code = f"import torch; torch.set_num_threads(1); from tests.students.test_registry import *; {call}"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_training_heads_are_no_part_of_a_run(student: Student, tmp_path: Path) -> None:
    learning = build(student.name, **({"auxiliary": True} if student.name in with_auxiliary() else {}))
    assert load_run(save(learning, tmp_path / "run")).state_dict().keys() == student.state_dict().keys()
    assert sum(p.numel() for p in learning.deployed_parameters()) == sum(p.numel() for p in student.parameters())


def with_auxiliary() -> list[str]:
    return [name for name in STUDENTS if "auxiliary" in inspect.signature(STUDENTS[name]).parameters]


def test_a_student_says_where_it_comes_from(student: Student) -> None:
    assert student.licence
    assert student.paper
    assert all(claim.source for claim in student.claims)
    assert len(set(student.palette)) == student.classes


def test_class_names_must_fit(student: Student) -> None:
    with pytest.raises(EdgesegError, match=f"has {student.classes} classes, got 3 names"):
        student.describe(["a", "b", "c"], [(0, 0, 0), (1, 1, 1), (2, 2, 2)])


def test_damaged_weights_are_not_folded(student: Student) -> None:
    damaged = build(student.name)
    for value in damaged.parameters():
        value.data.fill_(torch.nan)
    with pytest.raises(EdgesegError, match="NaN or infinity"):
        fuse(damaged)


@pytest.mark.parametrize("classes", [1, 257])
def test_classes_are_two_to_256(classes: int) -> None:
    """One tells nothing, and labels are bytes."""
    with pytest.raises(EdgesegError, match=f"tells 2 to 256 classes apart, got {classes}"):
        es.create(next(iter(STUDENTS)), classes=classes)


def test_classes_belong_to_semantic_students_alone() -> None:
    with pytest.raises(EdgesegError, match=r"rwkv_sam_tiny is promptable: .*leave classes out"):
        es.create("rwkv_sam_tiny", classes=3)
    with pytest.raises(EdgesegError, match="ddrnet39 is a semantic student: say how many classes"):
        es.create("ddrnet39")


def test_an_unknown_student_is_answered_with_near_names() -> None:
    with pytest.raises(EdgesegError, match="no student named 'ddrnet23slim'; did you mean ddrnet23_slim"):
        es.create("ddrnet23slim", classes=11)


def test_a_name_has_one_owner() -> None:
    with pytest.raises(ValueError, match="already belongs to"):
        STUDENTS.add(next(iter(STUDENTS)), Student)
