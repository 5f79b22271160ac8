"""The runtimes' own benchmarks: how they are started, and what their outputs say.

`tests/golden/tools` has outputs of real runs of benchmark_app and litert-benchmark, shortened, and LiteRT's own table of
operators; what TensorRT's own printing code makes of a made-up trace; and, for the others, texts written after the format strings in their sources.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import RUNTIMES
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.record import Operator
from edgeseg.runtimes.tools import TOOLS, Figures, Output, ToolResult, Work
from edgeseg.runtimes.tools.benchmark_app import BenchmarkApp
from edgeseg.runtimes.tools.benchncnn import BenchNcnn
from edgeseg.runtimes.tools.executor_runner import ExecutorRunner
from edgeseg.runtimes.tools.here import _version, measure_with, run
from edgeseg.runtimes.tools.measured import _too_few
from edgeseg.runtimes.tools.run_order import operators
from edgeseg.runtimes.tools.trtexec import TrtExec

GOLDEN = Path(__file__).parent.parent / "golden" / "tools"
ALL = pytest.mark.parametrize("name", TOOLS)
SAID: dict[str, tuple[int, float, float | None, str]] = {
    "benchmark_app": (2061, 1.34, 1.34, "tool"),
    "benchncnn": (128, 41.87, None, "tool"),
    "executor_runner": (3, 11.170936, 11.190377, "samples"),
    "litert-benchmark": (100, 0.95, 0.94, "tool"),
    "benchmark_litert_model": (100, 0.95, 0.94, "tool"),
    "onnxruntime_perf_test": (200, 8.6602, 8.55171, "tool"),
    "benchmark_model": (118, 8.4617, 8.441, "tool"),
    "trtexec": (20, 2.558846, 2.55944, "samples"),
}
"""Runs, mean, median, and whose figures they are."""


def golden(name: str) -> Output:
    """What the tool left behind."""
    folder = GOLDEN / name
    files = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return Output((folder / "output.txt").read_text(encoding="utf-8"), files)


@ALL
def test_every_line_of_an_output_is_read(name: str) -> None:
    found = TOOLS[name].read(golden(name))
    figures = found.figures
    assert found.unread == []
    count, mean, median, source = SAID[name]
    assert (figures.count, found.source) == (count, source)
    assert figures.mean_ms == pytest.approx(mean)
    assert figures.p50_ms == pytest.approx(median) if median else figures.p50_ms is None
    assert found.tool == name and TOOLS[name].runtime in RUNTIMES
    assert (found.samples_ns is None) == (found.source == "tool")


@ALL
def test_a_line_that_cannot_be_read_is_told(name: str) -> None:
    output = golden(name)
    lines = [*output.text.rstrip().splitlines(), "~ something new ~"]
    found = TOOLS[name].read(replace(output, text="\n".join(lines)))
    assert found.unread == [f"line {len(lines)}: ~ something new ~"]


@ALL
@pytest.mark.parametrize("number", ["nan", "inf", "-", ""])
def test_what_is_no_number_is_no_figure(name: str, number: str) -> None:
    output = golden(name)
    with pytest.raises(EdgesegError, match=r"no line for|cannot be read|not one"):
        TOOLS[name].read(replace(output, text=re.sub(r"\d+\.\d+", number, output.text)))


@ALL
def test_an_output_that_was_cut_off_is_refused(name: str) -> None:
    output = golden(name)
    with pytest.raises(EdgesegError, match=f"^{name}.* has no line for"):
        TOOLS[name].read(replace(output, text=output.text[:60]))


@pytest.mark.parametrize(
    ("name", "old", "new"), [("benchmark_app", "2026.4.1", "2031.1.0"), ("trtexec", "v101600", "v120000")]
)
def test_a_version_that_is_not_known_must_say_nothing_new(name: str, old: str, new: str) -> None:
    output = golden(name)
    later = replace(output, text=output.text.replace(old, new))
    assert TOOLS[name].read(later).figures == TOOLS[name].read(output).figures
    with pytest.raises(EdgesegError, match=r"line \d+: ~ something new ~.*edgeseg reads versions"):
        TOOLS[name].read(replace(later, text=later.text + "~ something new ~"))


def read(name: str) -> ToolResult:
    return TOOLS[name].read(golden(name))


def test_benchmark_app_says_what_it_really_ran() -> None:
    found = read("benchmark_app")
    assert (found.version, found.precision, found.threads) == ("2026.4.1", "bf16", 2)  # of an FP32 file, unasked
    assert found.first_ms == 4.2 and found.load_ms == pytest.approx(71.19)
    assert found.operators is not None and found.placed == {"CPU": len(found.operators)}
    assert {each.precision for each in found.operators} == {"bf16", "int8"}  # a cast of the bytes it was fed


def test_trtexec_s_samples_are_those_it_averages() -> None:
    found = read("trtexec")
    averages = re.findall(r"Host latency: ([\d.]+) ms", golden("trtexec").text)
    assert found.version == "10.16.0" and found.covers == "host to host"
    for index, average in enumerate(averages[:2]):
        ten = (found.samples_ns or [])[10 * index : 10 * index + 10]
        assert sum(ten) / 1e7 == pytest.approx(float(average), rel=1e-5)
    assert any("unstable" in line for line in found.warnings)
    assert found.operators is not None and [each.calls for each in found.operators] == [5, 5]


def test_trtexec_without_its_files_says_its_own_percentiles() -> None:
    found = TOOLS["trtexec"].read(replace(golden("trtexec"), files={}))
    assert found.source == "tool" and found.samples_ns is None
    assert found.figures.percentiles_ms == {"90": 2.71802, "95": 2.78909, "99": 2.82593}
    assert found.figures.p50_ms == 2.56218


def test_trtexec_without_transfers_is_compute_alone() -> None:
    output = golden("trtexec")
    text = re.sub(r"(H2D Latency: ).*", r"\1min = 0 ms, max = 0 ms, mean = 0 ms, median = 0 ms", output.text)
    found = TOOLS["trtexec"].read(replace(output, text=text))
    first = json.loads(output.files["times"])[0]
    assert found.covers == "GPU compute alone"
    assert (found.samples_ns or [])[0] == round(first["computeMs"] * 1e6)


def test_trtexec_that_failed_says_why() -> None:
    text = (
        "&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b1] # trtexec --loadEngine=x\n"
        "[11/20/2026-12:00:00] [E] [TRT] the engine was built by another version\n"
        "&&&& FAILED TensorRT.trtexec [TensorRT v110100] [b1] # trtexec --loadEngine=x\n"
    )
    with pytest.raises(EdgesegError, match="trtexec failed: the engine was built by another version"):
        TOOLS["trtexec"].read(Output(text))


@pytest.mark.parametrize("text", ["[]", "{}", "[", '[{"latency": 1}]', '[{"latencyMs": "nan"}]', '[{"latencyMs": -1}]'])
def test_times_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(EdgesegError, match=r"cannot be read|no rows|no positive"):
        TOOLS["trtexec"].read(replace(golden("trtexec"), files={"times": text}))


def test_benchmark_model_s_table_is_read_by_its_headings() -> None:
    output = golden("benchmark_model")
    found = TOOLS["benchmark_model"].read(output)
    assert found.operators is not None and len(found.operators) == 9
    first = found.operators[0]
    assert (first.kind, first.name) == ("Convolution (NHWC, F32) IGEMM", "[Delegate]:0")
    assert (first.where, first.precision, first.calls) == ("delegate", "fp32", 5)
    assert found.placed == {"TfLiteXNNPackDelegate": 61, "interpreter": 2}
    assert found.figures.percentiles_ms == {"5": 8.34, "95": 8.67}


def test_benchmark_model_adds_up_subgraphs_and_calls_no_growth_a_peak() -> None:
    output = golden("benchmark_model")
    (line,) = (line for line in output.text.splitlines() if "Replacing" in line)
    told = output.text.replace(
        line, f"{line}\n{line.replace('61 out of 63', '20 out of 30').replace('subgraph 0', 'subgraph 1')}"
    )
    assert told.count("Replacing") == 2 and "subgraph 1" in told
    found = TOOLS["benchmark_model"].read(replace(output, text=told))
    assert found.placed == {"TfLiteXNNPackDelegate": 81, "interpreter": 12}
    memory = "Memory footprint delta from the start of the tool (MB): init=1.5 overall=9.5"
    kept = [line for line in output.text.splitlines() if "footprint" not in line]
    for words, peak in (
        (memory, None),
        (memory.replace("Memory footprint delta from the start of the tool", "Peak memory footprint"), 9.5),
    ):
        made = TOOLS["benchmark_model"].read(replace(output, text="\n".join([*kept, words])))
        assert made.peak_memory_bytes == (None if peak is None else round(peak * 2**20))


@pytest.mark.parametrize("start", [True, False])
def test_tables_with_tabs_and_without_a_start_say_the_same(start: bool) -> None:
    at = ["0.000"] if start else []
    rows = [
        ["[node type]", *(["[start]"] if start else []), "[first]", "[avg ms]", "[%]", "[times called]", "[Name]"],
        ["CONV_2D", *at, "3.112", "3.094", "38.2%", "1", "[backbone/conv1]:0"],
        ["Delegate/Fully Connected (NC, QC8) GEMM", *at, "4.871", "4.903", "60.5%", "2", "x y"],
    ]
    text = "==== Run Order ====\n" + "\n".join("\t" + "\t   ".join(row) for row in rows) + "\n\n==== Summary ====\n"
    assert operators(text) == [
        Operator("[backbone/conv1]:0", "CONV_2D", "interpreter", None, 3.094, 1, None),
        Operator("x y", "Fully Connected (NC, QC8) GEMM", "delegate", "int8", 4.903, 2, None),
    ]


def test_benchmark_model_of_an_old_build_has_no_median() -> None:
    output = golden("benchmark_model")
    old = re.sub(r"INFO: | p5=.*", "", output.text)
    found = TOOLS["benchmark_model"].read(replace(output, text=old))
    assert found.figures.p50_ms is None and found.figures.mean_ms == pytest.approx(8.4617)
    assert found.unread == []


def test_perf_test_of_an_old_build_words_it_otherwise() -> None:
    output = golden("onnxruntime_perf_test")
    old = re.sub(r"Latency: (\S+) s", r"Latency is \1 sec", output.text).replace(" cost total:", " cost:")
    assert TOOLS["onnxruntime_perf_test"].read(replace(output, text=old)) == read("onnxruntime_perf_test")


def test_an_old_executor_runner_has_no_samples() -> None:
    output = golden("executor_runner")
    found = TOOLS["executor_runner"].read(replace(output, text=re.sub(".*Iteration.*\n", "", output.text)))
    assert found.samples_ns is None and found.source == "tool"
    assert found.figures.mean_ms == pytest.approx(54.457096 / 4)
    with pytest.raises(EdgesegError, match="1 of 4 iterations"):
        TOOLS["executor_runner"].read(replace(output, text=re.sub(".*Iteration 2.*\n", "", output.text)))


def test_a_result_file_of_another_run_is_refused() -> None:
    output = golden("litert-benchmark")
    other = output.files["result"].replace('"median_ms": 0.94', '"median_ms": 0.5')
    with pytest.raises(EdgesegError, match=r"says 0\.5 ms, the table 0\.94"):
        TOOLS["litert-benchmark"].read(replace(output, files={"result": other}))


@ALL
def test_a_command_is_words_and_knows_what_it_writes(name: str) -> None:
    version = {"trtexec": "10.3.0"}.get(name)
    command = TOOLS[name].command(Work("a model.onnx", 2, "fp32", (64, 96)))
    words = command.argv(version)
    assert words[0] == name and all(isinstance(word, str) and word for word in words)
    assert any("model" in word for word in words)
    assert set(command.writes) <= {"times", "profile", "layers", "result"}


@pytest.mark.parametrize("choice", ["transfers", "graph", "spin"])
def test_either_trtexec_is_told_the_same(choice: str) -> None:
    made = {on: TrtExec("model.engine", **{choice: on}) for on in (True, False)}  # type: ignore[arg-type]
    words = {(major, on): set(made[on].argv(f"{major}.0.0")) for major in ("10", "11") for on in made}
    for major in ("10", "11"):
        assert len(words[major, True] ^ words[major, False]) == 1  # one word makes the difference, in either
    default = {
        "10": {"transfers": True, "graph": False, "spin": False},
        "11": {"transfers": False, "graph": True, "spin": True},
    }
    for major, defaults in default.items():
        extra = words[major, not defaults[choice]] - words[major, defaults[choice]]
        assert len(extra) == 1  # and it is said where it is not the default of that version


def test_a_trtexec_of_another_age_is_refused() -> None:
    for version in (None, "8.6.1", "12.0.0"):
        with pytest.raises(EdgesegError, match="its words are not known"):
            TrtExec("model.engine").argv(version)


def test_benchmark_app_is_told_its_precision() -> None:
    assert "f32" in BenchmarkApp("m.xml", precision="fp32").argv(None)
    with pytest.raises(EdgesegError, match="did you mean fp16"):
        BenchmarkApp("m.xml", precision="fp61").argv(None)


def test_benchmark_app_runs_here(tmp_path: Path, tiny_artifacts: dict[str, Artifact]) -> None:
    file = str(tiny_artifacts["openvino"].model_file.resolve())
    found = run(TOOLS["benchmark_app"], BenchmarkApp(file, seconds=1, layers=True), tmp_path)
    assert (found.precision, found.threads, found.unread) == ("fp32", 1, [])
    assert found.version == RUNTIMES["openvino"].version()
    assert found.figures.p50_ms and found.figures.count and found.figures.count > 10
    assert found.operators is not None and len(found.operators) > 20
    assert {each.precision for each in found.operators if each.kind == "Convolution"} == {"fp32"}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for executor_runner on the path; what it does is to be written into it."""
    script = tmp_path / "bin" / "executor_runner"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    script.touch(0o755)
    return script


