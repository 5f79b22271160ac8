"""CONTRIBUTING.md claims that an addition is one file and one name in one line: counted on what is already here."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ADDITIONS = {
    "edgeseg/students": ["ddrnet", "ffnet", "lraspp", "pp_mobileseg", "rwkv_sam", "rwkv_seg", "squeeze_sam"],
    "edgeseg/data": [
        *("ade20k", "camvid", "cityscapes", "coco", "coco_panoptic", "coco_stuff", "dis5k", "folder"),
        *("hugging_face", "lvis", "objects", "regions", "sa1b", "shards", "synthetic", "synthetic_objects", "voc"),
    ],
    "export": [
        "coreml_package",
        "executorch_program",
        "litert_file",
        "ncnn_files",
        "onnx_file",
        "openvino_ir",
        "tensorrt_onnx",
    ],
    "runtimes": [
        *("coreml_model", "executorch_method", "litert_model", "ncnn_net", "null"),
        *("onnxruntime_session", "openvino_model", "tensorrt_engine", "torch_eager"),
    ],
    "runtimes/devices": ["adb", "aihub", "apple", "emulated", "labgrid", "local", "ssh"],
    "runtimes/telemetry": ["android", "ina", "jetson", "linux", "powermetrics", "rapl", "raspberry", "tegrastats"],
    "runtimes/tools": [
        *("benchmark_app", "benchncnn", "executor_runner", "litert_benchmark"),
        *("perf_test", "tflite_benchmark", "trtexec"),
    ],
}
# a module that a second addition is built on, and where it says so
SHARED = {
    "folder": {"edgeseg/data/shards.py"},  # what classes.json says
    "synthetic": {"edgeseg/data/synthetic_objects.py"},  # the options of generated data
    "onnx_file": {"export/openvino_ir.py", "export/tensorrt_onnx.py"},  # both read ONNX
    "tensorrt_onnx": {"export/tensorrt_build.py"},  # `edgeseg build`
    "ncnn_net": {"export/ncnn_files.py"},  # how a file says what its inputs are
    "onnxruntime_session": {"runtimes/tensorrt_engine.py"},  # what stands in for TensorRT
    "tensorrt_engine": {"export/tensorrt_build.py", "edgeseg/cli/build.py"},
    "ssh": {"runtimes/devices/labgrid.py"},  # how its boards are reached
    "raspberry": {"runtimes/telemetry/validity.py"},  # what its bits mean
    "coreml_model": {"export/coreml_package.py", "runtimes/devices/apple.py"},  # the compute units that there are
    "openvino_model": {
        "export/openvino_ir.py",
        "kernels/tiers_onnx.py",
    },  # the import that does not phone home, the one core
}


@cache
def sources() -> dict[str, set[str]]:
    """Every source file of the package, each once, and the parts of all names it imports; the links beside the folders are left out."""
    folders = [ROOT / name for name in ("edgeseg", "export", "quantize", "runtimes", "kernels")]
    files = (
        path for folder in folders for path in folder.rglob("*.py") if not (folder.name == "edgeseg" and _linked(path))
    )
    return {path.relative_to(ROOT).as_posix(): imports(path.read_text(encoding="utf-8")) for path in files}


def _linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def imports(text: str) -> set[str]:
    """The parts of all names that a source imports."""
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {part for name in names for part in name.split(".")}


@pytest.mark.parametrize(("folder", "module"), [(f, m) for f, modules in ADDITIONS.items() for m in modules])
def test_an_addition_is_one_file_and_one_name(folder: str, module: str) -> None:
    own = f"{folder}/{module}.py"
    assert (ROOT / own).exists()
    users = {path for path, parts in sources().items() if path != own and module in parts}
    assert users - SHARED.get(module, set()) == {f"{folder}/__init__.py"}


def test_the_table_names_the_folders_that_were_counted() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| a .*?\| `(.+?)/[A-Z]+\.py` \| `(.+?)` \|", text, flags=re.MULTILINE)
    assert sorted(folder for folder, _ in rows) == sorted(ADDITIONS)
    assert all(line == f"{folder}/__init__.py" for folder, line in rows)


def test_an_operator_is_a_folder_with_a_definition_and_cases() -> None:
    folders = [
        path for path in (ROOT / "kernels").iterdir() if path.is_dir() and path.name not in ("__pycache__", "csrc")
    ]
    assert folders
    for folder in folders:
        assert {"__init__.py", "reference.py", "cases.py"} <= {path.name for path in folder.iterdir()}
    assert not (ROOT / "kernels" / "__init__.py").exists()
