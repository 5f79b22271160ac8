"""A converter that dies, hangs or fills the disk is a line; the artifact of before stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool, ParityFailed
from edgeseg.export import TARGETS, OnnxRuntime, apart
from edgeseg.export.apart import Job, as_run, export_apart
from edgeseg.manifest import Source
from tests.export import crashing
from tests.export.crashing import Crashing

MODULE = crashing.__name__

TARGETS._entries.pop(Crashing.name)  # every process that collects the tests imports this, and may not run it


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """Nobody else meets the target that crashes."""
    TARGETS.add(Crashing.name, Crashing)
    yield
    TARGETS._entries.pop(Crashing.name)


def job(target: Crashing | OnnxRuntime, run: Path, out: Path, size: tuple[int, int] = (64, 96)) -> Job:
    return Job(str(run), target.options(), str(out), size, [], None, Source(None, None), [MODULE])


@pytest.fixture(scope="module")
def artifact(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("apart") / "out"
    outcome = export_apart(job(OnnxRuntime(), tiny_run, out), OnnxRuntime())
    assert outcome.error is None
    assert outcome.artifact is not None
    manifest = outcome.artifact.manifest
    assert manifest.conversion["seconds"] is not None
    # as if the converter had been all right once: one of another target would not be replaced anyway
    outcome.artifact.rewrite(replace(manifest, target={**manifest.target, "name": Crashing.name}))
    return out


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("segv", "the process that exports to crashing was ended by SIGSEGV"),
        ("exit", "ended with exit code 3: and its last words on stderr"),
        ("full", "No space left on device"),
        ("hang", "has said nothing for .* s; it hangs"),
    ],
)
def test_a_converter_that_dies_is_a_line(
    artifact: Path, tiny_run: Path, way: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "PATIENCE_S", 15.0 if way == "hang" else 300.0)
    before = Artifact.open(artifact).manifest
    target = Crashing(way=way)
    outcome = export_apart(job(target, tiny_run, artifact), target)
    assert outcome.artifact is None
    with pytest.raises(EdgesegError, match=words):
        raise outcome.error or AssertionError
    assert Artifact.open(artifact).manifest == before


def test_one_that_fails_does_not_stop_the_others(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", "crashing,onnxruntime", "--out", str(tmp_path), "--json"]
    assert main(["--trust", MODULE, "export", str(tiny_run), *words]) == 1
    captured = capsys.readouterr()
    first, second = json.loads(captured.out)
    assert "SIGSEGV" in first["error"]
    assert second["target"]["name"] == "onnxruntime"
    assert second["ledger"]["hops"][2]["passed"]
    assert "1 of 2 exports failed" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["onnxruntime"]


def test_a_student_by_name_is_exported_with_fresh_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--to", "onnx", "--out", str(tmp_path), "--classes", "3"]
    assert main(["export", "lraspp_mobilenet_v3_small", *words]) == 1
    assert "say at which --size" in capsys.readouterr().err
    assert main(["export", "lraspp_mobilenet_v3_small", *words, "--size", "64x96"]) == 0
    manifest = Artifact.open(tmp_path / "onnxruntime").manifest
    assert manifest.source.run == str(tmp_path / "lraspp_mobilenet_v3_small")
    assert len(manifest.student.class_names) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onnx", "--set", "coreml.deployment=iOS18"], "--set is for coreml, which --to does not name"),
        (["--to", "onnx", "--set", "deployment"], "--set takes TARGET.OPTION=VALUE, got 'deployment'"),
        (["--to", "onnx", "--set", "onnx.opset=3"], "opset 3 is not within 18..23"),
        (["--to", "onnx", "--set", "onnx.colour=red"], "onnxruntime: colour is unknown here"),
        (["--to", "onx"], "no target named 'onx'; did you mean onnx"),
        (["--to", "onnx", "--precision", "int4"], "int4"),
    ],
)
def test_wrong_options_are_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["export", str(tiny_run), "--out", str(tmp_path / "out"), *words]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_everything_lacks_is_no_failure(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeseg.cli.export import report
    from edgeseg.export.apart import Outcome

    gone = Outcome(OnnxRuntime(), (64, 96), None, MissingTool("pip install 'edgeseg[onnx]'"))
    wrong = Outcome(OnnxRuntime(), (64, 96), None, ParityFailed("other masks"))
    report([gone, gone], True, False)
    assert "onnxruntime: pip install 'edgeseg[onnx]'" in capsys.readouterr().out
    with pytest.raises(MissingTool):
        report([gone, gone], False, False)
    with pytest.raises(ParityFailed, match="1 of 2"):
        report([gone, wrong], True, False)


def test_fresh_weights_are_the_same_every_time() -> None:
    from edgeseg.files import sha256

    digests = set()
    for _ in range(2):
        with as_run("lraspp_mobilenet_v3_small", 3, (64, 96)) as run:
            digests.add(sha256(run / "model.safetensors"))
    assert len(digests) == 1


def test_a_student_by_name_is_kept_and_verified_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, out = "lraspp_mobilenet_v3_small", tmp_path / "out"
    words = ["export", name, "--to", "onnx", "--size", "64x96", "--classes", "3", "--out", str(out)]
    assert main(words) == 0
    made = Artifact.open(out / "onnxruntime").manifest
    assert made.source.run == str(out / name)
    kept = (out / name / "model.json").stat().st_mtime_ns
    assert main(["verify", str(out / "onnxruntime"), "--count", "1"]) == 0
    assert main(words) == 0
    assert (out / name / "model.json").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert main([*words[:-3], "4", "--out", str(out)]) == 1
    assert "holds something else; name another --out" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["student", "target", "newer", "torn"])
def test_an_artifact_of_something_else_is_not_replaced(
    what: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "onnxruntime"
    assert main(["export", str(tiny_run), "--to", "onnx", "--out", str(out.parent)]) == 0
    document = json.loads((out / "manifest.json").read_text())
    said = {
        "student": "is a pp_mobileseg_tiny with",
        "target": "for openvino, which a",
        "newer": "is of schema 99",
        "torn": "is not JSON",
    }
    if what == "student":
        document["student"]["name"] = "pp_mobileseg_tiny"
    elif what == "target":
        document["target"]["name"] = "openvino"
    elif what == "newer":
        document["schema"] = 99
    text = json.dumps(document)
    (out / "manifest.json").write_text(text[:40] if what == "torn" else text)
    before = (out / "model.onnx").stat().st_mtime_ns, (out / "manifest.json").read_text()
    capsys.readouterr()
    assert main(["export", str(tiny_run), "--to", "onnx", "--out", str(out.parent)]) == 1
    assert said[what] in capsys.readouterr().err
    assert before == ((out / "model.onnx").stat().st_mtime_ns, (out / "manifest.json").read_text())


def test_an_artifact_whose_files_were_damaged_is_made_anew(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "onnxruntime"
    words = ["export", str(tiny_run), "--to", "onnx", "--out", str(out.parent)]
    assert main(words) == 0
    (out / "model.onnx").write_bytes(b"cut off")
    assert main(words) == 0
    assert Artifact.open(out).manifest.ledger is not None
