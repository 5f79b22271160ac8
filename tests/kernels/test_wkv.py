"""wkv against its definition and the published operator's bundle: values, gradients, hostile inputs."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from edgeseg.kernels import native
from edgeseg.kernels.operators import relative_rms
from edgeseg.kernels.wkv import forms, torch_op, wkv
from edgeseg.kernels.wkv.cases import CASES, Case
from edgeseg.kernels.wkv.forms import SAFE, form_for, form_of, wkv_plain
from edgeseg.kernels.wkv.reference import wkv_reference, wkv_sequential
from tests.students.official import GOLDEN, assert_close, bundle

SHORT = [case for case in CASES if case.tokens <= 196]


def tensors(case: Case, kind: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.from_numpy(each).to(kind).requires_grad_() for each in case.feeds().values()]


@pytest.mark.parametrize("causal", [False, True])
def test_recurrences_in_float64_are_the_definition(causal: bool) -> None:
    for tokens, keys, decays in product((1, 2, 63), ("N(0, 4)", "one of 50"), ("fresh", "steep")):
        given = Case(tokens, 32, keys, decays, batch=2).feeds().values()
        np.testing.assert_allclose(
            wkv_sequential(*given, causal=causal), wkv_reference(*given, causal=causal), atol=1e-11
        )


@pytest.mark.parametrize("tokens", [16, 33, 64])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_values_and_gradients_of_the_bundle(tokens: int, kind: torch.dtype) -> None:
    with np.load(GOLDEN / "wkv.npz") as file:
        golden = {key.removeprefix(f"{tokens}_"): torch.from_numpy(file[key]) for key in file.files}
    given: list[Any] = [golden[name].to(kind).requires_grad_() for name in "wukv"]
    made = wkv(*given)
    assert_close(made.detach(), golden["y_dense_off1"].to(kind), within=1e-5)
    for got, name in zip(torch.autograd.grad(made, given, golden["gy"].to(kind)), "wukv", strict=True):
        assert_close(got, golden[f"g{name}"].to(kind), within=1e-5)


def test_the_whole_bundle() -> None:
    cases: Any = bundle("wkv_op")["cases"]
    assert len(cases) == 7
    for case in cases.values():
        given: list[Any] = [case[name].float().requires_grad_() for name in "wukv"]
        made = wkv(*given)
        wanted = case.get("y_dense_off1", case.get("y_fixed_chunked_off1"))  # the longest was too long for the former
        assert_close(made.detach(), wanted.float(), within=1e-5)
        grads = torch.autograd.grad(made, given, case["gy"].float())
        for got, exact in zip(grads, case.get("grads_dense_off1", grads), strict=True):
            assert_close(got, exact.float(), within=1e-5)


@pytest.mark.parametrize("form", ["closed", "chunk", "doubling", "pairs"])
@pytest.mark.parametrize("causal", [False, True])
def test_plain_forms_and_their_gradients_agree(form: forms.Form, causal: bool) -> None:
    given: Any = tensors(Case(7, 3), torch.float64)
    wanted: Any = wkv_reference(*(each.detach().numpy() for each in given), causal=causal)
    w, u, k, v = given
    np.testing.assert_allclose(wkv_plain(w, u, k, v, causal, form).detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *each: wkv_plain(each[0], each[1], each[2], each[3], causal, form), given)


def test_steep_decays_take_the_form_that_survives_them() -> None:
    assert form_for(torch.tensor([-SAFE, 3.0])) == "closed"
    assert form_for(torch.tensor([-5.0, SAFE + 1])) == "doubling"
    assert form_for(torch.tensor([-SAFE - 1, 3.0])) == "pairs"
    key, value = torch.randn(2, 1, 100, 4)
    steep = torch.tensor([-400.0, -90.0, 90.0, 400.0]) / 100
    given = steep, torch.zeros(4), key, value
    for form in (form_for(steep * 100), "pairs"):
        made = wkv_plain(*given, False, form)
        assert relative_rms(made.numpy(), wkv_reference(*(each.numpy() for each in given))) <= 1e-5


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_gradients_in_float32(case: Case) -> None:
    """Of the C++; where attention saturates, true gradients vanish and roundings of the values' scale remain."""
    exact, single = tensors(case, torch.float64), tensors(case)
    weight = torch.randn(exact[2].shape, generator=torch.Generator().manual_seed(0))
    for given in (exact, single):
        (wkv(*given, causal=case.causal) * weight.to(given[0].dtype)).sum().backward()
    scale = float(exact[3].grad.square().mean().sqrt())  # type: ignore[union-attr]
    for wanted, got in zip(exact, single, strict=True):
        assert wanted.grad is not None
        assert got.grad is not None
        size = float(wanted.grad.square().mean().sqrt())
        error = float((got.grad - wanted.grad).square().mean().sqrt())
        # 63 tokens that see one key of 50 only: their own part is e^-50 of the sum, the rest cancels to 1e-7 per token
        assert error <= max(1e-5 * size, 3e-6 * scale * (case.tokens if wanted.ndim == 1 else 1))


EXTREME = list(product((-400.0, -83.0, -0.9, 60.0, 400.0), ("ordinary", "a step of 150", "N(0, 60)"), (False, True)))


