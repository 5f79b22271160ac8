"""label_map against its float64 definition, on every case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from edgeseg.errors import EdgesegError
from edgeseg.kernels import native
from edgeseg.kernels.label_map import label_map
from edgeseg.kernels.label_map.cases import CASES, Case
from edgeseg.kernels.label_map.host import label_map_host
from edgeseg.kernels.label_map.reference import label_map_reference


def logits(case: Case) -> torch.Tensor:
    return torch.randn(case.batch, case.classes, *case.low, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_label_that_is_decided_is_the_references(case: Case) -> None:
    x = logits(case)
    wanted, margin = label_map_reference(x.numpy(), case.high, case.align_corners)
    got = label_map(x, case.high, case.align_corners)
    assert got.dtype == torch.uint8
    assert got.shape == (case.batch, *case.high)
    decided = margin > case.margin
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(got.numpy()[decided], wanted[decided])


@pytest.mark.parametrize("case", [case for case in CASES if case.classes < 20], ids=str)
def test_the_reference_is_bilinear_upsampling_in_float64(case: Case) -> None:
    x = logits(case).double()
    full = interpolate(x, size=case.high, mode="bilinear", align_corners=case.align_corners)
    wanted, margin = label_map_reference(x.numpy(), case.high, case.align_corners)
    best = full.topk(2, dim=1).values
    np.testing.assert_allclose(margin, (best[:, 0] - best[:, 1]).numpy(), atol=1e-12)
    decided = margin > 1e-9
    np.testing.assert_array_equal(full.argmax(1).numpy()[decided], wanted[decided])


def test_bfloat16_is_within_its_own_rounding() -> None:
    case = CASES[0]
    x = logits(case).bfloat16()
    wanted, margin = label_map_reference(x.float().numpy(), case.high)
    got = label_map(x, case.high).numpy()
    assert (got == wanted)[margin > 0.05].all()  # logits up to 4 with 8 bits: steps of 1/64, rounded twice


def test_more_classes_than_a_byte_can_name_are_refused() -> None:
    assert label_map(torch.randn(1, 256, 2, 2), (4, 4)).shape == (1, 4, 4)
    with pytest.raises(ValueError, match="at most 256 classes, got 257"):
        label_map(torch.randn(1, 257, 2, 2), (4, 4))


@pytest.mark.parametrize("why", [EdgesegError("no compiler"), OSError("failed to map segment from shared object")])
def test_without_our_kernel_numpy_makes_the_labels(monkeypatch: pytest.MonkeyPatch, why: Exception) -> None:
    """No compiler, or a cache on a disk that is mounted noexec."""

    def host() -> None:
        raise why

    monkeypatch.setattr(native, "host", host)
    case = CASES[0]
    x = logits(case).numpy()
    wanted, margin = label_map_reference(x, case.high, False)
    np.testing.assert_array_equal(label_map_host(x, case.high)[margin > case.margin], wanted[margin > case.margin])
