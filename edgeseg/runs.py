"""A run: the folder training leaves behind. `model.safetensors` holds the weights, `model.json` says what they are."""

from __future__ import annotations

import hashlib
import pickle
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.files import aside, sha256
from edgeseg.paddle import read_pdparams
from edgeseg.provenance import MadeBy, made_by, now
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from edgeseg.students import Student

SCHEMA = 1
WEIGHTS = "model.safetensors"
CARD = "model.json"


@dataclass(frozen=True)
class Training:
    """How the weights came to be.

    select_miou: percent on the selection split at `best_epoch`: mIoU, or for a promptable student the mean IoU of the
                 objects after one click.
    """

    __pydantic_config__ = STRICT
    data: str
    split: str
    epochs: int
    best_epoch: int
    select_split: str
    select_miou: float
    seconds: float
    threads: int
    machine: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class RunCard:
    """`model.json`.

    options: what the student was built with besides its classes.
    size:    (height, width) the student was trained at; null for weights that were not trained here.
    base:    the SHA-256 of the run it was made from to bear quantization: what its artifacts are judged against.
    look:    what the images that it learned from look like (`edgeseg.data.look`); empty where that is not known.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["run"]
    created: str
    edgeseg: MadeBy
    name: str
    task: Literal["semantic", "promptable"]
    classes: int
    options: dict[str, Any]
    class_names: list[str]
    palette: list[tuple[int, int, int]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int
    licence: str
    params: int
    size: tuple[int, int] | None
    sha256: str
    training: Training | None
    base: str | None = None
    look: list[float] = field(default_factory=list)


def save(
    student: Student,
    folder: Path | str,
    size: tuple[int, int] | None = None,
    training: Training | None = None,
    base: str | None = None,
) -> Path:
    """Store a student as a run that load, export and eval take; training-only heads stay out.

    The weights are renamed into place first and the card last: a kill between the two leaves a card whose hash does
    not fit, which `load` reports.
    """
    folder = Path(folder)
    with aside(folder / WEIGHTS) as part:
        part.write_bytes(stored(student))  # safetensors' own writer hides a full disk
        written = sha256(part)
    card = RunCard(
        schema=SCHEMA,
        kind="run",
        created=now(),
        edgeseg=made_by(),
        name=student.name,
        task=student.task,
        classes=student.classes,
        options=student.options,
        class_names=list(student.class_names),
        palette=list(student.palette),
        mean=student.mean,
        std=student.std,
        multiple=student.multiple,
        licence=student.licence,
        params=sum(value.numel() for value in student.deployed_parameters()),
        size=size,
        sha256=written,
        training=training,
        base=base,
        look=list(student.look),
    )
    schema.write(folder / CARD, card)
    return folder


def stored(student: Student) -> bytes:
    """The weights of a student as a run has them; those of training-only heads stay out."""
    from safetensors.torch import save as to_bytes

    skip = tuple(f"{name}." for name in student.auxiliary)
    state = {
        key: value.detach().cpu().contiguous()
        for key, value in student.state_dict().items()
        if not key.startswith(skip)
    }
    return to_bytes(state, metadata={"student": student.name})


def digest(student: Student) -> str:
    """The SHA-256 that the weights of a student have in a run."""
    return hashlib.sha256(stored(student)).hexdigest()


def read_card(folder: Path) -> RunCard:
    """What a run says about itself; the hash of its weights is checked."""
    if not (folder / CARD).exists():
        hint = (
            "; training has not evaluated yet: continue it with --resume"
            if (folder / "checkpoint.safetensors").exists()
            else ""
        )
        raise EdgesegError(f"{folder} is not a run: it has no {CARD}{hint}")
    card = schema.read(RunCard, folder / CARD)
    if not (folder / WEIGHTS).exists():
        raise EdgesegError(f"{folder / WEIGHTS} is missing although {CARD} is there; copy the whole folder")
    if sha256(folder / WEIGHTS) != card.sha256:
        raise EdgesegError(
            f"{folder / WEIGHTS} is not the file that {CARD} describes (SHA-256 differs); it was changed or cut off: "
            "train on with --resume, or copy the run again"
        )
    return card


def is_run(folder: Path) -> bool:
    """Whether a folder is what training leaves behind, finished or not."""
    return any((folder / name).exists() for name in (CARD, "log.jsonl", "checkpoint.safetensors"))


def load_run(folder: Path | str, trust: bool = False) -> Student:
    """The student of a run, in eval mode.

    trust: import the module that a run of somebody else's network names; importing runs code, so a file alone may not.
    """
    from edgeseg.students import create

    folder = Path(folder)
    card = read_card(folder)
    student: Student = create(
        card.name, classes=card.classes if card.task == "semantic" else None, trust=trust, **card.options
    )
    student.describe(card.class_names, card.palette)
    student.mean, student.std, student.look = card.mean, card.std, tuple(card.look)
    load_weights(student, read_weights(folder / WEIGHTS), str(folder / WEIGHTS))
    student.run, student.trained_at = str(folder), card.size
    return student.eval()


def load_official(student: Student, file: Path | str) -> Student:
    """Load the authors' checkpoint (`.pth`, `.pdparams` or `.safetensors`) strictly; the prefixes `module.` and `model.` are dropped.

    Raises:
        EdgesegError: a missing, unexpected or wrongly shaped tensor, listed; a file that is cut off or would run code.
    """
    file = Path(file)
    skip = ("loss.", "aux_criterion.")  # the authors' training scripts keep the criterion beside the model
    state = {key: value for key, value in read_weights(file).items() if not key.startswith(skip)}
    for prefix in ("module.", "model.", "module."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not key.startswith(skip)}
    load_weights(student, student.rename(state), str(file))
    return student


GARBAGE = (pickle.UnpicklingError, struct.error, EOFError, ValueError, TypeError, AttributeError, LookupError)
"""What an unpickler raises when it is fed something else than a pickle."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Name -> tensor of a `.safetensors`, `.pdparams` or PyTorch file; nothing in the file can run code."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if file.suffix == ".pdparams":
        return {name: torch.from_numpy(array.copy()) for name, array in read_pdparams(file).items()}
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        document = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise EdgesegError(f"{file} does not exist") from None
    except (SafetensorError, OSError, RuntimeError, *GARBAGE) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgesegError(
            f"{file} is cut off or is no checkpoint that loads without running code ({first:.120})"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(document, dict) and isinstance(document.get(key), dict):
            document = document[key]
    if not isinstance(document, dict) or not all(isinstance(value, torch.Tensor) for value in document.values()):
        raise EdgesegError(f"{file} holds no name -> tensor mapping; save a state_dict")
    return document


def load_weights(student: Student, state: dict[str, Tensor], where: str) -> None:
    """Load strictly: every tensor of the student and no other, each of the right shape."""
    own = student.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # converted checkpoints often lack these
    problems = [f"missing {key}" for key in own if key not in state and key not in counters]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise EdgesegError(
            f"{where} does not fit {student.name} with {student.classes} classes: {', '.join(problems[:5])}{more}"
        )
    student.load_state_dict({**{key: own[key] for key in counters}, **state})
