"""Runs on the Hugging Face Hub: the weights, what they are, and a model card that says only what was measured."""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, need
from edgeseg.files import read_json, write_text
from edgeseg.runs import CARD, WEIGHTS, RunCard, load_run, read_card, save

if TYPE_CHECKING:
    from edgeseg.students import Student

FILES = (WEIGHTS, CARD, "eval-*.json", "README.md")
"""What is uploaded, and all that is ever downloaded."""

FIGURES = {"miou": "mIoU", "miou_1": "mIoU after 1 click", "miou_box": "mIoU from a box", "boundary_f": "boundary F"}
"""Figure of a score -> its name in the card."""


def push_to_hub(subject: Student | Path | str, repo: str, private: bool = False, token: str | None = None) -> str:
    """Upload a run (or a student that was made in Python) to `repo`, e.g. `user/name`, with its card; the address.

    Raises:
        MissingTool: huggingface_hub is not installed.
        EdgesegError: no right to write, no network, or no such run.
    """
    hub = need("huggingface_hub")
    if not isinstance(subject, str | Path):
        with tempfile.TemporaryDirectory() as folder:
            return push_to_hub(save(subject, Path(folder)), repo, private, token)
    run = Path(subject)
    write_card(run)
    try:
        api = hub.HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        made = api.upload_folder(repo_id=repo, folder_path=str(run), allow_patterns=list(FILES))
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


def write_card(folder: Path) -> Path:
    """Write `README.md`, the model card, into a run."""
    return write_text(folder / "README.md", model_card(folder))


def model_card(folder: Path) -> str:
    """The model card of a run, with the Hub's YAML header: its metrics are those of the evaluations in the folder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    card = read_card(folder)
    found = [_measured(document) for document in _evaluations(folder, card)]
    env = Environment(loader=PackageLoader("edgeseg", "hub_card"), undefined=StrictUndefined, trim_blocks=True)
    return env.get_template("card.md.j2").render(
        card=card, training=card.training, found=found, header=json.dumps(_header(card, found), indent=1)
    )


def _evaluations(folder: Path, card: RunCard) -> list[dict[str, Any]]:
    documents = [read_json(path) for path in sorted(folder.glob("eval-*.json"))]
    return [each for each in documents if each["sha256"] == card.sha256 and each["provenance"] == "measured"]


def _measured(document: dict[str, Any]) -> dict[str, Any]:
    """Where it was measured, without the path of somebody's disk, and what came out."""
    score = document["score"]
    return {
        "data": str(document["data"]).split(":")[0],
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
