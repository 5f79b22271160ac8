"""The three operators as one table: what each is called, tried on, compared with, and how many bytes it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.kernels.label_map import cases as label_map_cases
from edgeseg.kernels.label_map.reference import label_map_reference
from edgeseg.kernels.selective_scan import cases as scan_cases
from edgeseg.kernels.selective_scan.reference import selective_scan_reference
from edgeseg.kernels.wkv import cases as wkv_cases
from edgeseg.kernels.wkv.reference import wkv_sequential
from edgeseg.registry import Registry

Feeds = dict[str, NDArray[Any]]
Error = Callable[[NDArray[Any]], float]
"""What an operator made -> its error; NaN where it made any."""


@dataclass(frozen=True)
class Operator:
    """One operator.

    onnx:     its name in ONNX.
    constant: the inputs that are weights, part of a model; the others come with every run.
    halves:   the inputs that come as float16 in half precision.
    judge:    a case and whether inputs were rounded to float16 -> what measures the error of a result.
    ordinary: the case that is timed.
    result_bytes: the size of what a case makes.
    """

    name: str
    onnx: str
    cases: tuple[Any, ...]
    constant: tuple[str, ...]
    halves: tuple[str, ...]
    judge: Callable[[Any, bool], Error]
    ordinary: Any
    result_bytes: Callable[[Any], int]

    def within(self, case: Any, half: bool) -> float:
        """The error that a case allows."""
        return float(case.within if not half or self.name == "label_map" else case.half)

    def bytes_moved(self, case: Any) -> int:
        """What must be read and written at least, in float32."""
        return sum(array.nbytes for array in case.feeds().values()) + self.result_bytes(case)


def relative_rms(made: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """RMS of the difference over RMS of what is wanted."""
    difference = np.asarray(made, np.float64) - wanted
    return float(np.sqrt(np.square(difference).mean() / max(np.square(wanted).mean(), 1e-300)))


def _numbers(reference: Callable[[Any], NDArray[np.float64]]) -> Callable[[Any, bool], Error]:
    def judge(case: Any, half: bool) -> Error:
        wanted = reference(case)
        return lambda made: relative_rms(made, wanted)

    return judge


def _labels(case: label_map_cases.Case, half: bool) -> Error:
    wanted, margin = label_map_reference(case.feeds()["logits"], case.high, case.align_corners)
    decided = margin > (case.half if half else case.margin)
    return lambda made: float((np.asarray(made)[decided] != wanted[decided]).mean()) if decided.any() else 0.0


OPERATORS: Registry[Operator] = Registry("operator")

OPERATORS.add(
    "wkv",
    Operator(
        name="wkv",
        onnx="BiWKV",
        cases=wkv_cases.CASES,
        constant=("decay", "bonus"),
        halves=("key", "value"),
        judge=_numbers(lambda case: wkv_sequential(*case.feeds().values(), causal=case.causal)),
        ordinary=wkv_cases.Case(4096, 384),
        result_bytes=lambda case: int(4 * case.batch * case.tokens * case.channels),
    ),
)
OPERATORS.add(
    "selective_scan",
    Operator(
        name="selective_scan",
        onnx="SelectiveScan",
        cases=scan_cases.CASES,
        constant=("A", "D"),
        halves=("u", "delta", "B", "C"),
        judge=_numbers(lambda case: selective_scan_reference(*case.feeds().values())),
        ordinary=scan_cases.Case(4096, 384),
        result_bytes=lambda case: int(4 * case.batch * case.tokens * case.channels),
    ),
)
OPERATORS.add(
    "label_map",
    Operator(
        name="label_map",
        onnx="LabelMap",
        cases=label_map_cases.CASES,
        constant=(),
        halves=("logits",),
        judge=_labels,
        ordinary=label_map_cases.CASES[-1],
        result_bytes=lambda case: int(case.batch * case.high[0] * case.high[1]),
    ),
)