def test_a_tool_on_the_path_is_run_and_read(runner: Path, tmp_path: Path) -> None:
    runner.write_text(f"#!/bin/sh\ncat '{GOLDEN / 'executor_runner' / 'output.txt'}' >&2\n")
    found = run(TOOLS["executor_runner"], ExecutorRunner("model.pte"), tmp_path, version="1.5.1")
    assert replace(found, version=None) == read("executor_runner")
    assert found.version == "1.5.1"


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("exit 0", "has no line for"),
        ("echo dead; exit 3", "exit code 3: dead"),
        ("exec sleep 30", "did not end within"),
    ],
)
def test_a_tool_that_goes_wrong_is_one_line(runner: Path, tmp_path: Path, script: str, line: str) -> None:
    runner.write_text(f"#!/bin/sh\n{script}\n")
    with pytest.raises(EdgesegError, match=line):
        run(TOOLS["executor_runner"], ExecutorRunner("model.pte"), tmp_path, timeout_s=1)


def test_a_tool_that_is_no_program_is_one_line(runner: Path, tmp_path: Path) -> None:
    runner.write_bytes(b"\x7fELF of another processor")
    with pytest.raises(EdgesegError, match="executor_runner cannot be started: "):
        run(TOOLS["executor_runner"], ExecutorRunner("model.pte"), tmp_path)


