"""What a page says of sustained runs, cameras, cold starts, energy, and measurements that came to nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg import schema
from edgeseg.cli import main
from edgeseg.report import render
from edgeseg.report.pace import dropped, throughput
from edgeseg.results import collect
from edgeseg.runtimes import record as records
from tests.devices import cold, failure, measured, slow_camera, throttled

NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    for name, record in {"held": throttled(folder), "seen": slow_camera(folder), "cold": cold(folder)}.items():
        records.write(folder / f"{name}.json", record)
    record = measured(folder)
    records.write(folder / "quick.json", record)
    schema.write(folder / "oom.json", failure(record, "out_of_memory", "the kernel <killed> it", record.samples))
    schema.write(folder / "hang.json", failure(record, "hang", "no word for 60 s", None))
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return render(collect(folder))


def test_every_answer_is_on_the_page(html: str, tmp_path: Path) -> None:
    titles = ["Does it go on like that?", "At a camera's pace", "From a cold start", "Came to nothing"]
    places = [html.index(f"<h2>{title.replace(chr(39), '&#39;')}") for title in titles]
    assert places == sorted(places)
    assert "Throttled: 32.2 frames a second since 59 s, 71% of the first stretch" in html.replace(NBSP, " ")
    assert "The pace changes at 59 s" in html and "<b>Not to be quoted:</b> throttled: to 71%" in html.replace(NBSP, "")
    seen = slow_camera(tmp_path).camera
    assert seen and 0.15 < seen.dropped / seen.frames < 0.25 and seen.frames - seen.dropped == seen.ages.count
    assert f"{seen.dropped:,} of {seen.frames:,} frames dropped" in html.replace(NBSP, " ")
    assert "20 fresh processes" in html and "ready, Python included" in html
    assert html.count("41.5 mJ a frame above idle, measured by ina EXT5V") == 2
    assert f"<dt>Energy per frame</dt><dd>41.5{NBSP}mJ" in html
    assert "<b>Out of memory:</b>" in html and "the kernel &lt;killed&gt; it (" in html
    assert f"({measured(tmp_path).samples.count} samples had arrived)" in html
    assert "<b>Hang:</b>" in html and 'id="problems"' not in html


def test_the_change_point_is_drawn_over_time(html: str) -> None:
    part = html.split("Does it go on like that?")[1].split("<h2>", maxsplit=1)[0]
    for drawing in re.findall(r"<svg.*?</svg>", part):
        width = float(re.findall(r'viewBox="0 0 (\d+)', drawing)[0])
        (change,) = re.findall(r'd="M([\d.]+) [\d.]+L\1 [\d.]+" class="gate"', drawing)
        assert (float(change) - 44) / (width - 56) == pytest.approx(59.4 / 121.5, abs=0.01)
        assert drawing.count('class="segment"') == 2 and "fps</text>" in drawing


def test_dropped_frames_are_those_that_nobody_took() -> None:
    arrivals = np.array([0, 1, 4, 5]) / 30
    assert dropped(arrivals, 30.0) == pytest.approx([2 / 30, 3 / 30])
    assert len(dropped(np.arange(10) / 24, 24.0)) == 0


def test_throughput_is_frames_over_wall_time() -> None:
    starts = np.arange(1000) * 20_000_000
    seconds, rates = throughput(starts, np.full(1000, 10_000_000))
    assert len(rates) == 200 and rates[:-1] == pytest.approx(50.0)
    assert rates[-1] == pytest.approx(5 / 0.09) and seconds[0] == pytest.approx(0.05)


def test_the_newest_of_a_kind_is_shown_and_the_others_are_counted(folder: Path, tmp_path: Path) -> None:
    record = slow_camera(tmp_path)
    for day in (1, 3, 2):
        records.write(
            tmp_path / f"{day}.json", replace(record, created=f"2026-11-0{day}T00:00:00", energy_mj=day + 0.5)
        )
    html = render(collect(tmp_path))
    assert "3.5 mJ a frame above idle" in html and "2.5 mJ a frame" not in html
    assert "The newest of 3 like it in the folder" in html


def test_simulated_answers_are_in_no_section(folder: Path, tmp_path: Path) -> None:
    records.write(tmp_path / "held.json", replace(throttled(tmp_path), provenance="simulated"))
    assert "Does it go on like that?" not in render(collect(tmp_path))


@pytest.mark.parametrize("part", ["sustained", "camera", "cold_start"])
def test_a_damaged_answer_is_a_problem(folder: Path, tmp_path: Path, part: str) -> None:
    make = {"sustained": throttled, "camera": slow_camera, "cold_start": cold}[part]
    record = make(tmp_path)
    field = {"sustained": "kept", "camera": "age_p50_ms", "cold_start": "ready_ms"}[part]
    bad = replace(record, **{part: replace(getattr(record, part), **{field: float("nan")})})
    path = tmp_path / "bad.json"
    records.write(path, record)
    text = path.read_text().replace(f'"{field}": {getattr(getattr(record, part), field)!r}', f'"{field}": NaN')
    path.write_text(text)
    assert bad != record and "NaN" in text
    (problem,) = [line for line in collect(tmp_path).problems if "bad.json" in line]
    assert "zero, negative or not a number" in problem


def test_a_verdict_names_what_came_to_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verdict", str(folder)]) == 3
    assert "could not be measured: no word for 60 s" in capfd.readouterr().err


def test_a_folder_of_failures_alone_is_a_page(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "hang.json").write_bytes((folder / "hang.json").read_bytes())
    assert "no word for 60" in render(collect(tmp_path))
