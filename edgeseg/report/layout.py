"""Templates to pages: one look for all of them, and nothing that a file says is ever markup."""

from __future__ import annotations

from pathlib import Path

from edgeseg.provenance import made_by, now
from edgeseg.report import words


def lay_out(template: str, page: object) -> str:
    """The page as text, from a template of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent),
    )
    environment.filters |= words.FILTERS
    return environment.get_template(template).render(page=page, made=made_by(), created=now())
