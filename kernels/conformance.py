"""`edgeseg ops test`: every case on every tier, the worst error against what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.kernels.operators import OPERATORS, Operator
from edgeseg.kernels.tiers import TIERS, Run, Work
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Row:
    """One tier of one operator in one precision.

    cases:  how many were tried. `worst` is the largest share of its allowance that an error took, at `error` and `within`.
    state:  `ok`, `failed`, or `missing` with the reason in `detail`.
    """

    __pydantic_config__ = STRICT
    operator: str
    tier: str
    precision: str
    cases: int
    error: float | None
    within: float | None
    detail: str
    state: str


def examine(
    names: Sequence[str] = (),
    most_tokens: int | None = None,
    most_cases: int | None = None,
    halves: Sequence[bool] = (False, True),
    notify: Callable[[str], None] = lambda line: None,
    tiers: Sequence[str] = (),
) -> Iterator[Row]:
    """A row for every operator, tier and precision; `most_tokens` leaves longer sequences out. No names are all of them."""
    for name in names or OPERATORS:
        operator = OPERATORS[name]
        cases = [c for c in operator.cases if most_tokens is None or getattr(c, "tokens", 0) <= most_tokens]
        for half in halves:
            yield from _operator(operator, cases[:most_cases], half, notify, list(tiers or TIERS))


def _operator(
    operator: Operator, cases: Sequence[object], half: bool, notify: Callable[[str], None], tiers: Sequence[str]
) -> Iterator[Row]:
    worst: dict[str, tuple[float, float, float, object]] = {}
    missing: dict[str, str] = {}
    for case in cases:
        notify(f"{operator.name} {'fp16' if half else 'fp32'} {case}")
        error_of = operator.judge(case, half)
        within = operator.within(case, half)
        for name in tiers:
            if name in missing:
                continue
            try:
                made = opened(name, Work(operator.name, case, half, threads=2))()
            except EdgesegError as why:
                missing[name] = str(why)
                continue
            error = error_of(made) if np.isfinite(made).all() else float("nan")
            share = error / within if within else float(not error <= 0)
            before = worst.get(name)
            if before is None or not share <= before[0]:  # NaN is the worst there is, and stays
                worst[name] = before if before is not None and np.isnan(before[0]) else (share, error, within, case)
    for name in tiers:
        precision = "fp16" if half else "fp32"
        if name in missing:
            yield Row(operator.name, name, precision, 0, None, None, missing[name], "missing")
            continue
        _, error, within, case = worst[name]
        state = "ok" if error <= within else "failed"
        shown = None if np.isnan(error) else error
        yield Row(operator.name, name, precision, len(cases), shown, within, str(case), state)


def opened(name: str, work: Work) -> Run:
    """A tier on its work.

    Raises:
        EdgesegError: it is not to be had here, and why.
    """
    return TIERS[name](work)
