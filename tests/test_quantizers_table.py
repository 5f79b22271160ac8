"""The table of our quantizer beside others': what stands in it, and that another's file takes the model's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quantizers import Feeds, Ratio, Reader, Row, Some, Theirs, document, swapped
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.drops import Drop
from edgeseg.runtimes.null import Null, null_artifact

ROW = Row(
    created="2026-11-30T20:00:00+00:00",
    data="camvid[test], 100 images",
    calibrated_on=64,
    size=(360, 480),
    student="ddrnet23_slim",
    target="openvino",
    quantizer="nncf 3.4.0",
    miou=68.25,
    ours=Drop(0.2, -0.1, 0.5, 100),
    theirs=Drop(0.31, 0.0, 0.62, 100),
    our_time=Ratio(0.17, 0.168, 0.172, "faster"),
    their_time=Ratio(0.98, 0.95, 1.03, "inconclusive"),
    megabytes=[22.9, 6.1, 6.3],
)


def test_a_row_says_what_both_lose_and_take() -> None:
    line = document([ROW]).splitlines()[-1]
    assert line == (
        "| ddrnet23_slim | openvino | nncf 3.4.0 | 68.25 | +0.20 (-0.10 to +0.50) | +0.31 (+0.00 to +0.62) | "
        "0.170 (0.168 to 0.172) | 0.980 (0.950 to 1.030), open | 22.9, 6.1, 6.3 |"
    )
    assert schema.parse(Row, schema.dump(ROW), "row") == ROW


def test_what_theirs_could_not_do_is_a_line() -> None:
    told = document([replace(ROW, theirs=None, their_time=None, megabytes=[22.9, 6.1, None], why="ValueError: no")])
    assert "| +0.20 (-0.10 to +0.50) |  | 0.170" in told
    assert told.endswith("- ddrnet23_slim on openvino: ValueError: no\n")


def test_their_file_takes_the_place_of_the_models_and_the_artifact_is_whole(tmp_path: Path) -> None:
    plain = Artifact.open(null_artifact(tmp_path / "plain", Null()))
    before, seen = plain.model_file.read_bytes(), []

    def write(model: Path, name: str, feeds: Feeds, made: Path) -> None:
        seen.append((name, len(feeds)))
        made.write_bytes(model.read_bytes() + b"\n")

    for _ in range(2):  # a second time in the place of the first
        theirs = swapped(plain, tmp_path / "theirs", Theirs("none", write), [np.zeros((1, 2, 2, 3), np.uint8)] * 3)
    assert seen == [(plain.manifest.input.name, 3)] * 2
    assert Artifact.open(theirs.folder).model_file.read_bytes() == before + b"\n"
    assert (theirs.manifest.precision.asked, theirs.manifest.ledger) == ("int8", None)
    assert plain.model_file.read_bytes() == before
    with pytest.raises(ZeroDivisionError):
        swapped(plain, tmp_path / "no", Theirs("none", lambda *_: 1 / 0), [])  # type: ignore[arg-type]
    assert not (tmp_path / "no").exists()


def test_images_are_spread_over_the_split_and_read_a_range_at_a_time(tiny_data: Data) -> None:
    whole = tiny_data.split("test")
    some = Some(whole, 3)
    assert some.names == (whole.names[0], whole.names[(len(whole) - 1) // 2], whole.names[-1])
    assert np.array_equal(some[2][0], whole[len(whole) - 1][0])
    assert len(Some(whole, 1000)) == len(whole)
    feeds = [np.full((1, 1, 1, 3), index, np.uint8) for index in range(4)]
    reader = Reader("image", feeds)
    reader.set_range(1, 3)
    read = [each["image"][0, 0, 0, 0] for each in iter(reader.get_next, None) if each]
    assert read == [1, 2] and len(reader) == 4
