"""A search on the page: its trials, its blocks with their pictures, and what is wrong with it."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeseg import schema
from edgeseg.drops import Drop
from edgeseg.quantize.findings import MARKED, Search, Time, Trial
from edgeseg.report import render
from edgeseg.report.charts import DESK, LETTER, PHONE, overlap
from edgeseg.report.images import CHANGED, LONG_SIDE, damaged
from edgeseg.report.trials import known, trials
from edgeseg.results import collect
from tests.report.stored import BLOCKS, Store, street, trial

CROWD = [
    trial(0, "fp32", [], 0.0, 1.0, 23.1),
    trial(1, "fp16", [], -0.02, 0.97, 11.8, executed="bf16"),
    trial(2, "int8", [], 31.3, 0.42, 6.9, failed="same label 61.00 % is below 98.00 %"),
    *(
        trial(3 + row, "int8", BLOCKS[:count], points, 0.44 + count / 200, 7.0)
        for row, (count, points) in enumerate([(1, 12.2), (2, 4.1), (4, 0.9), (7, 0.35), (5, 0.6), (6, 0.44)])
    ),
]
"""What a search leaves that halves its way to the fewest blocks: many points in one place."""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = Store(tmp_path_factory.mktemp("search"))
    store.search()
    return render(collect(store.folder))


def table(html: str, name: str) -> list[list[str]]:
    """The cells of the rows of a table, without markup."""
    body = html.split(f'aria-label="{name}"')[1].split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_words_trials_and_blocks_are_there(html: str) -> None:
    assert (
        "<h2>What the search tried</h2>" in html and "The search on openvino: int8 with 2 blocks in float takes" in html
    )
    assert "calibrated on camvid:data/camvid[fit], 1 thread, at most 0.5 points of mIoU lost" in html
    rows = table(html, "Trials of out/vino-int8")
    minus = "\N{MINUS SIGN}"
    assert rows[1] == [
        "#1 fp16 run in bf16",
        "66.92",
        f"{minus}0.02 {minus}0.10 … +0.05",
        "0.520 0.504 … 0.541",
        "13.49",
        "11.8",
        "0",
        "✓ pass",
    ]
    assert [row[-1] for row in rows] == ["✓ pass", "✓ pass", "✕ fail", "✓ pass", "✓ pass", "no artifact"]
    assert (
        "#2 int8: same label 91.20\N{NO-BREAK SPACE}% is below" in html and "no kernel for <code>Resize</code>" in html
    )
    assert html.count('class="chosen"') == 1 and "<code>head.conv</code>, <code>layer5.0</code>." in html
    blocks = table(html, "Blocks of out/vino-int8")
    assert [row[0] for row in blocks] == BLOCKS
    assert blocks[0] == ["head.conv", "+3.20", "+4.07", "6.10\N{NO-BREAK SPACE}%"]
    assert html.count("<img ") == 3 and "head.conv alone: 6.10" in html
    assert "Search for out/vino-int8" in html and "trials.0" not in html


def test_a_trial_without_time_or_drop_is_in_the_table_only(html: str, tmp_path: Path) -> None:
    assert len(table(html, "Trials of out/vino-int8")) == 6
    for part in ("phone", "desk"):
        drawing = html.split(f'<div class="{part}">')[1].split("</svg>", maxsplit=1)[0]
        assert drawing.count("<circle") == 5 + 1  # a circle more is around the chosen one
        assert "4 blocks" not in drawing
    store = Store(tmp_path)
    bare = [replace(trial(0, "fp32", [], 0.0, 1.0, 23.1), time=None), Trial(1, "int8", "int8-1")]
    store.search(trials=bare, chosen=None, sensitivity=[], words="nothing was timed")
    html = render(collect(tmp_path))
    assert "<svg" not in html and "Nothing chosen:" in html and "Which block loses most" not in html


def broken(found: Search, change: str, value: Any) -> dict[str, Any]:
    document: Any = schema.dump(found)
    *way, last = [int(part) if part.isdigit() else part for part in change.split(".")]
    place = document
    for part in way:
        place = place[part]
    place[last] = value
    return dict(document)


@pytest.mark.parametrize(
    ("change", "value", "says"),
    [
        ("trials.1.time.ratio", float("nan"), "negative, zero or not a number"),
        ("trials.1.time.low", -0.5, "negative, zero or not a number"),
        ("trials.2.time.p50_ms", 0.0, "negative, zero or not a number"),
        ("trials.2.drop.high", float("inf"), "negative, zero or not a number"),
        ("trials.0.megabytes", -1.0, "negative, zero or not a number"),
        ("trials.0.miou", float("nan"), "negative, zero or not a number"),
        ("sensitivity.3.boundary", float("nan"), "negative, zero or not a number"),
        ("sensitivity.3.changed", -0.1, "negative, zero or not a number"),
        ("max_drop", float("nan"), "negative, zero or not a number"),
        ("budget_ms", 0.0, "negative, zero or not a number"),
        ("trials.3.keep", "head", "trials.3.keep"),
        ("trials.3.colour", "red", "trials.3.colour"),
        ("chosen", "four", "chosen"),
        ("chosen", 11, "trial 11 was chosen, but is not there"),
    ],
)
def test_a_damaged_search_is_a_problem_and_the_rest_is_shown(
    tmp_path: Path, change: str, value: Any, says: str
) -> None:
    store = Store(tmp_path)
    store.artifact(store.run())
    found = store.search()
    (tmp_path / "out/vino-int8-search.json").write_text(json.dumps(broken(found, change, value)))
    results = collect(tmp_path)
    assert results.searches == [] and len(results.artifacts) == 1
    (line,) = results.problems
    assert line.startswith("out/vino-int8-search.json: ") and says in line
    assert "What the search tried" not in render(results)


def test_pictures_that_cannot_be_shown_are_problems(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = store.search()
    (tmp_path / "secret.png").write_bytes((tmp_path / "out/vino-int8-pictures/sensitivity-1.png").read_bytes())
    first, second, *others = found.sensitivity
    rows = [replace(first, picture="../../secret.png"), second, *others]
    store.search(sensitivity=rows)
    (tmp_path / "out/vino-int8-pictures/sensitivity-2.png").write_bytes(b"cut")
    html = render(collect(tmp_path))
    assert html.count("<img ") == 1
    problems = html.split('<h2 id="problems">')[1]
    assert (
        "leaves its folder" in problems
        and "sensitivity-2.png cannot be read" in problems
        and "search again" in problems
    )
    assert str(tmp_path) not in problems.split("out/vino-int8-pictures/sensitivity-2.png")[1]


def test_pictures_stay_within_the_share_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseg.report.view.IMAGE_BYTES", 60_000)
    store = Store(tmp_path)
    store.search()
    html = render(collect(tmp_path))
    shown = html.count("<img ")
    assert 0 < shown < 3 and f"{3 - shown} more picture" in html


def test_one_marked_pixel_is_seen_on_a_phone(tmp_path: Path) -> None:
    drawn = np.full((1440, 1920, 3), 90, np.uint8)
    drawn[701, 803] = MARKED
    Image.fromarray(drawn).save(tmp_path / "one.png")
    picture = damaged(tmp_path / "one.png", "one")
    assert (picture.width, picture.height) == (LONG_SIDE, 360)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",", 1)[1]))).convert("RGB"))
    magenta = np.asarray((np.abs(shown.astype(int) - np.array(CHANGED)) < 60).all(-1))
    assert 20 <= magenta.sum() <= 36 and magenta[701 * 360 // 1440, 803 * LONG_SIDE // 1920]


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("max_drop", [0.0, 0.5, 100.0])
def test_names_cover_neither_each_other_nor_the_edge(width: int, max_drop: float) -> None:
    svg = str(trials(known(CROWD), 6, max_drop, width))
    boxes = []
    for x, y, anchor, kind, words in re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)" class="([^"]*)">([^<]*)', svg
    ):
        left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * LETTER * len(words)
        if "halo" in kind:
            boxes.append((left, float(y) - 9, left + LETTER * len(words), float(y) + 2))
            assert left >= -2 and left + LETTER * len(words) <= width + 2 and float(y) > 8, words
    assert len(boxes) == len(CROWD) + 1
    assert not any(overlap(box, boxes[:row]) for row, box in enumerate(boxes))
    assert svg.count('class="round good"') == 1 and f"allowed {max_drop:g} points" in svg


def test_names_are_words_where_there_is_room() -> None:
    few = [
        CROWD[0],
        CROWD[2],
        replace(CROWD[6], drop=Drop(0.4, 0.3, 0.5, 36), time=Time(9.0, 0.6, 0.58, 0.62, "faster")),
    ]
    assert "int8 with 7 blocks in float" in str(trials(known(few), 6, 0.5, DESK))
    assert ">#6<" in str(trials(known(CROWD), 6, 0.5, PHONE))


def test_a_single_trial_is_drawn() -> None:
    assert str(trials(known(CROWD[:1]), None, 0.5, PHONE)).count("<circle") == 1


def test_a_search_says_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    store = Store(tmp_path)
    found = store.search()
    rows = [replace(found.sensitivity[0], block=evil)]
    bad = [trial(0, evil, [evil], 0.1, 1.0, 1.0, failed=evil)]
    store.search(words=evil, target=evil, student=evil, images=evil, sensitivity=rows, trials=bad, chosen=0)
    html = render(collect(tmp_path))
    assert "<script" not in html and "&lt;script&gt;" in html


def test_reports_and_verdicts_bring_no_torch(tmp_path: Path) -> None:
    store = street(tmp_path / "all")
    store.search()
    out = tmp_path / "report.html"
    code = (
        "import sys; from edgeseg.cli import main; "
        f"codes = [main(['report', {str(store.folder)!r}, '-o', {str(out)!r}]), main(['verdict', {str(store.folder)!r}])]; "
        "print({'torch', 'cv2', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()" and "What the search tried" in out.read_text(encoding="utf-8")
