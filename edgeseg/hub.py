"""Runs on the Hugging Face Hub: the weights, what they are, and a model card that says only what was measured."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import schema
from edgeseg.errors import EdgesegError, need
from edgeseg.files import read_json, write_json, write_text
from edgeseg.runs import CARD, WEIGHTS, RunCard, load_run, read_card, save

if TYPE_CHECKING:
    from edgeseg.students import Student

README = "README.md"
"""The model card."""

FILES = (WEIGHTS, CARD, "eval-*.json", README)
"""What is uploaded, and all that is ever downloaded."""

MARK = "<!-- edgeseg card {} -->\n"
"""Its last line: the SHA-256 of all before it, which tells a card that somebody edited from one that is as it was written."""

PLACES = {"unlabelled": "folder", "weights": "file", "teacher": "run"}
"""What of a recipe is a place, though it may not look like one -> what is said of it where its kind is not."""

NAMES = ("ema", "none")
"""Teachers that are none: `edgeseg.train.teaching`, which takes PyTorch to import, has them."""

FIGURES = {"miou": "mIoU", "miou_1": "mIoU after 1 click", "miou_box": "mIoU from a box", "boundary_f": "boundary F"}
"""Figure of a score -> its name in the card."""


def push_to_hub(subject: Student | Path | str, repo: str, private: bool = False, token: str | None = None) -> str:
    """Upload a run (or a student that was made in Python) to `repo`, e.g. `user/name`, with its card; the address.

    A card is written where there is none, or one as edgeseg wrote it; one that you edited goes up as it is. Paths of your disk
    stay here: data is named by its kind.

    Raises:
        MissingTool: huggingface_hub is not installed.
        EdgesegError: no right to write, no network, or no such run.
    """
    hub = need("huggingface_hub")
    if not isinstance(subject, str | Path):
        with tempfile.TemporaryDirectory() as folder:
            return push_to_hub(save(subject, Path(folder)), repo, private, token)
    run = Path(subject)
    if not edited(run):
        write_card(run)
    try:
        with tempfile.TemporaryDirectory() as folder:
            public_copy(run, Path(folder))
            api = hub.HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            made = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(FILES))
    except (hub.errors.HfHubHTTPError, *_offline(), OSError, ValueError) as error:
        raise EdgesegError(f"cannot push to {repo}: {_first_line(error)}; log in with `hf auth login`") from error
    return str(made)


def from_pretrained(repo: str | Path, revision: str | None = None, token: str | None = None) -> Student:
    """The student of a folder, or of a repository on the Hub; its weights are checked against its card, nothing unpickles.

    Raises:
        MissingTool: huggingface_hub is not installed.
        EdgesegError: no such repository, no network, or no run in it.
    """
    if Path(repo).is_dir():
        return load_run(repo)
    hub = need("huggingface_hub")
    try:
        folder = hub.snapshot_download(
            str(repo), revision=revision, token=token, allow_patterns=[WEIGHTS, CARD, "eval-*.json"]
        )
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, *_offline(), OSError) as error:
        raise EdgesegError(
            f"cannot get {repo}: {_first_line(error)}; give user/name on the Hub, or the folder of a run"
        ) from error
    return load_run(folder)


def _offline() -> tuple[type[Exception], ...]:
    """What the Hub's client raises where there is no network: that of its HTTP library, whichever it was built on."""
    kinds: list[type[Exception]] = []
    for name, kind in (("httpx2", "HTTPError"), ("httpx", "HTTPError"), ("requests", "RequestException")):
        with suppress(ImportError):
            kinds.append(getattr(importlib.import_module(name), kind))
    return tuple(kinds)


def public_copy(run: Path, folder: Path) -> None:
    """Copy what is uploaded of a run into `folder`, without the paths of somebody's disk; it loads as the run does."""
    card = read_card(run)
    shutil.copyfile(run / WEIGHTS, folder / WEIGHTS)
    shutil.copyfile(run / README, folder / README)
    if (training := card.training) is not None:
        card = replace(card, training=replace(training, data=kind_of(training.data), recipe=_cut(training.recipe)))
    schema.write(folder / CARD, card)
    for path in run.glob("eval-*.json"):
        document = read_json(path)
        write_json(folder / path.name, {**document, "data": kind_of(document["data"])})


def kind_of(data: str) -> str:
    """What data is, without where it lies: `camvid` of `camvid:/home/ann/customer-x`."""
    return data.split(":", maxsplit=1)[0]


def _cut(value: Any, name: str = "") -> Any:
    """A recipe, or a part of it called `name`, in which a path is nothing but the kind that stands before it."""
    if isinstance(value, dict):
        return {key: _cut(item, key) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item, name) for item in value]
    if not isinstance(value, str):
        return value
    kind = re.match(r"([\w.]{2,}):", value)  # one letter is a drive
    if name in PLACES and value not in NAMES and (name != "teacher" or kind is None):
        return kind[1] if kind else PLACES[name]
    return value if not re.search(r"[/\\]|^~", value) else kind[1] if kind else "(a path)"


def edited(folder: Path) -> bool:
    """Whether a run has a model card that is not as edgeseg wrote it."""
    path = folder / README
    if not path.exists():
        return False
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return True
    body = text[: -len(MARK.format("0" * 64))]
    return text != _marked(body)


def _marked(body: str) -> str:
    return body + MARK.format(hashlib.sha256(body.encode()).hexdigest())


def write_card(folder: Path, force: bool = False) -> Path:
    """Write `README.md`, the model card, into a run; with `force` over one that was edited.

    Raises:
        EdgesegError: there is one that was edited.
    """
    if not force and edited(folder):
        raise EdgesegError(f"{folder / README} was edited and would be written over; move it away, or give --force")
    return write_text(folder / README, model_card(folder))


def model_card(folder: Path) -> str:
    """The model card of a run, with the Hub's YAML header: its metrics are those of the evaluations in the folder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    card = read_card(folder)
    found = [_measured(document) for document in _evaluations(folder, card)]
    env = Environment(loader=PackageLoader("edgeseg", "hub_card"), undefined=StrictUndefined, trim_blocks=True)
    text = env.get_template("card.md.j2").render(
        card=card, training=card.training, found=found, header=json.dumps(_header(card, found), indent=1)
    )
    return _marked(f"{text}\n")


def _evaluations(folder: Path, card: RunCard) -> list[dict[str, Any]]:
    documents = [read_json(path) for path in sorted(folder.glob("eval-*.json"))]
    return [each for each in documents if each["sha256"] == card.sha256 and each["provenance"] == "measured"]


def _measured(document: dict[str, Any]) -> dict[str, Any]:
    """Where it was measured, without the path of somebody's disk, and what came out."""
    score = document["score"]
    return {
        "data": kind_of(str(document["data"])),
        "split": document["split"],
        "images": score["images"],
        "figures": {FIGURES[key]: round(score[key], 2) for key in FIGURES if score.get(key) is not None},
    }


def _header(card: RunCard, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The Hub's metadata; JSON is YAML."""
    results = [
        {
            "task": {"type": "image-segmentation"},
            "dataset": {"name": f"{each['data']} [{each['split']}]", "type": each["data"]},
            "metrics": [{"type": name, "value": value, "name": name} for name, value in each["figures"].items()],
        }
        for each in found
    ]
    header: dict[str, Any] = {
        "library_name": "edgeseg",
        "pipeline_tag": "image-segmentation" if card.task == "semantic" else "mask-generation",
        "license": "other",
        "tags": ["edgeseg", card.name, card.task],
    }
    return header | ({"model-index": [{"name": card.name, "results": results}]} if results else {})


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
