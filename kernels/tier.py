"""A way to run an operator on a case: what each is called and what opens it. `tiers` has them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.kernels.operators import OPERATORS, Operator
from edgeseg.registry import Registry

Run = Callable[[], NDArray[Any]]
"""One execution on the case it was opened for; a new array, or one that the next execution overwrites."""


@dataclass(frozen=True)
class Work:
    """An operator, by name, on a case, with inputs rounded to float16 or not, on so many threads."""

    name: str
    case: Any
    half: bool = False
    threads: int = 1

    @property
    def operator(self) -> Operator:
        """What the name stands for."""
        return OPERATORS[self.name]

    def feeds(self) -> dict[str, NDArray[Any]]:
        """The inputs, in their types."""
        halves = self.operator.halves if self.half else ()
        return {k: v.astype(np.float16) if k in halves else v for k, v in self.case.feeds().items()}

    def given(self) -> dict[str, NDArray[Any]]:
        """The inputs that come with every run."""
        return {name: array for name, array in self.feeds().items() if name not in self.operator.constant}

    def attributes(self) -> list[int | bool]:
        """The last arguments of the operator in PyTorch."""
        return [bool(v) if k in ("causal", "align_corners") else v for k, v in self.case.attributes().items()]


@dataclass(frozen=True)
class Tier:
    """One way to run an operator; called on its work it opens, or an error says why it is not to be had here.

    converted: a converter makes its file, in seconds a case: `edgeseg doctor` leaves it out, tests try it on fewer cases.
    simulated: its file is interpreted: proof of what it computes, but no speed, which therefore enters no table of results.
    """

    opens: Callable[[Work], Run]
    converted: bool = False
    simulated: bool = False

    def __call__(self, work: Work) -> Run:
        """Open it."""
        return self.opens(work)


TIERS: Registry[Tier] = Registry("tier")
"""`RUNTIME TIER` -> the way."""


def tier(
    name: str, converted: bool = False, simulated: bool = False
) -> Callable[[Callable[[Work], Run]], Callable[[Work], Run]]:
    """Register under a name."""

    def register(opens: Callable[[Work], Run]) -> Callable[[Work], Run]:
        TIERS.add(name, Tier(opens, converted, simulated))
        return opens

    return register
