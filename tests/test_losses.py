"""Every loss against its definition, written once more in float64 and pixel by pixel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.errors import EdgesegError
from edgeseg.losses import CrossEntropy, CrossEntropyLovasz, Loss, MaskLoss, Ohem, lovasz_softmax
from edgeseg.metrics import VOID

K, SHAPE = 4, (2, 5, 6)
LOSSES: list[Loss] = [CrossEntropy(), Ohem(), Ohem(threshold=0.3, keep=0.5), CrossEntropyLovasz()]
WEIGHTS = [None, torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)]


@pytest.fixture
def logits() -> Tensor:
    """`[2, K, 5, 6]` in float64."""
    return 2 * torch.randn(SHAPE[0], K, *SHAPE[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    """`[2, 5, 6]` uint8: all classes but the last, and some void."""
    made = torch.randint(0, K - 1, SHAPE, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    made[:, 2, 1:4] = VOID
    return made


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """(cross-entropy, class) of every pixel that is not void, from the definition."""
    found = []
    scores, truth = logits.detach().numpy(), labels.numpy()
    for b, y, x in np.ndindex(truth.shape):
        if truth[b, y, x] != VOID:
            row = scores[b, :, y, x]
            found.append((math.log(sum(math.exp(v) for v in row)) - row[truth[b, y, x]], int(truth[b, y, x])))
    return found


@pytest.mark.parametrize("weight", WEIGHTS)
def test_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None) -> None:
    scale = [1.0] * K if weight is None else weight.tolist()
    each = pixels(logits, labels)
    wanted = sum(value * scale[c] for value, c in each) / sum(scale[c] for _, c in each)
    assert float(CrossEntropy()(logits, labels, weight)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize(("threshold", "keep"), [(0.9, 0.1), (0.3, 0.1), (0.3, 0.9), (0.05, 1.0), (1.0, 0.0)])
def test_ohem_keeps_the_hard_pixels(
    logits: Tensor, labels: Tensor, weight: Tensor | None, threshold: float, keep: float
) -> None:
    scale = [1.0] * K if weight is None else weight.tolist()
    each = sorted(pixels(logits, labels), reverse=True)
    hard = [pair for pair in each if pair[0] > -math.log(threshold)]
    least = int(len(each) * keep)
    chosen = hard if len(hard) >= least else each[:least]
    wanted = sum(value * scale[c] for value, c in chosen) / max(1, len(chosen))
    assert float(Ohem(threshold=threshold, keep=keep)(logits, labels, weight)) == pytest.approx(wanted, rel=1e-12)


def test_ohem_lets_easy_pixels_go(labels: Tensor) -> None:
    sure = torch.nn.functional.one_hot(labels.long().clamp_max(K - 1), K).permute(0, 3, 1, 2).double() * 50
    assert float(Ohem(threshold=0.9, keep=0.0)(sure, labels, None)) == 0


@pytest.mark.parametrize(("threshold", "keep"), [(0.0, 0.1), (1.5, 0.1), (0.9, -0.1), (0.9, 1.1), (math.nan, 0.1)])
def test_ohem_refuses_what_makes_no_sense(threshold: float, keep: float) -> None:
    with pytest.raises(EdgesegError, match="threshold is in"):
        Ohem(threshold=threshold, keep=keep)


def test_lovasz_is_the_extension_of_the_jaccard_loss(logits: Tensor, labels: Tensor) -> None:
    valid = (labels != VOID).numpy()
    truth = labels.numpy()[valid]
    probabilities = logits.softmax(1)
    flat = probabilities.permute(0, 2, 3, 1).numpy()[valid]
    wanted = []
    for c in np.unique(truth):
        member = truth == c
        errors = np.where(member, 1 - flat[:, c], flat[:, c])
        order = np.argsort(-errors)
        steps = [0.0]
        for count in range(1, len(order) + 1):  # Jaccard loss when the `count` worst pixels are the wrong ones
            wrong = np.zeros(len(order), bool)
            wrong[order[:count]] = True
            steps.append(1 - (member & ~wrong).sum() / (member | wrong).sum())
        wanted.append((errors[order] * np.diff(steps)).sum())
    assert float(lovasz_softmax(probabilities, labels)) == pytest.approx(float(np.mean(wanted)), rel=1e-12)


def test_lovasz_of_hard_answers_is_one_minus_iou(labels: Tensor) -> None:
    answer = labels.long().clamp_max(K - 1).clone()
    answer[0, 0] = 0
    hard = torch.nn.functional.one_hot(answer, K).permute(0, 3, 1, 2).double()
    valid = labels != VOID
    ious = []
    for c in torch.unique(labels[valid]):
        truth, said = (labels == c) & valid, (answer == c) & valid
        ious.append(float((truth & said).sum() / (truth | said).sum()))
    assert float(lovasz_softmax(hard, labels)) == pytest.approx(1 - float(np.mean(ious)), rel=1e-6)


def test_ce_lovasz_is_the_weighted_sum(logits: Tensor, labels: Tensor) -> None:
    parts = CrossEntropy()(logits, labels, None), lovasz_softmax(logits.softmax(1), labels)
    got = CrossEntropyLovasz(cross_entropy=0.3, lovasz=2.0)(logits, labels, None)
    assert float(got) == pytest.approx(0.3 * float(parts[0]) + 2.0 * float(parts[1]), rel=1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gradients(logits: Tensor, labels: Tensor, loss: Loss, weight: Tensor | None) -> None:
    # the step is far below the gaps between sorted errors, so that neither the order nor the hard set changes
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, weight), logits.requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_void_pixels_do_not_count(logits: Tensor, labels: Tensor, loss: Loss, weight: Tensor | None) -> None:
    changed = logits.clone()
    changed.permute(0, 2, 3, 1)[labels == VOID] = 100.0
    assert float(loss(logits, labels, weight)) == float(loss(changed, labels, weight))
    torch.autograd.backward(loss(logits.requires_grad_(), labels, weight))
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[labels == VOID].any()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_batch_that_is_all_void_is_zero(logits: Tensor, loss: Loss, weight: Tensor | None) -> None:
    value = loss(logits.requires_grad_(), torch.full(SHAPE, VOID, dtype=torch.uint8), weight)
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mask_answer(loss: MaskLoss, scores: list[list[float]], guesses: list[float], truth: list[float]) -> float:
    """One prompt's part of `MaskLoss`, pixel by pixel from the definitions."""
    each, wrong = [], []
    for row, guess in zip(scores, guesses, strict=True):
        p = [logistic(x) for x in row]
        focal = sum(
            -(loss.alpha * (1 - q) ** loss.gamma * math.log(q))
            if t
            else -((1 - loss.alpha) * q**loss.gamma * math.log(1 - q))
            for q, t in zip(p, truth, strict=True)
        )
        dice = 1 - (2 * sum(q * t for q, t in zip(p, truth, strict=True)) + 1) / (sum(p) + sum(truth) + 1)
        each.append(loss.focal * focal / len(row) + loss.dice * dice)
        cut = [x > 0 for x in row]
        both = sum(c and t > 0 for c, t in zip(cut, truth, strict=True))
        either = sum(c or t > 0 for c, t in zip(cut, truth, strict=True))
        wrong.append((guess - both / either) ** 2)
    best = (1 - loss.others) * min(each) + loss.others * sum(each) / len(each)
    return best + loss.quality * sum(wrong) / len(wrong)


