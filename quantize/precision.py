"""What each precision may cost the masks: the one table of thresholds that every hop of every ledger is held to."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.registry import Registry


@dataclass(frozen=True)
class Tolerance:
    """The most a hop may change. Labels, boundary and worst class are the gate of what users see; logits that of why.

    relative_rms:    RMS of the difference over RMS of the reference, at most.
    same_label:      share of pixels with the same label, at least.
    boundary_f:      boundary F-score at 2 px between the two maps, 0..1, at least, over all images; the mean of the classes.
    worst_class_iou: lowest IoU of a class between the two maps, 0..1, at least.

    Classes with fewer than `MIN_PIXELS` pixels in both maps together are too small to be judged by a ratio, as are those below
    `share` of all: neither of these two asks about them.
    """

    relative_rms: float
    same_label: float
    boundary_f: float
    worst_class_iou: float
    share: float = 0.0


MIN_PIXELS = 200
"""A class below this many pixels over all compared images is left to `same_label`."""

PRECISIONS: Registry[Tolerance] = Registry("precision")
"""Name -> tolerance."""

# float32: only the order of sums differs; measured 1e-6 to 1e-5, a factor of ten is left for other kernels.
PRECISIONS.add("fp32", Tolerance(1e-4, 0.9995, 0.999, 0.98))
# float16: 11 bits, 5e-4 per rounding, over about 60 layers.
PRECISIONS.add("fp16", Tolerance(1e-2, 0.995, 0.98, 0.90))
# bfloat16: 8 bits, 4e-3 per rounding; measured 0.997 to 0.999 of the labels on two trained networks.
PRECISIONS.add("bf16", Tolerance(5e-2, 0.985, 0.95, 0.80))
# int8: measured 0.963 to 0.995 of the labels for calibrated networks; below that users see it.
# A class that the student hardly draws is undecided everywhere, and rounding decides it anew: whether that matters is for the
# metric to say (the verdict's drop in mIoU), so it is not judged here.
PRECISIONS.add("int8", Tolerance(2e-1, 0.96, 0.90, 0.60, share=2e-3))
# int8 weights alone: measured like float16 on most networks, some layers worse.
PRECISIONS.add("w8a32", Tolerance(1e-1, 0.98, 0.93, 0.75, share=2e-3))
PRECISIONS.add("w8a16", Tolerance(1e-1, 0.98, 0.93, 0.75, share=2e-3))
