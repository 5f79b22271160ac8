"""One tiny trained run, and an artifact of it for every target, shared by the whole session."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.export import TARGETS
from edgeseg.manifest import Source
from edgeseg.runs import read_card
from edgeseg.students.external import mend_torchvision
from edgeseg.train.loop import Trainer
from edgeseg.train.recipe import read_recipe

mend_torchvision()  # torchmetrics imports it too

TINY = "synthetic:size=64x96,train=24,val=8,test=8"


LONGEST = ("test_readme.py", "test_benchmarks.py", "test_operators.py", "test_promptable.py", "test_triton.py")
"""Files that begin first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; all others in their order."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, on every machine: a small network gains nothing from more, and on a busy machine they wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A lock for each process of tests: what two of them measure at once is nobody's figure, and neither waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_LOCK", str(tmp_path_factory.mktemp("lock") / "lock"))
        yield


@pytest.fixture(scope="session")
def tiny_data() -> Data:
    """Forty generated scenes of 64x96."""
    return load_data(TINY)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Path:
    """A run of DDRNet-23-slim after one epoch: bad masks, real files."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    recipe = read_recipe(None, ["epochs=1", "batch=4", "workers=0", "ema=null"])
    return Trainer("ddrnet23_slim", tiny_data, out, recipe).run(resume=False)


@pytest.fixture(scope="session")
def tiny_artifacts(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data, tiny_run: Path) -> dict[str, Artifact]:
    """The name of each target -> `tiny_run` exported to it with everything baked in, when it is asked for."""
    return Exports(tmp_path_factory.mktemp("artifacts"), tiny_data, tiny_run)


class Exports(dict[str, Artifact]):
    """Makes each artifact once."""

    def __init__(self, folder: Path, data: Data, run: Path) -> None:
        super().__init__()
        self._folder, self._data, self._run = folder, data, run

    def __missing__(self, name: str) -> Artifact:
        student = es.load(self._run)
        assert not isinstance(student, Artifact)
        source, bake = Source(str(self._run), read_card(self._run).sha256), ("pre", "labels")
        made = es.export_model(student, TARGETS[name](), self._folder / name, (64, 96), bake, source, self._data)
        return self.setdefault(name, made)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system (root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)
