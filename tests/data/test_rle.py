"""Polygons and run lengths, against masks and texts that pycocotools made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.data import json_index
from edgeseg.data.json_index import elements
from edgeseg.data.rle import area, id_map, runs_of
from edgeseg.errors import EdgesegError

# (height, width), polygon, and what pycocotools 2.0.11 makes of it: the area, and the mask in its text
POLYGONS = [
    (
        (40, 60),
        [3.2, 4.7, 55.1, 9.9, 30.5, 38.25, 20, 15.5],
        660,
        "U51W1001O1O0010O01O1O001O1O001O1O011N2N2N2N2N2N2N2N3M2O1NO1O1O1O1N2O1O1O1O2N1O1N2O1O1O1O1O1O1N3N1O1O1O1Oo5",
    ),
    ((20, 30), [-3, -2, 33.5, 4, 12, 24.5], 400, "04`02N2N1O2N2N2N1O2NZ1OgN000000000O2N1O1O1O1O101N1O1O1O1O1ON"),
    ((30, 30), [5, 5, 25, 25, 25, 5, 5, 25], 200, "k4c0<N2N2N2N2N2N2N2N2N10O2N2N2N2N2N2N2N2N2`4"),  # it crosses itself
]


def drawn(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    return id_map([runs_of(segmentation, size)], [], size)


@pytest.mark.parametrize(("size", "points", "pixels", "text"), POLYGONS)
def test_a_polygon_is_drawn_as_coco_draws_it(
    size: tuple[int, int], points: list[float], pixels: int, text: str
) -> None:
    made, wanted = drawn([points], size), drawn({"size": list(size), "counts": text}, size)
    np.testing.assert_array_equal(made, wanted)
    assert made.sum() == pixels == area(runs_of([points], size))


@pytest.mark.parametrize("seed", range(4))
def test_uncompressed_runs_go_down_the_columns(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 7)) < (0.0, 0.3, 0.9, 1.0)[seed]
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    np.testing.assert_array_equal(drawn({"size": [9, 7], "counts": counts}, (9, 7)), mask)


def test_parts_of_an_object_are_one() -> None:
    parts = [[1, 1, 4, 1, 4, 4, 1, 4], [3, 3, 8, 3, 8, 8, 3, 8]]
    np.testing.assert_array_equal(
        drawn(parts, (10, 10)) > 0, (drawn(parts[:1], (10, 10)) + drawn(parts[1:], (10, 10))) > 0
    )


def test_an_id_map_names_254_objects() -> None:
    size = (1, 300)
    objects = [runs_of({"size": [1, 300], "counts": [n, 1, 299 - n]}, size) for n in range(299)]
    objects.append(runs_of({"size": [1, 300], "counts": [0, 300]}, size))
    made = id_map(objects, [], size)
    assert made[0, 299] == 1  # the largest, behind the others
    assert set(made[0, :253].tolist()) == set(range(2, 255))
    assert (made[0, 253:299] == 255).all()


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [9, 8], "counts": [72]}, r"of size \[9, 8\] for an image of \[9, 7\]"),
        ({"size": [9, 7], "counts": [60]}, "add up to 60 pixels for an image of 63"),
        ({"size": [9, 7], "counts": [70, -7]}, "whole numbers from 0 on"),
        ({"size": [9, 7], "counts": [31.5, 31.5]}, "whole numbers from 0 on"),
        ({"size": [9, 7], "counts": "o"}, "is no compressed run-length mask"),
        ({"size": [9, 7], "counts": ""}, "is no compressed run-length mask"),
        ({"size": [9, 7], "counts": "\xe9"}, "is no compressed run-length mask"),
        ({"size": [9, 7]}, "whole numbers from 0 on"),
        ([[1, 2, 3, 4]], "three points or more"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three points or more"),
        ([], "polygons or run lengths"),
        (None, "polygons or run lengths"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation: Any, words: str) -> None:
    with pytest.raises(EdgesegError, match=words):
        runs_of(segmentation, (9, 7))


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_large_file_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_index, "BLOCK", block)
    wanted = [{"id": n, "name": "Zürich [1] {", "counts": [n] * n, "deep": {"a": [{}]}, "x": -1.5e3} for n in range(12)]
    document = {"info": {"a": [1, {"b": 2}]}, "n": 12, "empty": [], "images": wanted, "last": None}
    file = tmp_path / "a.json"
    for ascii_only in (True, False):
        file.write_text(json.dumps(document, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
        found = list(elements(file, ("images", "empty")))
        assert [(key, value) for key, _, _, value in found] == [("images", entry) for entry in wanted]
        stored = file.read_bytes()
        assert [json.loads(stored[start:stop]) for _, start, stop, _ in found] == wanted


@pytest.mark.parametrize(
    "text", ["", "{", '{"images": [1, 2', '{"images": [1 2]}', '{"images": 3}', "null", '{"images": [tru]}']
)
def test_a_file_that_is_cut_off_is_said_to_be(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(EdgesegError, match="is not whole"):
        list(elements(file, ("images",)))
    with pytest.raises(EdgesegError, match="does not exist"):
        list(elements(tmp_path / "none", ("images",)))