@pytest.fixture
def asked() -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[3, 2, 4, 5]`, qualities `[3, 2]` and objects `[3, 4, 5]` in float64; the last prompt has no object."""
    dice = torch.Generator().manual_seed(2)
    masks = 2 * torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=dice)
    quality = torch.rand(3, 2, dtype=torch.float64, generator=dice)
    truth = (torch.rand(3, 4, 5, dtype=torch.float64, generator=dice) < 0.4).double()
    truth[2] = 0
    return masks, quality, truth


MASK_LOSSES = [MaskLoss(), MaskLoss(focal=1.0, dice=3.0, quality=0.5, alpha=0.6, gamma=1.5, others=0.3)]


@pytest.mark.parametrize("loss", MASK_LOSSES, ids=str)
def test_mask_loss(asked: tuple[Tensor, Tensor, Tensor], loss: MaskLoss) -> None:
    rows = [(each.flatten(-2).tolist(), q.tolist(), t.flatten().tolist()) for each, q, t in zip(*asked, strict=True)]
    wanted = sum(mask_answer(loss, *row) for row in rows[:2]) / 2
    assert float(loss(*asked)) == pytest.approx(wanted, rel=1e-7)  # the IoU that quality is held to is float32
    unjudged = dataclasses.replace(loss, quality=0.0)
    wanted = sum(mask_answer(unjudged, *row) for row in rows[:2]) / 2
    assert float(unjudged(*asked)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("loss", MASK_LOSSES, ids=str)
def test_mask_loss_gradients(asked: tuple[Tensor, Tensor, Tensor], loss: MaskLoss) -> None:
    masks, quality, truth = asked  # the step is far below the gap between the masks' losses and between logits and 0
    given = masks.requires_grad_(), quality.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, q: loss(m, q, truth), given, eps=1e-7, atol=1e-6)


def test_only_the_best_mask_learns(asked: tuple[Tensor, Tensor, Tensor]) -> None:
    masks, quality, truth = asked
    masks[0, 1] = 6 * truth[0] - 3  # nearly right
    masks[1, 0] = 6 * truth[1] - 3
    torch.autograd.backward(MaskLoss()(masks.requires_grad_(), quality.requires_grad_(), truth))
    assert masks.grad is not None
    assert quality.grad is not None
    learns = masks.grad.flatten(2).abs().sum(2) > 0
    assert learns.tolist() == [[False, True], [True, False], [False, False]]
    assert (quality.grad != 0).tolist() == [[True, True], [True, True], [False, False]]


def test_the_others_learn_by_their_share(asked: tuple[Tensor, Tensor, Tensor]) -> None:
    masks, quality, truth = asked
    torch.autograd.backward(MaskLoss(others=1.0)(masks.requires_grad_(), quality, truth))
    assert masks.grad is not None
    assert (masks.grad.flatten(2).abs().sum(2) > 0).tolist() == [[True, True], [True, True], [False, False]]
    with pytest.raises(EdgesegError, match=r"others is a share within 0\.\.1, got 2"):
        MaskLoss(others=2)


def test_quality_is_held_to_the_iou() -> None:
    truth = torch.zeros(1, 4, 5, dtype=torch.float64)
    truth[0, :2] = 1  # 10 pixels
    masks = torch.full((1, 2, 4, 5), -4.0, dtype=torch.float64)
    masks[0, 0, 1:3] = 4.0  # 5 of them and 5 others: 1/3; the second mask is empty: 0
    right = torch.tensor([[1 / 3, 0.0]], dtype=torch.float64)
    alone = MaskLoss(focal=0.0, dice=0.0)
    assert float(alone(masks, right, truth)) == pytest.approx(0, abs=1e-15)
    assert float(alone(masks, right + torch.tensor([[0.5, 0.1]]), truth)) == pytest.approx((0.25 + 0.01) / 2, rel=1e-6)


def test_prompts_without_an_object_are_zero(asked: tuple[Tensor, Tensor, Tensor]) -> None:
    masks, quality, truth = asked
    value = MaskLoss()(masks.requires_grad_(), quality, torch.zeros_like(truth))
    torch.autograd.backward(value)
    assert float(value.detach()) == 0
    assert masks.grad is not None
    assert not masks.grad.any()


def test_what_is_unknown_weighs_nothing_in_a_mask_s_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(2, 3, 8, 10, generator=generator, requires_grad=True)
    quality = torch.rand(2, 3, generator=generator)
    truth = torch.zeros(2, 8, 10)
    truth[:, 2:5, 3:7] = 1
    known = torch.ones(2, 8, 10, dtype=torch.bool)
    known[:, 6:] = False
    loss = MaskLoss()
    (grad,) = torch.autograd.grad(loss(masks, quality, truth, known), masks)
    assert grad[..., 6:, :].abs().max() == 0 < grad[..., :6, :].abs().max()
    cut = loss(masks[..., :6, :], quality, truth[:, :6], None)
    assert torch.allclose(loss(masks, quality, truth, known), cut)
    everything = torch.ones_like(known)
    assert torch.allclose(loss(masks, quality, truth, everything), loss(masks, quality, truth))
