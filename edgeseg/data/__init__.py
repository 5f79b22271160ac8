"""Data sets: `load_data("camvid:PATH")` gives named splits of labelled images. A kind is one file and its name here."""

from __future__ import annotations

from edgeseg.data import camvid, cityscapes, folder, objects, regions, synthetic, synthetic_objects  # noqa: F401 - each registers its kind
from edgeseg.data.base import LOADERS, Data, Image, Labels, Split

__all__ = ["Data", "Image", "Labels", "Split", "load_data"]


def load_data(spec: str) -> Data:
    """The data set of a spec, `KIND` or `KIND:ARGUMENT`."""
    kind, _, argument = spec.partition(":")
    return LOADERS[kind](argument)
