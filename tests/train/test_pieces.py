"""Every piece of distillation loss: what it is by its definition, summed up in float64 one number at a time, and its gradient."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.metrics import VOID
from edgeseg.students import upsample
from edgeseg.students.maps import as_map
from edgeseg.train.teaching import PIECES, Key, Lesson, Piece, View
from edgeseg.train.teaching.align import Align
from edgeseg.train.teaching.granularity import Mgd
from edgeseg.train.teaching.hardness import Hardness
from edgeseg.train.teaching.lesson import drawn
from edgeseg.train.teaching.masked import Masked
from edgeseg.train.teaching.resolution import Fst, shrunk

ROOT = Path(__file__).resolve().parents[2]
B, K, SIZE, OURS, THEIRS = 2, 3, (4, 5), 4, 6
SEMANTIC = [name for name in PIECES if PIECES[name].kind == "semantic"]


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels() -> Tensor:
    made = torch.randint(0, K, (B, 16, 20), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    made[:, :4] = 1
    made[0, 5, 5:9] = VOID
    return made


def lesson(
    known: Tensor | None = None, logits: Tensor | None = None, ours: Tensor | None = None, small: Tensor | None = None
) -> Lesson:
    """A step whose maps differ in width and in size."""
    logits = 2 * numbers(B, K, *SIZE, seed=2) if logits is None else logits
    ours = numbers(B, OURS, 7, 8, seed=3) if ours is None else ours
    small = numbers(B, OURS, 3, 4, seed=4) if small is None else small
    theirs = View(2 * numbers(B, K, *SIZE, seed=5), {-1: numbers(B, THEIRS, 8, 9, seed=6)})
    images = torch.randint(0, 256, (B, 3, 16, 20), generator=torch.Generator().manual_seed(7)).to(torch.uint8)
    known = labels() if known is None else known
    return Lesson(View(logits, {-1: ours}), theirs, known, images, lambda images: View(logits, {-1: small}), 1, 8)


def head_of(piece: Piece) -> nn.Module | None:
    """Its head, of fixed numbers, in float64."""
    head = piece.head({-1: OURS}, {-1: THEIRS}, K)
    if head is None:
        return None
    for seed, value in enumerate(head.parameters()):
        value.data = 0.3 * numbers(*value.shape, seed=seed).to(value)
    return head.double().requires_grad_(requires_grad=False)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def kl(theirs: list[float], ours: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(softmax(theirs), softmax(ours), strict=True))


def test_align_is_its_definition() -> None:
    piece, step = Align(token=0.7, logit=0.4, temperature=2.0), lesson()
    head: Any = head_of(piece)
    g, t = step.taught.maps[-1], upsample(step.taught.logits, (8, 9))
    projected = torch.einsum("oi,bihw->bohw", head.token.weight[:, :, 0, 0], step.ours.maps[-1])
    z = upsample(projected + head.token.bias[:, None, None], (8, 9))
    r = torch.einsum("ko,bohw->bkhw", head.read.weight[:, :, 0, 0], z) + head.read.bias[:, None, None]
    token, logit = 0.0, 0.0
    for b, y, x in np.ndindex(B, 8, 9):
        ours, theirs = z[b, :, y, x].tolist(), g[b, :, y, x].tolist()
        dot = sum(p * q for p, q in zip(ours, theirs, strict=True))
        token += 1 - dot / math.sqrt(sum(p * p for p in ours) * sum(q * q for q in theirs))
        logit += 2.0**2 * kl([v / 2 for v in t[b, :, y, x].tolist()], [v / 2 for v in r[b, :, y, x].tolist()])
    assert float(piece(step, head)) == pytest.approx((0.7 * token + 0.4 * logit) / (B * 72), rel=1e-9)


def test_masked_is_its_definition() -> None:
    piece, step = Masked(hidden=0.6), lesson()
    head: Any = head_of(piece)
    shown = (drawn(step.taught.maps[-1], (B, 1, 8, 9), step.seed) >= 0.6).double()
    assert 0 < float(shown.mean()) < 1
    projected = torch.einsum("oi,bihw->bohw", head.align.weight[:, :, 0, 0], step.ours.maps[-1])
    x = upsample(projected + head.align.bias[:, None, None], (8, 9)) * shown
    first, _, second = head.generate
    made = F.conv2d(
        F.conv2d(x, first.weight, first.bias, padding=1).clamp_min(0), second.weight, second.bias, padding=1
    )
    squares = [(p - q) ** 2 for p, q in zip(made.flatten().tolist(), step.taught.maps[-1].flatten().tolist())]  # noqa: B905
    assert float(piece(step, head)) == pytest.approx(sum(squares) / (B * THEIRS * 72), rel=1e-9)
    assert float(piece(step, head)) != float(piece(Lesson(**{**vars(step), "seed": 9}), head))


def test_mgd_is_its_definition() -> None:
    step = lesson()
    s, t = step.ours.logits, step.taught.logits
    pixels = np.mean(
        [-math.log(softmax(s[b, :, y, x].tolist())[int(t[b, :, y, x].argmax())]) for b, y, x in np.ndindex(B, *SIZE)]
    )
    image = sum(abs(float(s[b, k].mean() - t[b, k].mean())) for b, k in np.ndindex(B, K)) / B
    pooled = [F.adaptive_avg_pool2d(x, 3).flatten(2) for x in (step.ours.maps[-1], step.taught.maps[-1])]

    def cosine(x: Tensor, i: int, j: int) -> float:
        return float(x[:, i] @ x[:, j] / (x[:, i].norm() * x[:, j].norm()))

    region = np.mean(
        [
            (cosine(pooled[0][b], i, j) - cosine(pooled[1][b], i, j)) ** 2
            for b, i, j in product(range(B), range(9), range(9))
        ]
    )
    made = Mgd(pixels=0.5, region=20.0, image=0.3, cells=3)(step)
    assert float(made) == pytest.approx(0.5 * pixels + 20 * region + 0.3 * image, rel=1e-9)


def test_fst_is_its_definition() -> None:
    piece, step = Fst(), lesson()
    head: Any = head_of(piece)
    projected = torch.einsum("oi,bihw->bohw", head.weight[:, :, 0, 0], step.again(step.images).maps[-1])
    x = projected + head.bias[:, None, None]
    g = step.taught.maps[-1]
    total = 0.0
    for b, c, row, column in np.ndindex(*g.shape):
        y, z = row * (3 - 1) / (8 - 1), column * (4 - 1) / (9 - 1)  # corners aligned
        top, left = min(int(y), 1), min(int(z), 2)
        dy, dx = y - top, z - left
        corners = x[b, c, top : top + 2, left : left + 2].tolist()
        upper, lower = ((1 - dx) * pair[0] + dx * pair[1] for pair in corners)
        total += ((1 - dy) * upper + dy * lower - float(g[b, c, row, column])) ** 2
    assert float(piece(step, head)) == pytest.approx(total / g.numel(), rel=1e-9)


def test_fst_asks_about_the_smaller_picture() -> None:
    asked: list[Tensor] = []
    step = lesson()

    def again(images: Tensor) -> View:
        asked.append(images)
        return step.again(images)

    Fst(scale=0.5)(Lesson(**{**vars(step), "again": again, "multiple": 4}), head_of(Fst()))
    assert asked[0].shape == (B, 3, 8, 8)  # 16 and 20 halved, to multiples of 4
    assert asked[0].dtype == torch.uint8
    assert float(asked[0].float().mean()) == pytest.approx(float(step.images.float().mean()), abs=3)
    assert shrunk(step.images, 0.01, 8).shape[-2:] == (8, 8)


def test_hardness_is_its_definition() -> None:
    piece, step = Hardness(), lesson()
    level = numbers(B, 1, 7, 8, seed=8)
    h = upsample(level, (16, 20))
    logits = upsample(step.ours.logits, (16, 20))
    known = [(b, y, x) for b, y, x in np.ndindex(B, 16, 20) if step.labels[b, y, x] != VOID]
    mass = {place: 1 / (1 + math.exp(-float(h[place[0], 0, place[1], place[2]]))) + 0.1 for place in known}
    loss = {(b, y, x): -math.log(softmax(logits[b, :, y, x].tolist())[int(step.labels[b, y, x])]) for b, y, x in known}
    wanted = sum(mass[place] * loss[place] for place in known) / sum(mass.values())
    assert float(piece(step, lambda x: level)) == pytest.approx((1 - 0.01) * wanted, rel=1e-9)


def test_hardness_teaches_the_network_by_levels_and_the_levels_by_loss() -> None:
    """One gradient each: the map gets none, and the level of a pixel rises where its loss is high."""
    ours = numbers(B, OURS, 16, 20, seed=3).requires_grad_()
    level = torch.zeros(B, 1, 16, 20, dtype=torch.float64, requires_grad=True)
    logits = (2 * numbers(B, K, 16, 20, seed=2)).requires_grad_()
    step = lesson(logits=logits, ours=ours)
    Hardness()(step, lambda x: level + 0 * x.sum()).backward()
    assert ours.grad is None
    assert level.grad is not None and logits.grad is not None
    loss = F.cross_entropy(logits, step.labels.long(), ignore_index=VOID, reduction="none").detach()
    known = step.labels != VOID
    assert torch.equal(level.grad[:, 0][known] < 0, (loss > loss[known].mean())[known])
    assert not level.grad[:, 0][~known].any()
    assert not logits.grad.permute(0, 2, 3, 1)[~known].any()


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_piece_has_the_right_gradient(name: str) -> None:
    piece: Any = PIECES[name]()
    head = head_of(piece)
    given: tuple[Tensor, ...] = (
        2 * numbers(B, K, *SIZE, seed=2),
        numbers(B, OURS, 7, 8, seed=3),
        numbers(B, OURS, 3, 4, seed=4),
    )
    learned = [value.requires_grad_() for value in head.parameters()] if head is not None and name != "hardness" else []

    def loss(*values: Tensor) -> Tensor:
        return piece(lesson(None, *values[: len(given)]), head)

    if (
        name == "hardness"
    ):  # the levels are held still for the logits, and the other way round: those have a test of their own
        piece, given = Hardness(ratio=1e-9), given[:1]
    assert torch.autograd.gradcheck(loss, (*(value.requires_grad_() for value in given), *learned), fast_mode=True)


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_piece_falls_when_it_is_followed(name: str) -> None:
    piece: Any = PIECES[name]()
    head = head_of(piece)
    given = [2 * numbers(B, K, *SIZE, seed=2), numbers(B, OURS, 7, 8, seed=3), numbers(B, OURS, 3, 4, seed=4)]
    values = [value.requires_grad_() for value in given]
    learned = [value.requires_grad_() for value in head.parameters()] if head is not None else []
    if name == "hardness":
        learned = []  # its head seeks what is hard, which is no fall
    optimizer = torch.optim.Adam([*values, *learned], 0.05)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = piece(lesson(None, *values), head)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_picture_without_labels_or_edges_is_no_nan(name: str) -> None:
    piece: Any = PIECES[name]()
    head = head_of(piece)
    for fill in (VOID, 0):
        given = numbers(B, K, *SIZE, seed=2), numbers(B, OURS, 7, 8, seed=3), numbers(B, OURS, 3, 4, seed=4)
        values = [value.requires_grad_() for value in given]
        loss = piece(lesson(torch.full((B, 16, 20), fill, dtype=torch.uint8), *values), head)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(value.grad is None or bool(torch.isfinite(value.grad).all()) for value in values)


@pytest.mark.parametrize("name", ["kd", "cwd", "bpkd"])
def test_what_compares_logits_is_0_for_the_teacher_itself(name: str) -> None:
    step, piece = lesson(), PIECES[name]()
    assert float(piece(lesson(logits=step.taught.logits), None)) == pytest.approx(0, abs=1e-12)
    assert float(piece(step, None)) > 0.01


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_is_documented_and_has_the_common_options(name: str) -> None:
    kind = PIECES[name]
    assert {"type", "weight"} <= {entry.name for entry in fields(kind)}
    assert kind.__doc__ is not None
    assert "arXiv" in kind.__doc__ or "code" in kind.__doc__
    assert f"\n| `{name}` |" in (ROOT / "README.md").read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "train").glob("test_*.py"))
    assert re.search(rf"def test_{name}_(is_its|are_their)_definition", tests)


WRONG: list[tuple[Callable[[], Piece], str]] = [
    (lambda: Align(temperature=0), "align: temperature must be above 0, got 0"),
    (lambda: Masked(hidden=1.5), r"masked: hidden is a share within 0\.\.1, got 1\.5"),
    (lambda: Mgd(cells=1), "mgd: cells must be at least 2"),
    (lambda: Fst(scale=1.0), "fst: scale is that of the smaller picture"),
    (lambda: Hardness(floor=0.0), "hardness: floor must be above 0"),
]


@pytest.mark.parametrize(("make", "said"), WRONG)
def test_options_out_of_range_are_refused(make: Callable[[], Piece], said: str) -> None:
    with pytest.raises(EdgesegError, match=said):
        make()


def test_what_a_module_answers_becomes_a_map() -> None:
    image, x = torch.zeros(1, 3, 64, 96), torch.randn(1, 5, 4, 6)
    tokens = x.flatten(2).transpose(1, 2)
    for answer in (x, [torch.zeros(1), x], (x, None), tokens, (tokens,)):
        assert torch.equal(as_map(answer, image, "it"), x)
    wrongs: list[Any] = [{}, torch.zeros(3), torch.zeros(1, 25, 5), []]
    for wrong in wrongs:
        with pytest.raises(EdgesegError, match=r"it answers with .*, which is no map"):
            as_map(wrong, image, "it")


KEYS: tuple[Key, ...] = (-1,)


@pytest.mark.parametrize("name", SEMANTIC)
def test_a_piece_asks_for_the_maps_it_compares(name: str) -> None:
    ours, theirs = PIECES[name]().keys()
    named = {entry.name for entry in fields(PIECES[name])}
    assert (ours == KEYS) == ("ours" in named)
    assert (theirs == KEYS) == ("theirs" in named)
