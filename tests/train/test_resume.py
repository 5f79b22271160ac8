"""An interrupted run ends as the uninterrupted one: the same weights to the bit, the same log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.train.checkpoint import load_state, save_state
from edgeseg.train.loop import CHECKPOINT, LOG, Trainer
from edgeseg.train.recipe import Recipe, read_recipe

DATA = "synthetic:size=64x64,train=16,val=2,test=2"
SETTINGS = ["batch=2", "checkpoint=3", "evaluate=1", "workers=0", "warmup_epochs=0.5"]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    fixed = f"train ddrnet23_slim --data {DATA} --epochs 2 --threads 1 --out".split()
    words = [sys.executable, "-m", "edgeseg", *fixed, str(out), *changes, *more]
    top = Path(__file__).resolve().parents[2]
    return subprocess.Popen(words, cwd=top, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def stop_after(out: Path, process: subprocess.Popen[str], steps: int, number: int) -> str:
    """Send a signal once a checkpoint of `steps` steps is there; what the process said."""
    while process.poll() is None and not step_of(out / CHECKPOINT) >= steps:
        time.sleep(0.02)
    process.send_signal(number)
    return process.communicate(timeout=100)[1]


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint was made at, from its header; 0 when there is none."""
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="pt") as file:
        return int(re.findall(r'\["step", (\d+)\]', file.metadata()["state"])[-1])


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LOG).read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_kill_9_and_ctrl_c_and_resume_end_the_same_to_the_bit(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    process = start(whole)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said

    process = start(out)
    stop_after(out, process, 3, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= step_of(out / CHECKPOINT) < 16

    process = start(out, "--resume")
    said = stop_after(out, process, 9, signal.SIGINT)
    assert process.returncode == 130, said
    assert "go on with --resume" in " ".join(said.split())
    assert "Traceback" not in said
    assert 9 <= step_of(out / CHECKPOINT) < 16

    process = start(out, "--resume")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert logged(out) == logged(whole)
    ours, theirs = (load_state(folder / CHECKPOINT) for folder in (out, whole))
    for part in ("student", "average"):
        assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items())


SEEN = """
import json
import os
import signal
import sys
from edgeseg.cli import main
from edgeseg.train.loop import Trainer

plain, attempt = Trainer.step, int(os.environ["TORCHELASTIC_RESTART_COUNT"])

def step(self, images, labels, views):
    names = self.data.split(self.fit_split).names
    entry = [attempt, self.fabric.global_rank, self.state.step, [names[int(view[0])] for view in views]]
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(entry) + "\\n")
    if attempt == 0 and entry[1] == 1 and self.state.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, images, labels, views)

Trainer.step = step
if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.mark.wide
@pytest.mark.slow
def test_two_processes_that_distill_see_every_image_once_across_a_kill_9(
    tmp_path: Path, tiny_run: Path, tiny_data: Data
) -> None:
    """By what the loader says it gave: 24 images, 4 a step, in the fourth step of the second epoch one of two processes is killed."""
    (tmp_path / "seen.py").write_text(SEEN, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    words = f"distill lraspp_mobilenet_v3_small --teacher {tiny_run} --data {tiny_data.spec} --loss kd --epochs 2 --threads 1".split()
    changes = ["batch=4", "checkpoint=2", "evaluate=2", "norm_batches=0", "workers=1"]
    top = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, *torchrun, str(tmp_path / "seen.py"), *words, "--out", str(tmp_path / "run")]
        + [word for change in changes for word in ("--set", change)],
        env={**os.environ, "PYTHONPATH": str(top), "OMP_NUM_THREADS": "1", "SEEN": str(tmp_path / "seen")},
        cwd=top, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    lost, kept = ({step for attempt, _, step, _ in seen if attempt == turn} for turn in (0, 1))
    assert (lost, kept) == (set(range(10)), set(range(8, 12)))  # on from the checkpoint of eight steps
    learned = {(rank, step): names for attempt, rank, step, names in seen if attempt == 1 or step < 8}
    assert len(learned) == 24
    for epoch in (range(6), range(6, 12)):
        names = [name for rank in (0, 1) for step in epoch for name in learned[rank, step]]
        assert sorted(names) == sorted(tiny_data.split(tiny_data.fit).names)
    for _, rank, step, names in seen:
        assert learned[rank, step] == names  # steps that were lost come again with the same images


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_data: Data) -> Path:
    """A run that was stopped after its first step."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    trainer = make(tiny_data, out)
    trainer.notify = lambda event: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(EdgesegError, match="stopped at epoch 1, step 1 of 6; go on with --resume") as caught:
        trainer.run(resume=False)
    assert caught.value.exit_code == 130
    return out


def make(data: Data, out: Path, name: str = "ddrnet23_slim", **changes: Any) -> Trainer:
    settings = {"epochs": 1, "batch": 4, "workers": 0, **changes}
    return Trainer(name, data, out, read_recipe(None, [f"{key}={value}" for key, value in settings.items()]))


def test_another_recipe_is_refused(stopped: Path, tiny_data: Data) -> None:
    with pytest.raises(EdgesegError, match=r"another recipe \(recipe.seed was 0, is 1\); resume with the same one"):
        make(tiny_data, stopped, seed=1).run(resume=True)


def test_another_student_is_refused(stopped: Path, tiny_data: Data) -> None:
    with pytest.raises(EdgesegError, match="was made with another student"):
        make(tiny_data, stopped, name="lraspp_mobilenet_v3_large").run(resume=True)


def test_how_the_work_is_done_may_change(stopped: Path, tiny_data: Data) -> None:
    trainer = make(tiny_data, stopped, workers=1, checkpoint=3)
    trainer.restore(load_state(stopped / CHECKPOINT), stopped / CHECKPOINT)
    assert trainer.state.step == 1


def test_a_run_is_not_started_over(stopped: Path, tiny_data: Data) -> None:
    with pytest.raises(EdgesegError, match="already holds a run; go on with --resume"):
        make(tiny_data, stopped).run(resume=False)


def test_nothing_to_resume_from(tmp_path: Path, tiny_data: Data) -> None:
    with pytest.raises(EdgesegError, match="to resume from; leave --resume out"):
        make(tiny_data, tmp_path / "run").run(resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.9999])
