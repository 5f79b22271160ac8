"""The house itself: where packages live, what importing costs, what is public."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import edgeseg as es
from edgeseg.export import TARGETS

TOP = Path(es.__file__).resolve().parent.parent
PARTS = ("export", "quantize", "runtimes", "kernels")

PUBLIC = [
    "Artifact",
    "EdgesegError",
    "Sizes",
    "bench",
    "create",
    "export_model",
    "from_pretrained",
    "fuse",
    "load",
    "load_data",
    "load_official",
    "models",
    "push_to_hub",
    "quantize_model",
    "save",
    "verify",
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_package_is_the_folder_beside_it(part: str) -> None:
    package = __import__(f"edgeseg.{part}", fromlist=["__path__"])
    assert [Path(place).resolve() for place in package.__path__] == [TOP / part]


def test_the_bare_name_kernels_stays_free() -> None:
    assert not (TOP / "kernels" / "__init__.py").exists()  # it is Hugging Face's


def test_the_public_surface() -> None:
    assert es.__all__ == PUBLIC
    assert set(dir(es)) >= set(PUBLIC)
    assert all(getattr(es, name) is not None for name in PUBLIC)
    for kind in map(TARGETS.__getitem__, TARGETS):
        assert getattr(es, kind.__name__) is kind  # a target needs no line of its own here
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        es.nothing  # noqa: B018


def test_no_module_takes_the_place_of_a_public_function() -> None:
    modules = [
        "edgeseg." + ".".join(file.relative_to(TOP / "edgeseg").with_suffix("").parts) for file in modules_of("edgeseg")
    ]
    code = f"import importlib, edgeseg as es; [importlib.import_module(name) for name in {modules}]; "
    code += "print(*[name for name in es.__all__ if not callable(getattr(es, name))], *es.models())"
    assert python(code).split() == es.models()


def modules_of(package: str) -> list[Path]:
    files = [file for file in (TOP / package).glob("*.py") if not file.name.startswith("__")]
    return files + [file.parent for file in (TOP / package).glob("*/__init__.py")]


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_costs_little_and_brings_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import edgeseg; took = time.perf_counter() - start; "
        "heavy = {'torch', 'cv2', 'onnxruntime', 'openvino', 'albumentations', 'numpy', 'pydantic'} & set(sys.modules); "
        "print(took, *sorted(heavy))"
    )
    took, *heavy = min((python(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert heavy == []
    assert float(took) < 0.3


def test_help_brings_no_torch() -> None:
    code = (
        "import sys; from edgeseg.cli import main; main(['--help']); "
        "print({'torch', 'cv2', 'onnxruntime', 'openvino', 'albumentations', 'jinja2', 'pydantic'} & set(sys.modules))"
    )
    assert python(code).splitlines()[-1] == "set()"


def test_every_test_folder_has_its_own_file_names() -> None:
    names = [file.name for file in (TOP / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest imports them by their bare names


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    for name in ("students", "data", "train.loop", "report", "cli", "export", "runtimes", "parity", "artifact"):
        assert python(f"import edgeseg.{name}; print('ok')") == "ok"  # no circle that only another order hides
