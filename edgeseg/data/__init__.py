"""Data sets: `load_data("camvid:PATH")` gives named splits of labelled images. A kind is one file and its name here."""

from __future__ import annotations

from edgeseg.data import (  # noqa: F401 - each registers its kind
    ade20k,
    camvid,
    cityscapes,
    coco,
    coco_panoptic,
    coco_stuff,
    dis5k,
    folder,
    hugging_face,
    lvis,
    objects,
    regions,
    sa1b,
    shards,
    synthetic,
    synthetic_objects,
    voc,
)
from edgeseg.data.base import LOADERS, Data, Image, Labels, Split

__all__ = ["Data", "Image", "Labels", "Split", "load_data"]


def load_data(spec: str) -> Data:
    """The data set of a spec, `KIND` or `KIND:ARGUMENT`. A slash at the end of a path, as shells put it there, means nothing."""
    kind, _, argument = spec.partition(":")
    return LOADERS[kind](argument.rstrip("/") or argument)
