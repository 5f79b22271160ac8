"""Every verb, through the same `main` that the shell calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.cli import app as shown
from edgeseg.cli import main
from edgeseg.cli.app import app
from edgeseg.data import Data
from edgeseg.pictures import save_picture
from edgeseg.runs import save
from edgeseg.runtimes.null import Null, null_artifact
from tests.conftest import TINY

Say = Callable[..., tuple[int, str, str]]
VERBS = [command.name or str(getattr(command.callback, "__name__", "")) for command in app.registered_commands]


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Run a command line; the exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def document(say: Say) -> Callable[..., Any]:
    """Run a command line with --json that must end well; its document."""

    def run(*words: object, codes: tuple[int, ...] = (0,)) -> Any:
        code, out, err = say(*words, "--json")
        assert code in codes, err
        return json.loads(out)

    return run


@pytest.fixture
def folder(tmp_path: Path, tiny_run: Path, tiny_artifacts: dict[str, Artifact]) -> Path:
    """A copy of the tiny run and its artifacts that a test may change."""
    shutil.copytree(tiny_run, tmp_path / "run")
    for name, artifact in [(name, tiny_artifacts[name]) for name in ("onnxruntime", "openvino")]:
        shutil.copytree(artifact.folder, tmp_path / name)
    return tmp_path


def test_the_contract_s_verbs_are_there() -> None:
    wanted = "doctor models info train distill embed tune eval export quantize verify build bench profile sweep compare predict report verdict replay card push quickstart"
    assert sorted(VERBS) == sorted(wanted.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(say: Say, verb: str) -> None:
    code, out, _ = say(verb, "--help")
    assert code == 0
    assert f"edgeseg {verb}" in out.split("Example:", 1)[1] if verb != "models" else "edgeseg models" in out


def test_models_and_info(document: Callable[..., Any], folder: Path) -> None:
    listed = {entry["name"]: entry for entry in document("models")}
    assert list(listed) == es.models()
    assert listed["ddrnet23_slim"]["params"] == 5_695_987
    promptable = [entry["name"] for entry in document("models", "--task", "promptable")]
    assert promptable == [name for name in es.models() if "_sam" in name]
    assert document("info", "ddrnet23_slim", "--size", "1024x2048")["macs"] == pytest.approx(36.28e9, rel=0.005)
    assert document("info", "lraspp_mobilenet_v3_large", "--size", "512x512")["macs"] == pytest.approx(
        1.973e9, rel=0.005
    )
    assert document("info", folder / "run")["kind"] == "run"
    assert document("info", folder / "openvino")["target"]["name"] == "openvino"


def test_doctor_finds_what_is_installed(document: Callable[..., Any]) -> None:
    found = {entry["name"]: entry for entry in document("doctor", "--no-self-test")}
    assert {found[name]["state"] for name in ("torch", "onnxruntime", "openvino", "label_map", "local")} == {"ok"}


def test_a_runtime_that_crashes_when_it_is_imported_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeseg.doctor import _runtime

    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = _runtime("openvino", self_test=False)
    assert found.state == "broken"
    assert "the process that imports openvino was ended by SIGSEGV" in found.detail


def test_square_brackets_are_shown() -> None:
    """An install line like `edgeseg[litert]`, or a folder `a[b]`, is no markup; what is coloured is a `Text`."""
    for name in ("show", "talk"):
        console = getattr(shown, name)
        with console.capture() as capture:
            shown.say("of the line", "[head]:", to=console)
            console.print(shown.table("[title]", ["[column]"], [["[cell]"], [Text("[word]", "red")]]))
        for part in ("[head]: of the line", "[title]", "[column]", "[cell]", "[word]"):
            assert part in capture.get(), (name, part)


@pytest.mark.slow
def test_doctor_tries_what_it_finds(document: Callable[..., Any]) -> None:
    found = {entry["name"]: entry for entry in document("doctor")}
    assert "self-test: 100.000 %" in found["onnxruntime"]["detail"]
    assert "self-test" in found["openvino"]["detail"]
    for name in (
        "coreml",
        "tensorrt",
    ):  # nobody has a Mac and a GPU here: what somebody else computes is not said to be theirs
        if "stands in for it" in found[name]["detail"]:
            assert found[name]["state"] == "stand-in"
        else:
            assert found[name]["state"] in ("ok", "missing")


@pytest.mark.parametrize("name", ["run", "onnxruntime", "openvino"])
def test_eval_scores_a_run_and_an_artifact_alike(document: Callable[..., Any], folder: Path, name: str) -> None:
    result = document("eval", folder / name, "--data", TINY)
    assert result["split"] == "test"
    assert result["score"]["images"] == 8
    if name != "run":
        of_run = document("eval", folder / "run", "--data", TINY)
        assert result["score"]["miou"] == pytest.approx(of_run["score"]["miou"], abs=0.05)
        assert Artifact.open(folder / name).manifest.accuracy is not None


def test_export_puts_each_target_in_its_folder(say: Say, document: Callable[..., Any], folder: Path) -> None:
    made = document("export", folder / "run", "--to", "onnx, openvino", "--out", folder / "out")
    half = ("export", folder / "run", "--to", "onnxruntime", "--out", folder / "out", "--precision", "fp16")
    code, out, _ = say(*half, "--json")
    made += json.loads(out)
    assert code == (0 if all(hop["passed"] for hop in made[-1]["ledger"]["hops"]) else 2)  # the code is the ledger's
    assert [entry["target"]["name"] for entry in made] == ["onnxruntime", "openvino", "onnxruntime"]
    assert {path.name for path in (folder / "out").iterdir()} == {"onnxruntime", "openvino", "onnxruntime-fp16"}
    assert made[0]["input"]["baked"] == []


def test_exporting_again_keeps_what_was_measured(document: Callable[..., Any], folder: Path) -> None:
    document("eval", folder / "openvino", "--data", TINY)
    document("bench", folder / "openvino", "--protocol", "smoke", codes=(0, 6))
    kept = sorted(path.name for path in (folder / "openvino").rglob("*.json"))
    document("export", folder / "run", "--to", "openvino", "--out", folder, "--bake", "pre,labels")
    assert sorted(path.name for path in (folder / "openvino").rglob("*.json")) == kept


def test_verify_against_other_weights_ends_with_2(say: Say, folder: Path, tiny_data: Data) -> None:
    assert say("verify", folder / "onnxruntime", "--against", folder / "run", "--count", "2")[0] == 0
    other = es.create("ddrnet23_slim", classes=len(tiny_data.class_names))
    other.describe(tiny_data.class_names, tiny_data.palette)
    save(other, folder / "other", size=(64, 96))
    code, _, err = say("verify", folder / "onnxruntime", "--against", folder / "other", "--data", TINY)
    assert code == 2
    assert "does not draw the masks" in err
    assert say("verdict", folder)[0] == 2


def test_bench_stores_its_record_and_compare_reads_it(document: Callable[..., Any], folder: Path) -> None:
    for name in ("onnxruntime", "openvino"):
        result = document("bench", folder / name, "--protocol", "smoke", "--e2e", codes=(0, 6))
        assert [stage["name"] for stage in result["stages"]] == ["decode", "resize", "infer", "labels"]
        assert result["valid"] == (not result["reasons"])
    records = [next((folder / name / "records").iterdir()) for name in ("onnxruntime", "openvino")]
    compared = document("compare", *records, codes=(0, 6))
    assert compared["verdict"] in {"faster", "slower", "equivalent", "inconclusive"}
    again = document("replay", records[0])
    assert again["record"]["subject"] == again["record"]["subject"] | {"target": "onnxruntime"}


def test_bench_measures_in_turns_in_fresh_processes(say: Say, document: Callable[..., Any], tmp_path: Path) -> None:
    a, b = (null_artifact(tmp_path / name, Null()) for name in "ab")
    made = document("bench", a, "--beside", b, "--processes", "2", "--protocol", "smoke", codes=(0, 6))
    assert [Path(one["subject"]["path"]).name for one in made] == ["a", "b", "b", "a"]
    assert [len(list((folder / "records").iterdir())) for folder in (a, b)] == [2, 2]
    code, _, err = say("bench", a, "--processes", "2", "-o", tmp_path / "one.json")
    assert code == 1 and "leave -o out" in err
    assert say("bench", a, "--beside", tmp_path / "nothing")[0] == 1


def test_profile_says_where_the_time_goes(say: Say, document: Callable[..., Any], folder: Path) -> None:
    found = document("profile", folder / "openvino", "--runs", "2")
    assert found["kind"] == "profile" and found["kinds"][0]["ms"] > 0
    code, out, _ = say("profile", folder / "onnxruntime", "--runs", "2", "--top", "3")
    assert code == 0 and "the 3 dearest of" in out
    code, _, err = say("profile", folder / "run")
    assert code == 1 and "export it" in err


def test_bench_with_the_runtime_s_own_tool(
    say: Say, document: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseg.runtimes.tools.benchmark_app.SECONDS", 1)
    found = document("bench", folder / "openvino", "--tool", "benchmark_app")["result"]
    assert (found["source"], found["precision"], found["unread"]) == ("tool", "fp32", [])
    assert found["figures"]["p50_ms"] > 0
    assert not (folder / "openvino" / "records").exists()  # it is no record
    for words, line in (
        (("onnxruntime", "benchmark_app"), "onnxruntime_perf_test"),
        (("openvino", "benchmark_ap"), "did you mean benchmark_app"),
        (("run", "benchmark_app"), "export it"),
    ):
        code, _, err = say("bench", folder / words[0], "--tool", words[1])
        assert code == 1 and line in err


def test_a_simulated_record_never_ships(say: Say, document: Callable[..., Any], tmp_path: Path) -> None:
    null_artifact(tmp_path / "null", Null())
    result = document("bench", tmp_path / "null", "--protocol", "smoke", codes=(0, 6))
    assert result["provenance"] == "simulated"
    assert say("verdict", tmp_path)[0] in {2, 3}


def test_predict_writes_masks_overlays_and_a_video(document: Callable[..., Any], folder: Path, tiny_data: Data) -> None:
    import cv2

    image, _ = tiny_data.split("test")[0]
    save_picture(folder / "street.jpg", image)
    writer = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for _ in range(5):
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    written = document(
        "predict", folder / "openvino", folder / "street.jpg", folder / "drive.mp4", "-o", folder / "shown"
    )
    assert [Path(path).name for path in written] == ["street-labels.png", "street-overlay.jpg", "drive-overlay.mp4"]
    labels = cv2.imread(written[0], cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert labels.shape == (64, 96)
    assert labels.max() < len(tiny_data.class_names)
    video = cv2.VideoCapture(written[2])
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 5


def test_verdict_and_report_from_stored_evidence(say: Say, document: Callable[..., Any], folder: Path) -> None:
    code, out, _ = say("verdict", folder)
    assert code == 3  # nothing was evaluated yet
    assert "DON'T SHIP" in out
    for name in ("run", "onnxruntime", "openvino"):
        document("eval", folder / name, "--data", TINY)
    verdicts = document("verdict", folder, codes=(6,))  # nothing was measured yet
    assert {entry["target"] for entry in verdicts} == {"onnxruntime", "openvino"}
    page = Path(document("report", folder, "-o", folder / "page.html")["report"]).read_text(encoding="utf-8")
    assert page.count("DON&#39;T SHIP") + page.count("DON’T SHIP") + page.count("DON'T SHIP") >= 2


def test_replay_exports_the_same_bytes(document: Callable[..., Any], folder: Path) -> None:
    drift = document("replay", folder / "onnxruntime" / "manifest.json", "--run", folder / "run")
    assert drift == {"files": [], "tools": [], "same_label": 1.0, "passed": True}


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.wide)])
def test_quickstart_goes_the_whole_way(
    document: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    monkeypatch.setattr("edgeseg.quickstart.DATA", TINY)
    words = ["quickstart", "--out", tmp_path, "--epochs", "1", "--protocol", "smoke"]
    ended = document(*words)
    assert len(ended["verdicts"]) == 3
    assert Path(ended["report"]).stat().st_size > 10_000
    if again:  # the finished run is kept
        assert len(document(*words)["verdicts"]) == 3
