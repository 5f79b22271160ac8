"""Every operator on every tier that this machine has, against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.kernels import conformance
from edgeseg.kernels.conformance import examine
from edgeseg.kernels.operators import OPERATORS
from edgeseg.kernels.tiers import TIERS, Work, quick


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_tier_is_the_reference(name: str, half: bool) -> None:
    rows = list(examine([name], most_tokens=196, halves=[half], tiers=quick()))
    assert [row.tier for row in rows] == quick()  # the others have tests of their own
    assert [(row.tier, row.error, row.detail) for row in rows if row.state != "ok"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wkv", "selective_scan"])
def test_long_sequences(name: str) -> None:
    """One case of each length that is left, and all of them in `edgeseg ops test`."""
    operator = OPERATORS[name]
    for tokens in (1000, 4096, 16384):
        case = next(case for case in operator.cases if case.tokens == tokens and case.channels <= 384)
        error_of = operator.judge(case, False)
        for tier in quick():
            if tokens > 4096 and tier in ("PyTorch plain", "ONNX Runtime graph", "OpenVINO graph"):
                continue  # gigabytes
            assert error_of(TIERS[tier](Work(name, case, threads=2))()) <= case.within, (tier, case)


def test_a_wrong_result_and_nan_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    for spoilt in (1.01, np.nan):
        monkeypatch.setattr(
            conformance, "opened", lambda tier, work, by=spoilt: lambda: np.float64(by) * TIERS["C++"](work)()
        )
        rows = list(examine(["wkv"], most_tokens=2, halves=[False]))
        assert {row.state for row in rows} == {"failed"}
        assert all((row.error is None) == np.isnan(spoilt) for row in rows)


def test_a_tier_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(tier: str, work: Work) -> None:
        raise EdgesegError("install it")

    monkeypatch.setattr(conformance, "opened", missing)
    rows = list(examine(["label_map"], most_cases=1, halves=[False]))
    assert {(row.state, row.detail, row.cases) for row in rows} == {("missing", "install it", 0)}
