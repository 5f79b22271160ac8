"""The parity ledger: what each hop from the trained student to the deployed file did to the masks.

Errors of logits alone say nothing about a segmentation (a large error far from a decision is harmless, a tiny one at a
boundary is not), so a hop is judged by the masks too: the share of pixels that keep their label, the boundary, and the
worst class. Every figure is computed over all compared images together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Hop:
    """One step, e.g. `student -> graph`, compared on the same images.

    relative_rms: RMS of the difference of logits over RMS of the reference's logits; null where labels come out.
    max_error:    largest absolute difference of logits; null likewise.
    same_label:   share of pixels with the same label, 0..1.
    boundary_f:   boundary F-score between the two label maps at 2 px, 0..1: each class's boundaries over all images together, and the
                  mean of the classes that are large enough to be judged.
    worst_class:  the class with the lowest IoU between the two label maps, and that IoU, 0..1.
    nonfinite:    NaN and infinities on either side of the hop; any is a failure.
    precision:    the row of thresholds the hop was held to (`edgeseg.quantize.precision`).
    placed:       how many operators the runtime put on each unit, of a hop that ends in one; null where it does not say.
    """

    __pydantic_config__ = STRICT
    name: str
    precision: str
    images: int
    relative_rms: float | None
    max_error: float | None
    same_label: float
    boundary_f: float
    worst_class: str | None
    worst_class_iou: float
    nonfinite: int
    passed: bool
    reasons: list[str] = field(default_factory=list)
    placed: dict[str, int] | None = None


@dataclass(frozen=True)
class Ledger:
    """All hops of one artifact, and the images they were compared on (`data`, e.g. `camvid:PATH[held]`)."""

    __pydantic_config__ = STRICT
    data: str
    hops: list[Hop]

    @property
    def passed(self) -> bool:
        """True when there is a hop and every hop passed."""
        return bool(self.hops) and all(hop.passed for hop in self.hops)
