"""Native libraries: built once, found again, built anew when anything about them changed or broke."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import edgeseg as es
from edgeseg.data import Data
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.export import OnnxRuntime, OpenVino
from edgeseg.kernels import build, native
from edgeseg.kernels.build import CROSS, LIBRARIES, Flags, Library, library, toolchain
from edgeseg.kernels.libraries import build_all
from edgeseg.kernels.operators import OPERATORS


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build._build.cache_clear()
    yield tmp_path / "edgeseg"
    build._build.cache_clear()


def test_a_library_is_built_once(empty_cache: Path) -> None:
    first = library("host")
    stamp = first.stat().st_mtime_ns
    build._build.cache_clear()
    assert library("host") == first
    assert first.stat().st_mtime_ns == stamp
    assert sorted(path.suffix for path in empty_cache.iterdir()) == [".sha256", ".so"]


def test_a_corrupted_file_is_built_anew(empty_cache: Path) -> None:
    file = library("host")
    for spoil in (b"", file.read_bytes()[:1000]):
        file.unlink()  # this process may have it mapped
        file.write_bytes(spoil)
        build._build.cache_clear()
        ctypes.CDLL(str(library("host")))


def test_what_it_is_made_from_is_in_its_name(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {library("host")}
    for flags in (Flags(bound_to="another version of the runtime"), Flags(("-O1",))):
        monkeypatch.setitem(LIBRARIES._entries, "host", Library("host", "host.cc", partial(replace, flags)))
        files.add(library("host"))
    assert len(files) == 3
    assert all(file.parent == empty_cache for file in files)


def test_processes_that_build_at_once_leave_one_good_file(tmp_path: Path) -> None:
    code = "from edgeseg.kernels import native; import numpy as np; print(native.label_map(np.eye(4, dtype=np.float32)[None, :, :, None], (4, 1)).ravel().tolist())"

    def run(_: int) -> str:
        environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(run, range(4))) == {"[0, 1, 2, 3]"}
    assert sorted(path.suffix for path in (tmp_path / "edgeseg").iterdir()) == [".sha256", ".so"]


def test_a_compiler_that_fails_is_quoted(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Library("wrong", "host.cc", lambda: Flags(("-include", "no_such_header.h")))
    monkeypatch.setitem(LIBRARIES._entries, "wrong", wrong)
    with pytest.raises(EdgesegError, match=r"the compiler failed: .*error.*; the command was: .*host\.cc") as caught:
        library("wrong")
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.iterdir())


@pytest.fixture
def no_compiler(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_standard_operators_run(tiny_run: Path, tiny_data: Data, tmp_path: Path) -> None:
    with pytest.raises(MissingTool, match=r"no C\+\+ compiler .*apt-get install g\+\+"):
        library("host")
    student = es.load(tiny_run)
    for target in (OnnxRuntime(), OpenVino()):
        artifact = es.export_model(student, target, tmp_path / target.name, (64, 96), ("pre", "labels"), data=tiny_data)  # type: ignore[arg-type]
        assert artifact.manifest.op_tiers == {"label_map": "graph"}
        assert artifact.manifest.ledger is not None
        assert artifact.manifest.ledger.passed
        with pytest.raises(MissingTool, match=r"no C\+\+ compiler"):
            es.export_model(student, type(target)(ops="plugin"), tmp_path / "no", (64, 96), ("labels",), data=tiny_data)  # type: ignore[arg-type]
        assert not (tmp_path / "no").exists()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_pytorch_computes_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeseg.kernels import torch_native
    from edgeseg.kernels.wkv import wkv

    native.host.cache_clear()
    torch_native.usable.cache_clear()
    try:
        operator = OPERATORS["wkv"]
        case = operator.cases[20]
        given = [torch.from_numpy(each).requires_grad_() for each in case.feeds().values()]
        made = wkv(*given, causal=case.causal)
        assert not torch_native.usable()
        assert operator.judge(case, False)(made.detach().numpy()) <= case.within
        made.sum().backward()
        assert all(each.grad is not None and each.grad.isfinite().all() for each in given)
    finally:
        torch_native.usable.cache_clear()


def test_toolchains_for_other_machines() -> None:
    with pytest.raises(EdgesegError, match="no toolchain for 'amiga'; there is linux-aarch64"):
        toolchain("amiga")
    for machine, command in CROSS.items():
        if shutil.which(command) is None:
            with pytest.raises(MissingTool, match=r"apt-get install g\+\+"):
                toolchain(machine)


EMULATOR, ROOT = "qemu-aarch64-static", Path("/usr/aarch64-linux-gnu")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(CROSS["linux-aarch64"]) is None or shutil.which(EMULATOR) is None,
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user-static",
)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_board_computes_the_same(name: str, tmp_path: Path) -> None:
    """The library for aarch64, driven by a program for aarch64 under emulation, on the cases of up to 196 tokens."""
    made = {one.name: one for one in build_all("linux-aarch64", tmp_path)}
    assert made["host"].state == made["onnxruntime"].state == "ok"
    driver = tmp_path / "driver"
    source = Path(__file__).parent / "driver.cc"
    subprocess.run([CROSS["linux-aarch64"], "-std=c++17", "-O1", str(source), "-o", str(driver), "-ldl"], check=True)
    operator = OPERATORS[name]
    for case in [case for case in operator.cases if getattr(case, "tokens", 0) in (0, 2, 63, 196)][:12]:
        feeds = case.feeds()
        extent = (
            [*feeds["logits"].shape, *case.high, case.align_corners]
            if name == "label_map"
            else [case.batch, case.tokens, case.channels]
        )
        extent += {"wkv": [int(getattr(case, "causal", 0))], "selective_scan": [getattr(case, "states", 0)]}.get(
            name, []
        )
        header = np.array([len(feeds), *(each.size for each in feeds.values()), *extent], np.int64)
        given = header.tobytes() + b"".join(each.tobytes() for each in feeds.values())
        command = [EMULATOR, "-L", str(ROOT), str(driver), str(tmp_path / "libedgeseg_host.so"), name]
        out = subprocess.run(command, input=given, capture_output=True, check=True).stdout
        kind, shape = (
            (np.uint8, (case.batch, *case.high))
            if name == "label_map"
            else (np.float32, (case.batch, case.tokens, case.channels))
        )
        assert operator.judge(case, False)(np.frombuffer(out, kind).reshape(shape)) <= case.within
