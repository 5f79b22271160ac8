"""Paddle checkpoints without Paddle: `.pdparams` is a pickle, and this reads arrays and text out of it and nothing else.

`paddle.save` writes a dictionary of name -> array (or of name -> (name, array)), plus a table of structured names. Of all
that a pickle may ask for, the reader knows the handful of names that rebuild a NumPy array, and gives functions of its own
for them; any other name is refused, so that no code of the file's choosing can run.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError

TABLE = "StructuredToParameterName@@"
"""Entry that holds names instead of an array."""

SPLIT = "UnpackBigParamInfor@@"
"""Entry that says which arrays were cut into pieces, because a pickle of those days ends at 4 GB."""

KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "b1"})
"""Element types that are plain numbers; an array of objects would be a pickle of its own."""


class _Array:
    """An array that is being rebuilt: the pickle makes it first and fills it afterwards."""

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, data = state
        if not (isinstance(kind, _Kind) and isinstance(data, bytes) and isinstance(shape, tuple) and version == 1):
            raise pickle.UnpicklingError("an array that is not plain numbers")
        count = 1
        for side in shape:
            if not isinstance(side, int) or side < 0:
                raise pickle.UnpicklingError("an array of an impossible shape")
            count *= side
        if count * kind.dtype.itemsize != len(data):  # also what keeps a small file from asking for much memory
            raise pickle.UnpicklingError("an array whose data is cut off")
        self.value = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _Kind:
    """An element type; its state is only the byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in KINDS:
            raise pickle.UnpicklingError(f"elements of type {name!r}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 writes the data of an empty array."""
    return b""


class _NdArray:
    """Stands for `numpy.ndarray`, which the pickle names and never calls."""


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _NdArray,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}
"""Everything a file may name -> what it gets instead."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it points outside the file")


def read_pdparams(file: Path) -> dict[str, NDArray[Any]]:
    """Name -> array of a `.pdparams` file.

    Raises:
        EdgesegError: not there, cut off, no checkpoint, or one that would need code to run.
    """
    try:
        with file.open("rb") as stream:
            document = _Reader(stream).load()
    except FileNotFoundError:
        raise EdgesegError(f"{file} does not exist") from None
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EdgesegError(
            f"{file} is cut off or is no Paddle checkpoint that loads without running code ({why:.120})"
        ) from error
    if not isinstance(document, dict):
        raise EdgesegError(f"{file} holds no name -> array mapping; save a state_dict")
    if SPLIT in document:
        raise EdgesegError(f"{file} holds arrays in pieces, as Paddle before 2.1 wrote above 4 GB; save it again")
    arrays = {str(name): _array(value) for name, value in document.items() if name != TABLE}
    if not arrays or any(value is None for value in arrays.values()):
        raise EdgesegError(f"{file} holds no name -> array mapping; save a state_dict")
    return {name: value for name, value in arrays.items() if value is not None}


def _array(entry: Any) -> NDArray[Any] | None:
    """The array of an entry, which may stand behind its name."""
    if isinstance(entry, tuple) and len(entry) == 2:
        entry = entry[1]
    return entry.value if isinstance(entry, _Array) else None
