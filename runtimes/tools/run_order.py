"""The table of operators that TensorFlow Lite's profiler makes, in `benchmark_model` and in LiteRT.

Its columns differ between versions (`[start]` comes and goes) and were apart by tabs before they were by blanks, so they are
found by their headings.
"""

from __future__ import annotations

import re

from edgeseg.runtimes.record import Operator

COLUMN = re.compile(r"\[([^]]+)\]")

PRECISIONS = {"F32": "fp32", "F16": "fp16"}
"""As XNNPACK's names of its operators have it: `Convolution (NHWC, F32)`; whole numbers begin with Q."""


def operators(text: str, table: int = -1) -> list[Operator]:
    """The rows of one of the tables of a text, by default of the last: those before are of the start-up. Times are means."""
    tables = re.split(r"^=+ Run Order =+$", text, flags=re.MULTILINE)[1:]
    return _rows(tables[table]) if tables else []


def _rows(table: str) -> list[Operator]:
    columns: list[str] = []
    found = []
    for line in table.splitlines():
        if line.startswith("="):
            break
        if line.strip().startswith("[node type]"):
            columns = COLUMN.findall(line)
        elif columns and (
            match := re.fullmatch(rf"(\S.*?)((?:\s+[-+\d.e]+%?){{{len(columns) - 2}}})\s+(\S.*)", line.strip())
        ):
            numbers = dict(zip(columns[1:-1], match[2].split(), strict=True))
            kind = match[1].removeprefix("Delegate/")
            where = "interpreter" if kind == match[1] else "delegate"
            ms, calls = float(numbers["avg ms"]), int(numbers["times called"])
            found.append(Operator(match[3], kind, where, precision(kind), ms, calls, None))
    return found


def precision(kind: str) -> str | None:
    """`fp32` of `Convolution (NHWC, F32) IGEMM`; null where it does not say."""
    found = re.search(r"\((?:\w+, )?(F32|F16|Q\w+)\)", kind)
    return PRECISIONS.get(found[1], "int8") if found else None
