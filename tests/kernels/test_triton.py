"""The Triton kernels against float64: interpreted on the processor, on a GPU where there is one, and compiled for five GPUs.

Triton looks at TRITON_INTERPRET when it is imported, so every group of checks is a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from edgeseg.kernels.selective_scan.cases import Case as ScanCase
from edgeseg.kernels.selective_scan.forms import scan_plain
from edgeseg.kernels.selective_scan.reference import selective_scan_reference
from edgeseg.kernels.wkv.cases import DECAYS, Case
from edgeseg.kernels.wkv.forms import wkv_plain
from edgeseg.kernels.wkv.reference import wkv_sequential

TOP = Path(__file__).resolve().parents[2]
GPU = torch.cuda.is_available()

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton: pip install triton (Linux)")

WITHIN: dict[torch.dtype, tuple[float, float]] = {
    torch.float32: (2e-6, 2e-5),  # gradients of the decay: sums of products of sums
    torch.float16: (5e-4, 2e-3),  # the result is rounded to 11 bits, and the gradients are made from the rounded one
    torch.bfloat16: (4e-3, 2e-2),  # to 8 bits
}
"""Element type -> relative RMS error of the result and of the gradients."""


def kernels_of(operator: str) -> Any:
    """Its module, imported late; called with lists of arguments, which types cannot follow."""
    return import_module(f"edgeseg.kernels.{operator}.triton_scan")


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def near(made: Tensor, wanted: Tensor, within: float, what: str, scale: float = 0.0) -> None:
    """Refuse a relative RMS error above `within`, NaN too. scale: the size that counts where `wanted` vanishes."""
    error = rms(made.double().cpu() - wanted) / max(rms(wanted), scale)
    if not error <= within:
        raise AssertionError(f"{what}: relative RMS error {error:.3g} > {within:.3g}")


def wkv_is_right(
    case: Case, dtype: torch.dtype = torch.float32, device: str = "cpu", key: Tensor | None = None
) -> None:
    """Values and gradients of one case, against the recurrences and against autograd, both in float64."""
    wkv = kernels_of("wkv")
    feeds = [torch.from_numpy(array) for array in case.feeds().values()]
    feeds[2:] = [each.to(dtype) for each in feeds[2:]]
    if key is not None:
        feeds[2] = key
    grad = torch.randn(feeds[3].shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    doubles = [each.double().requires_grad_() for each in feeds]
    wanted = wkv_sequential(*(each.detach().numpy() for each in doubles), causal=case.causal)
    w, u, k, v = doubles
    exact = wkv_plain(w, u, k, v, case.causal, "pairs")
    gw, gu, gk, gv = torch.autograd.grad(exact, doubles, grad.double())

    given = [each.to(device) for each in feeds]
    out = wkv.wkv_cuda(*given, case.causal)
    made = wkv.wkv_grad_cuda(*given, out, grad.to(device), case.causal)
    values, gradients = WITHIN[dtype]
    what, scale = f"{case} {dtype}", rms(gv)  # softmax of one token, or of one that stands out: only v has a gradient
    assert out.dtype == made[2].dtype == made[3].dtype == dtype
    near(out, torch.from_numpy(wanted), values, what)
    near(made[3], gv, gradients, f"{what}: value")
    near(made[2], gk, gradients, f"{what}: key", scale)
    near(made[1], gu, gradients, f"{what}: bonus", scale)
    near(made[0], gw, gradients, f"{what}: decay", scale * case.tokens)  # it is per token


def scan_is_right(case: ScanCase, device: str = "cpu") -> None:
    scan = kernels_of("selective_scan")
    feeds = case.feeds()
    given = [torch.from_numpy(array) for array in feeds.values()]
    grad = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(0))
    doubles = [each.double().requires_grad_() for each in given]
    wanted = torch.autograd.grad(scan_plain(*doubles), doubles, grad.double())
    on = [each.to(device) for each in given]
    near(scan.scan_cuda(*on), torch.from_numpy(selective_scan_reference(**feeds)), 1e-6, str(case))
    for name, made, right in zip(feeds, scan.scan_grad_cuda(*on, grad.to(device)), wanted, strict=True):
        assert made.shape == right.shape and made.is_contiguous()
        near(made, right, 1e-5, f"{case}: {name}", 1e-3)  # at the first token nothing has decayed: A has no gradient


def check_wkv(causal: bool, device: str) -> None:
    for tokens, channels in ((1, 32), (2, 35), (63, 35)):
        wkv_is_right(Case(tokens, channels, batch=2, causal=causal), device=device)
    wkv_is_right(Case(196, 32, "N(0, 4)", "steep", causal=causal), device=device)
    wkv_is_right(Case(290, 32, "one of 50", causal=causal), device=device)  # more chunks than are carried at once


def check_wkv_both_ways(device: str) -> None:
    check_wkv(False, device)


def check_wkv_causal(device: str) -> None:
    check_wkv(True, device)


def check_wkv_types(device: str) -> None:
    for dtype, causal in ((torch.float16, False), (torch.bfloat16, True)):
        wkv_is_right(Case(63, 35, causal=causal), dtype, device)


def check_wkv_edges(device: str) -> None:
    """Decays of 400 over the sequence, which go pair by pair; keys that float32 cannot raise e to; NaN; nothing at all."""
    wkv = kernels_of("wkv")
    with mock.patch.dict(DECAYS, sheer=(-400.0, 400.0)):
        for tokens, keys, causal in ((2, "N(0, 1)", False), (20, "N(0, 4)", False), (63, "one of 50", True)):
            wkv_is_right(Case(tokens, 32, keys, "sheer", causal=causal), device=device)
    late = Case(63, 35, causal=True)  # tokens that do not hear the largest key: of their own chunk, and of a later one
    key = torch.from_numpy(late.feeds()["key"])
    key[0, 20], key[0, 45] = 110.0, 1000.0
    wkv_is_right(late, device=device, key=key)
    case = Case(63, 32)
    key = torch.from_numpy(case.feeds()["key"])
    wkv_is_right(case, key=key + torch.where(torch.arange(63) % 7 == 0, 1000.0, -1000.0)[:, None], device=device)
    key[0, 5:50] = -torch.inf  # tokens that count for nothing, a whole chunk of them too
    feeds = [torch.from_numpy(each).to(device) for each in case.feeds().values()]
    feeds[2] = key.to(device)
    out = wkv.wkv_cuda(*feeds, False)
    near(out, torch.from_numpy(wkv_sequential(*(each.cpu().numpy() for each in feeds))), 2e-6, "no weight")
    assert all(each.isfinite().all() for each in wkv.wkv_grad_cuda(*feeds, out, out, False)[:2])
    feeds[2][0, 60, 3] = torch.nan
    bad = wkv.wkv_cuda(*feeds, False).isnan()
    assert bad[..., 3].all() and bad.sum() == 63
    empty = [each[..., :0] for each in feeds]
    assert wkv.wkv_cuda(*empty, False).shape == (1, 63, 0)
    assert [each.shape[-1] for each in wkv.wkv_grad_cuda(*empty, empty[3], empty[3], False)] == [0, 0, 0, 0]


def check_scan(device: str) -> None:
    for tokens, channels, states in ((1, 32, 7), (2, 35, 16), (63, 35, 1), (196, 32, 1)):
        scan_is_right(ScanCase(tokens, channels, states, batch=2 if tokens < 100 else 1), device)


def check_scan_states(device: str) -> None:
    """Memories of every length, more states than a program holds, and a sequence that is one chunk."""
    scan = kernels_of("selective_scan")
    scan_is_right(ScanCase(33, 32, 16, "large"), device)
    with mock.patch.object(scan, "STATES", 4):
        scan_is_right(ScanCase(66, 32, 7, "long memory"), device)
        with mock.patch.object(scan, "PROGRAMS", 1):
            scan_is_right(ScanCase(40, 35, 5), device)


CHECKS: dict[str, Any] = {
    name.removeprefix("check_"): check
    for name, check in globals().items()
    if name.startswith("check_") and name != "check_wkv"
}


@pytest.mark.parametrize("check", CHECKS)
def test_interpreted(check: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_triton", check],
        cwd=TOP,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs CUDA")
@pytest.mark.parametrize("check", CHECKS)
def test_on_a_gpu(check: str) -> None:
    CHECKS[check]("cuda")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("element", "aligned"),
    [("fp32", True)]
    + [pytest.param(*each, marks=pytest.mark.wide) for each in (("fp32", False), ("fp16", True), ("bf16", True))],
)
def test_no_kernel_spills_on_a_jetson(element: str, aligned: bool) -> None:
    from edgeseg.kernels.aot import compiled, kernels

    usages = [compiled(kernel, 87) for kernel in kernels() if (kernel.element, kernel.aligned) == (element, aligned)]
    assert len(usages) == len({usage.kernel for usage in usages})
    assert [str(usage) for usage in usages if usage.spills] == []
    assert all(usage.cubin_bytes > 0 and 0 < usage.registers <= 255 for usage in usages)


if __name__ == "__main__":
    np.seterr(all="ignore")  # the interpreter computes what is masked too
    torch.set_num_threads(1)
    CHECKS[sys.argv[1]]("cpu")