def test_a_truncated_checkpoint_is_one_line(tmp_path: Path, stopped: Path, tiny_data: Data, part: float) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    data = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(EdgesegError, match="is not a whole training state of edgeseg") as caught:
        make(tiny_data, out).run(resume=True)
    assert "\n" not in str(caught.value)


def test_a_foreign_checkpoint_is_one_line(tmp_path: Path, tiny_data: Data, tiny_run: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(tiny_run / "model.safetensors", out / CHECKPOINT)
    with pytest.raises(EdgesegError, match="is not a whole training state of edgeseg"):
        make(tiny_data, out).run(resume=True)


def test_a_log_line_that_was_cut_in_two_is_dropped(tmp_path: Path, stopped: Path, tiny_data: Data) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    (out / LOG).write_text('{"step": 1, "epoch": 1}\n{"step": 3, "epoch": 1}\n{"step": 4, "ep', encoding="utf-8")
    trainer = make(tiny_data, out)
    trainer._open(resume=True)
    assert logged(out) == [{"step": 1, "epoch": 1}]


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "a": [1, 2.5, None, "x", True],
        3: {"t": torch.arange(4), "d": {}},
        "l": torch.zeros(0),
        "same": torch.ones(2).bfloat16(),
    }
    save_state(tmp_path / "state", state)
    back = load_state(tmp_path / "state")
    assert back["a"] == state["a"]
    assert torch.equal(back[3]["t"], torch.arange(4))
    assert back[3]["d"] == {}
    assert back["same"].dtype == torch.bfloat16
    assert list(back) == list(state)


def test_a_recipe_knows_what_decides_the_weights(tiny_data: Data, tmp_path: Path) -> None:
    identity = make(tiny_data, tmp_path / "run").identity()
    left_out = {key for key in vars(Recipe()) if key not in identity["recipe"]}
    assert left_out == {"workers", "checkpoint"}
