"""CONTRIBUTING.md claims that an addition is one file and one name in one line: counted on what is already here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ADDITIONS = {
    "edgeseg/students": ["ddrnet", "ffnet", "lraspp", "pp_mobileseg", "rwkv_sam", "rwkv_seg", "squeeze_sam"],
    "edgeseg/data": ["camvid", "cityscapes", "folder", "objects", "regions", "synthetic", "synthetic_objects"],
    "export": ["onnx_file", "openvino_ir"],
    "runtimes": ["null", "onnxruntime_session", "openvino_model", "torch_eager"],
}
# a module that a second addition is built on, and where it says so
SHARED = {
    "synthetic": {"edgeseg/data/synthetic_objects.py"},  # the options of generated data
    "onnx_file": {"export/openvino_ir.py"},  # OpenVINO reads ONNX
    "openvino_model": {
        "export/openvino_ir.py",
        "kernels/tiers_onnx.py",
    },  # the import that does not phone home, the one core
}


def sources() -> dict[str, str]:
    """Every source file of the package, each once: the links beside the folders are left out."""
    folders = [ROOT / name for name in ("edgeseg", "export", "quantize", "runtimes", "kernels")]
    files = (
        path for folder in folders for path in folder.rglob("*.py") if not (folder.name == "edgeseg" and _linked(path))
    )
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def _linked(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def imported(module: str, text: str) -> bool:
    """Whether a source imports the module by its own name."""
    lines = re.findall(r"^\s*(?:from|import) .*", text, flags=re.MULTILINE)
    return any(re.search(rf"\b{module}\b", line) for line in lines)


@pytest.mark.parametrize(("folder", "module"), [(f, m) for f, modules in ADDITIONS.items() for m in modules])
def test_an_addition_is_one_file_and_one_name(folder: str, module: str) -> None:
    own = f"{folder}/{module}.py"
    assert (ROOT / own).exists()
    users = {path for path, text in sources().items() if path != own and imported(module, text)}
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
