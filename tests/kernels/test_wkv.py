"""wkv in every form against its definition and against the published operator's bundle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from edgeseg.kernels.wkv import SAFE, form_for
from edgeseg.kernels.wkv import wkv as typed_wkv
from edgeseg.kernels.wkv.cases import CASES, Case
from edgeseg.kernels.wkv.reference import wkv_reference
from tests.students.official import GOLDEN, assert_close

wkv: Any = typed_wkv  # called with lists of arguments, which types cannot follow
FORMS: tuple[Literal["closed", "doubling"], ...] = ("closed", "doubling")


def inputs(case: Case) -> list[Any]:
    rng = np.random.default_rng(0)
    shape = case.batch, case.tokens, case.channels
    decay = np.linspace(*case.decay, case.channels) / case.tokens
    return [decay, rng.normal(size=case.channels), rng.normal(0, case.spread, shape), rng.normal(size=shape)]


def floats(given: list[Any]) -> Any:
    return [torch.tensor(each, dtype=torch.float32) for each in given]


@pytest.mark.parametrize("case", CASES)
def test_float32_is_the_definition(case: Case) -> None:
    given = inputs(case)
    wanted = wkv_reference(*given)
    for form in (None, "doubling"):
        got = wkv(*floats(given), form=form).numpy()
        error = np.sqrt(np.square(got - wanted).mean() / np.square(wanted).mean())
        assert error <= case.within


@pytest.mark.parametrize("tokens", [16, 33, 64])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_of_the_bundle(tokens: int, form: Literal["closed", "doubling"]) -> None:
    with np.load(GOLDEN / "wkv.npz") as file:
        golden = {key.removeprefix(f"{tokens}_"): torch.from_numpy(file[key]) for key in file.files}
    given: list[Any] = [golden[name].double().requires_grad_() for name in "wukv"]
    made = wkv(*given, form=form)
    assert_close(made.detach(), golden["y_dense_off1"].double(), within=1e-5)
    for got, name in zip(torch.autograd.grad(made, given, golden["gy"].double()), "wukv", strict=True):
        assert_close(got, golden[f"g{name}"].double(), within=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_the_values(form: Literal["closed", "doubling"]) -> None:
    given: list[Any] = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in inputs(Case(1, 7, 3))]
    assert torch.autograd.gradcheck(lambda *each: wkv(*each, form=form), given)


def test_steep_decays_take_the_form_that_survives_them() -> None:
    assert form_for(torch.tensor([-SAFE, 3.0])) == "closed"
    assert form_for(torch.tensor([-5.0, SAFE + 1])) == "doubling"


def test_half_precision_in_and_out_and_float32_inside() -> None:
    given: list[Any] = [torch.tensor(each, dtype=torch.float32) for each in inputs(Case(1, 500, 8))]
    whole = wkv(*given)
    rounded: list[Any] = [*given[:2], *(each.bfloat16() for each in given[2:])]
    with torch.autocast("cpu", torch.bfloat16):
        half = wkv(*rounded)
    assert half.dtype == torch.bfloat16
    assert (half - whole).abs().max() <= 0.02 * whole.abs().max()  # the rounding of the inputs, 8 bits


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \[3\], \[3\], \[1, 5, 4\], \[1, 5, 4\]"):
        wkv(torch.zeros(3), torch.zeros(3), torch.zeros(1, 5, 4), torch.zeros(1, 5, 4))