@pytest.mark.parametrize(("decay", "keys", "causal"), EXTREME)
def test_any_decay_and_any_keys(decay: float, keys: str, causal: bool) -> None:
    """`decay` per token; values of 1000 leave no room for what is only just finite."""
    rng = np.random.default_rng(0)
    key = rng.normal(0, 60 if keys == "N(0, 60)" else 1, (1, 100, 20))
    if keys == "a step of 150":
        key[:, 50:] += 150
    given = [np.full(20, decay), rng.normal(size=20), key, rng.normal(0, 1000, (1, 100, 20))]
    single = [each.astype(np.float32) for each in given]
    made = native.wkv(*single, causal=causal)
    assert np.isfinite(made).all()
    assert relative_rms(made, wkv_sequential(*single, causal=causal)) <= 1e-5


@pytest.mark.parametrize(("decay", "keys", "causal"), EXTREME)
def test_without_a_compiler_too(decay: float, keys: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same of plain PyTorch, and its gradients."""
    monkeypatch.setattr(torch_op, "native_or_none", lambda _: None)
    rng = np.random.default_rng(0)
    key = rng.normal(0, 60 if keys == "N(0, 60)" else 1, (1, 100, 20))
    if keys == "a step of 150":
        key[:, 50:] += 150
    arrays = [np.full(20, decay), rng.normal(size=20), key, rng.normal(size=(1, 100, 20))]
    single = [torch.tensor(each, dtype=torch.float32, requires_grad=True) for each in arrays]
    made = wkv(*single, causal=causal)
    wanted = wkv_sequential(*(each.detach().numpy() for each in single), causal=causal)
    assert relative_rms(made.detach().numpy(), wanted) <= 1e-5
    assert all(each.isfinite().all() for each in torch.autograd.grad(made.sum(), single))


@pytest.mark.parametrize("decay", [0.0, 0.02, 3.0])
@pytest.mark.parametrize("size", [60.0, 110.0])
def test_a_later_key_that_is_not_heard(decay: float, size: float) -> None:
    given = Case(40, 32, causal=True).feeds() | {"decay": np.full(32, decay, np.float32)}
    given["key"][:, 30] = size
    w, u, k, v = (torch.from_numpy(each) for each in given.values())
    form = form_of(w, k, True)
    assert form == ("pairs" if size == 110 else "closed" if decay < 1 else "doubling")
    made = wkv_plain(w, u, k, v, True, form)
    assert relative_rms(made.numpy(), wkv_sequential(*given.values(), causal=True)) <= 1e-5
    assert form_of(w, k, False) == ("pairs" if decay > 1 and size == 110 else "doubling" if decay > 1 else "closed")


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_library_writes_all_of_its_result_and_nothing_else(kind: Any) -> None:
    for tokens, channels, threads in product((1, 65, 130), (1, 16, 67, 130), (1, 3)):
        fence = np.full(tokens * channels + 128, 777, kind)
        out = fence[64:-64].reshape(1, tokens, channels)
        out.fill(np.nan)
        given = Case(tokens, channels).feeds()
        arrays = [given["decay"], given["bonus"], given["key"].astype(kind), given["value"].astype(kind)]
        pointers = [native.at(each) for each in (*arrays, out)]
        native.call("wkv", native.TYPES[out.dtype.name], *pointers, 1, tokens, channels, 0, threads)
        assert np.isfinite(out).all()
        assert (fence[:64] == 777).all()
        assert (fence[-64:] == 777).all()


@pytest.mark.parametrize("causal", [False, True])
def test_decays_below_the_last_bit_are_not_lost(causal: bool) -> None:
    """One token that outweighs all others fades by less than half of float32's last bit per token, 16384 times."""
    case = Case(16384, 96, "one of 50", causal=causal)
    feeds = case.feeds() | {"decay": np.linspace(1e-9, 2e-7, 96).astype(np.float32)}
    wanted = wkv_sequential(*feeds.values(), causal=causal)
    assert relative_rms(native.wkv(*feeds.values(), causal=causal), wanted) <= 1e-5  # a rounding for each of 256 blocks


def test_nan_stays_in_its_channel() -> None:
    given = Case(130, 32).feeds()
    for name, place in (("key", (0, 70, 5)), ("value", (0, 3, 7)), ("decay", (9,))):
        given[name][place] = np.nan
    bad = np.isnan(native.wkv(*given.values())).any((0, 1))
    assert set(np.flatnonzero(bad)) == {5, 7, 9}


def test_half_precision_in_and_out_and_float32_inside() -> None:
    given = Case(500, 32).feeds()
    whole = torch.from_numpy(wkv_sequential(*given.values())).float()
    decay, bonus, key, value = (torch.from_numpy(each) for each in given.values())
    for kind, within in ((torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)):  # 11 and 8 bits
        with torch.autocast("cpu", torch.bfloat16):
            half = wkv(decay, bonus, key.to(kind), value.to(kind))
        assert half.dtype == kind
        assert relative_rms(half.float().numpy(), whole.double().numpy()) <= within


def test_it_is_one_node_for_compilers_and_exporters() -> None:
    class Net(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return wkv(*given) + 1

    given = tuple(each.detach() for each in tensors(Case(10, 4)))
    program = torch.export.export(Net(), given)
    assert torch.ops.edgeseg.wkv.default in [node.target for node in program.graph.nodes]
    torch.library.opcheck(torch.ops.edgeseg.wkv.default, (*tensors(Case(10, 4)), False))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \[3\], \[3\], \[1, 5, 4\], \[1, 5, 4\]"):
        wkv(torch.zeros(3), torch.zeros(3), torch.zeros(1, 5, 4), torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match=r"\[1, 0, 4\]"):
        wkv(torch.zeros(4), torch.zeros(4), torch.zeros(1, 0, 4), torch.zeros(1, 0, 4))
