"""The tiers of LiteRT: composites whose bodies XNNPACK runs, or our kernels in their place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgeseg.errors import need
from edgeseg.kernels.build import library
from edgeseg.kernels.operators import OPERATORS
from edgeseg.kernels.tier import Run, Work, tier

if TYPE_CHECKING:
    from edgeseg.kernels.litert_runtime import Custom


@tier("LiteRT plugin", converted=True)
def _plugin(work: Work) -> Run:
    from edgeseg.kernels.litert_plugin import customs, with_customs

    file = with_customs(_file(work.name, work.case, work.half))
    return _in_litert(work, file, customs(file, library("litert"), work.threads))


@tier("LiteRT graph", converted=True)
def _graph(work: Work) -> Run:
    return _in_litert(work, _file(work.name, work.case, work.half))


@lru_cache(maxsize=1)  # both tiers come one after the other
def _file(name: str, case: Any, half: bool) -> bytes:
    need("litert_torch")
    from edgeseg.kernels.litert_composite import single

    return single(name, Work(name, case, half).feeds(), OPERATORS[name].constant, case.attributes())


def _in_litert(work: Work, file: bytes, kernels: Sequence[Custom] = ()) -> Run:
    from edgeseg.kernels.litert_runtime import CompiledModel

    model = CompiledModel(file, work.threads, kernels)
    for name, array in work.given().items():
        model.inputs[name][...] = array
    (out,) = model.outputs.values()

    def run() -> Any:
        model.run()
        return out

    return run
