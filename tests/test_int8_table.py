"""The table of whole numbers, on rows that nothing was made for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.int8 import HEADS, Row, cells, document, keep, read
from edgeseg import schema
from edgeseg.drops import Drop
from edgeseg.quantize.findings import Trial
from tests.report.stored import trial

FLOAT = trial(0, "fp32", [], 0.0, 1.0, 22.9)
HALF = trial(1, "fp16", [], 0.0, 0.5, 11.8, executed="bf16")
WHOLE = trial(2, "int8", [], 0.1, 0.3, 6.1)
KEPT = Drop(0.1, 0.0, 0.2, 233)
ROW = Row(
    "now", "camvid[test]", 64, "ddrnet23_slim", "openvino", 43.94, FLOAT, WHOLE, KEPT, None, HALF, WHOLE, KEPT, "int8 it is"
)  # fmt: skip


def cell(row: Row, head: str) -> str:
    """What stands below a head."""
    return dict(zip(HEADS, cells(row), strict=True))[head]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (KEPT, "SHIP int8"),
        (Drop(0.5, 0.4, 0.6, 233), "SHIP int8"),
        (Drop(0.7, 0.4, 1.0, 233), "UNDECIDED: int8 loses more than 0.5"),
        (Drop(0.9, 0.6, 1.2, 233), "DON'T SHIP: int8 loses more than 0.5"),
        (Drop(float("nan"), float("nan"), float("nan"), 233), "DON'T SHIP: int8 loses more than 0.5"),
        (None, "UNDECIDED: int8 was not scored"),
    ],
)
def test_an_answer_is_held_to_the_limit_on_the_test_images(lost: Drop | None, said: str) -> None:
    assert cell(replace(ROW, answer_drop=lost), "answer") == said
    untimed = replace(ROW, answer=replace(WHOLE, time=None), answer_drop=lost)
    assert cell(untimed, "answer") == said.replace("SHIP int8", "int8 keeps the masks")


def test_an_answer_may_lose_what_its_search_allowed() -> None:
    assert cell(replace(ROW, answer_drop=Drop(0.9, 0.6, 1.2, 233), max_drop=1.0), "answer") == "SHIP int8"
    assert cell(replace(ROW, answer=None, answer_drop=None), "answer") == "DON'T SHIP"


def test_half_precision_that_failed_says_why() -> None:
    assert cell(ROW, "half: time / float's") == "0.500 (0.485 to 0.520) (bf16)"
    failed = replace(HALF, time=None, failed="fp16-1 does not draw the masks of its run:\n a | b")
    row = replace(ROW, half=failed)
    assert cell(row, "half: time / float's") == "failed: does not draw the masks of its run: a \\| b"
    assert cell(row, "its time / half's") == ""


def test_the_answer_is_held_against_half_precision_too() -> None:
    assert cell(ROW, "its time / half's") == "0.600 (0.560 to 0.643)"
    assert cell(replace(ROW, answer=HALF), "its time / half's") == "1.000"
    for missing in (replace(ROW, answer=None), replace(ROW, half=None), replace(ROW, half=Trial(1, "fp16", "fp16-1"))):
        assert cell(missing, "its time / half's") == ""


def test_how_long_a_search_took_is_a_column() -> None:
    assert cell(ROW, "search, minutes") == ""
    assert cell(replace(ROW, seconds=750.0), "search, minutes") == "12.5"


def test_rows_that_were_stored_before_there_was_a_limit_or_a_clock_are_read(tmp_path: Path) -> None:
    file = tmp_path / "int8.jsonl"
    old = schema.dump(ROW)
    del old["max_drop"], old["seconds"]
    file.write_text(json.dumps(old) + "\n")
    other = replace(ROW, target="litert")
    keep(file, other)
    keep(file, replace(ROW, created="later"))
    assert sorted((row.target, row.created) for row in read(file)) == [("litert", "now"), ("openvino", "later")]


def test_every_line_of_the_table_has_every_column() -> None:
    text = document([ROW, replace(ROW, target="litert", answer=None, answer_drop=None, half=None)])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and {line.count("|") for line in table} == {len(HEADS) + 1}
    assert "- ddrnet23_slim on litert: int8 it is" in text
