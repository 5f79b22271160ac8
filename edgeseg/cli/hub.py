"""`edgeseg card` and `edgeseg push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit


@app.command()
def card(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    force: Annotated[bool, typer.Option("--force", help="Write over a card that was edited.")] = False,
    as_json: Json = False,
) -> None:
    """Write the model card of a run, `README.md`, from its training and its evaluations.

    Example: edgeseg card runs/cam
    """
    from edgeseg.hub import write_card

    emit(str(path := write_card(run, force)), as_json, str(path))


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Only for you.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a run with its model card to the Hugging Face Hub; `es.from_pretrained("USER/NAME")` gets it back.

    A card that you edited goes up as it is. Paths of your disk stay here.

    Example: edgeseg push runs/cam user/ddrnet-camvid
    """
    from edgeseg.hub import push_to_hub

    emit(address := push_to_hub(run, repo, private), as_json, address)
