"""How figures and sentences are written on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape

from markupsafe import Markup

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


def number(value: float | None, digits: int = 1, unit: str = "", *, scale: float = 1.0) -> str:
    """`value * scale` with so many decimals and its unit; `n/a` for what is not known."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value * scale:,.{digits}f}{unit and NBSP}{unit}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; what rounds to nothing is a plain zero."""
    text = f"{value:+.{digits}f}".replace("-", MINUS)
    return text if text.strip(f"+{MINUS}0.") else text[1:]


def prose(text: str) -> Markup:
    """A sentence set for reading: `commands` as code, arrows as arrows, and no line break before a unit."""
    text = re.sub(r"(?<=\d) (?=%|ms\b|MB\b|fps\b|points\b|images\b)", NBSP, text)
    parts = text.replace("->", "\N{RIGHTWARDS ARROW}").split("`")
    marked = [escape(part) if index % 2 == 0 else f"<code>{escape(part)}</code>" for index, part in enumerate(parts)]
    return Markup("".join(marked))


FILTERS: dict[str, Callable[..., str]] = {"number": number, "signed": signed, "prose": prose}
"""By the names that the template uses."""