def test_a_file_that_a_tool_did_not_write_is_told(runner: Path, tmp_path: Path) -> None:
    (runner.parent / "trtexec").symlink_to(runner)
    runner.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(EdgesegError, match=r"trtexec did not write trtexec-times\.json"):
        run(TOOLS["trtexec"], TrtExec("model.engine"), tmp_path, version="10.3.0")


@ALL
def test_a_tool_is_for_artifacts_of_its_own_runtime(name: str, tmp_path: Path) -> None:
    artifact = Artifact.open(null_artifact(tmp_path / "null", Null()))
    with pytest.raises(EdgesegError, match=f"{name} runs files of {TOOLS[name].runtime}, .* is for null: none"):
        measure_with(name, artifact, threads=1)


def test_trtexec_is_asked_for_its_version_first(runner: Path) -> None:
    (runner.parent / "trtexec").symlink_to(runner)
    runner.write_text("#!/bin/sh\necho '&&&& RUNNING TensorRT.trtexec [TensorRT v110100] [b106] # trtexec --help'\n")
    assert _version(TOOLS["trtexec"]) == "11.1.0"


def test_a_tool_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match="benchncnn is neither beside"):
        run(TOOLS["benchncnn"], BenchNcnn("model.param", (96, 64, 3)), tmp_path)


def test_no_golden_figure_is_left_without_a_check() -> None:
    assert set(SAID) == set(TOOLS) == {folder.name for folder in GOLDEN.iterdir()}
    assert all(math.isfinite(mean) for _, mean, _, _ in SAID.values())


def test_runs_that_all_took_the_same_are_read() -> None:
    output = golden("benchmark_model")
    text = re.sub(r"count=118 .*", "count=118 curr=8441(all same)", output.text)
    assert text != output.text
    assert TOOLS["benchmark_model"].read(replace(output, text=text)).figures.count == 118


@pytest.mark.parametrize(("count", "quotable"), [(None, False), (63, False), (64, True)])
def test_a_tool_s_figure_needs_runs_as_ours_does(count: int | None, quotable: bool) -> None:
    found = TOOLS["benchmark_model"].read(golden("benchmark_model"))
    assert (not _too_few(replace(found, figures=Figures(count, 1.0)))) == quotable
