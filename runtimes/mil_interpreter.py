"""An .mlpackage read back and executed operator by operator: proof on any machine of what a file says, not of Apple's kernels.

Every operator computes in float32 and its result is rounded to the type that the file declares for it, so that a float16
network is off by as much as float16 storage is. What an operator makes must have the shape that the file declares.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.errors import EdgesegError, need
from edgeseg.files import inside, read_json
from edgeseg.runtimes.agent import declared, main_function, pictures
from edgeseg.runtimes.mil_operators import OPERATORS

TYPES = {
    "BOOL": "bool",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "UINT8": "uint8",
    "UINT16": "uint16",
}
"""Element type in MIL -> in NumPy and PyTorch."""

FLOATS = ("float16", "float32")
"""Those of them that have a point."""

PRECISIONS = {"FLOAT32": "fp32", "FLOAT16": "fp16", "INT8": "int8", "UINT8": "int8"}
"""Element type in MIL -> ours."""

HEAVY = frozenset({"conv", "conv_transpose", "einsum", "linear", "matmul", "scaled_dot_product_attention"})
"""Operators of MIL that carry the arithmetic and so decide the precision."""

FACTORS = ("x", "y", "weight")
"""What heavy operators multiply."""

EXACT: dict[str, Callable[..., Any]] = {
    "quantize": lambda input, **how: input,
    "dequantize": lambda input, **how: input if input.is_floating_point() else OPERATORS["dequantize"](input, **how),
}
"""What operators do where nothing is rounded: activations stay as they are, weights are what the file has of them."""

SENTINEL = 0xDEADBEEF
"""Begins what describes a blob of the weights: then type, bytes and offset."""


@dataclass(frozen=True)
class Declared:
    """A value as the file declares it."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """The value of that name, made by an earlier step."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator. `given` has a constant, a `Reference` or a list of them per parameter; `done` is not needed afterwards."""

    operator: str
    given: dict[str, Any]
    made: tuple[Declared, ...]
    done: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """What an .mlpackage computes. `images` are the inputs that it takes as pictures; to its operators they are planes."""

    inputs: tuple[Declared, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    images: frozenset[str] = frozenset()

    def counts(self) -> Counter[str]:
        """How often each operator is there."""
        return Counter(step.operator for step in self.steps)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Inputs by name to outputs by name; a picture is uint8 `[1, H, W, 3]`, its colours as the package declares.

        Raises:
            EdgesegError: an input is missing or has another shape, or an operator is used in a way that is not known here.
        """
        values = self.given(feeds)
        for _ in self.executed(values):
            pass
        return {name: values[name].numpy() for name in self.outputs}

    def executed(self, values: dict[str, Tensor], exact: bool = False) -> Iterator[Step]:
        """Each step, when what it makes is among the values. `exact`: in float64, and nothing is rounded to whole numbers on its way."""
        for step in self.steps:
            with torch.inference_mode():
                made = _executed(step, values, exact)
            values.update(zip((each.name for each in step.made), made, strict=True))
            yield step
            for name in step.done:
                del values[name]

    def given(self, feeds: Mapping[str, NDArray[Any]], exact: bool = False) -> dict[str, Tensor]:
        """The inputs as values."""
        values: dict[str, Tensor] = {}
        for entry in self.inputs:
            given = feeds.get(entry.name)
            if given is not None and entry.name in self.images:
                given = given.transpose(0, 3, 1, 2) if given.ndim == 4 and given.dtype == np.uint8 else None
            if given is None or given.shape != entry.shape:
                shapes = {name: list(array.shape) for name, array in feeds.items()}
                raise EdgesegError(f"the network takes {entry.name} {list(entry.shape)}, got {shapes}")
            values[entry.name] = _as_declared(torch.from_numpy(np.ascontiguousarray(given)), entry, exact)
        return values


@dataclass(frozen=True)
class Wrong:
    """What an operator makes: its relative RMS from the exact, null where it is not finite and the exact is; `place` of `count`."""

    made: Declared
    operator: str
    error: float | None
    place: int
    count: int


def first_wrong(program: Program, feeds: Mapping[str, NDArray[Any]], within: float) -> Wrong | None:
    """The first operator whose output, rounded as the file declares, is not `within` of what it is where nothing is rounded.

    Both run side by side from the same inputs, so that an error is all that came together up to there.
    """
    exact, rounded = program.given(feeds, exact=True), program.given(feeds)
    both = zip(program.executed(exact, exact=True), program.executed(rounded), strict=True)
    for place, (step, _) in enumerate(both, 1):
        for each in step.made:
            if each.kind in FLOATS:
                error = _apart(rounded[each.name].double(), exact[each.name])
                if error is None or not error <= within:
                    return Wrong(each, step.operator, error, place, len(program.steps))
    return None


def _apart(rounded: Tensor, exact: Tensor) -> float | None:
    finite = exact.isfinite()
    if not torch.equal(rounded.isfinite(), finite):
        return None
    energy = exact[finite].square().mean().clamp_min(1e-30) if finite.any() else torch.ones(())
    return float(((rounded[finite] - exact[finite]).square().sum() / max(1, int(finite.sum())) / energy).sqrt())


def _executed(step: Step, values: Mapping[str, Tensor], exact: bool = False) -> list[Tensor]:
    """What a step makes, in the declared types."""
    given = {name: _resolved(each, values, exact) for name, each in step.given.items()}
    function = (exact and EXACT.get(step.operator)) or OPERATORS[step.operator]
    try:
        made = function(**given)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise EdgesegError(f"{step.made[0].name}: the MIL operator {step.operator} is not known so: {line}") from error
    results = [made] if isinstance(made, Tensor) else made
    shapes = [tuple(each.shape) for each in results]
    if shapes != [each.shape for each in step.made]:
        raise EdgesegError(f"{step.made[0].name}: {step.operator} makes {shapes}, but the file says {step.made}")
    return [_as_declared(each, to, exact) for each, to in zip(results, step.made, strict=True)]


def _as_declared(value: Tensor, to: Declared, exact: bool) -> Tensor:
    """A value in its type; where nothing is rounded, in float64 for one with a point, and for one of 8 bits that has kept it."""
    kept = to.kind in FLOATS or (to.kind in ("int8", "uint8") and value.is_floating_point())
    return value.double() if exact and kept else value.to(getattr(torch, to.kind))


def _resolved(given: Any, values: Mapping[str, Tensor], exact: bool) -> Any:
    if isinstance(given, list):
        return [_resolved(each, values, exact) for each in given]
    value = values[given.name] if isinstance(given, Reference) else given
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.double() if exact else value.float()


def read_package(path: Path) -> Program:
    """The program of an .mlpackage, weights and all.

    Raises:
        EdgesegError: something is missing, cut off or damaged, leads out of the package, or is an operator not in the table.
    """
    model = model_file(path)
    need("coremltools.proto")
    from google.protobuf.message import DecodeError  # comes with coremltools

    try:
        program = _Reader(model.parent, parse(model)).program()
    except (DecodeError, OSError, LookupError, ValueError, struct.error) as error:
        raise EdgesegError(f"{path} is damaged or no mlprogram: {type(error).__name__}: {error}") from error
    if unknown := sorted(program.counts().keys() - OPERATORS.keys()):
        raise EdgesegError(
            f"{path} has the MIL operators {', '.join(unknown)}, which are not known here; add them to runtimes/mil_operators.py"
        )
    return program


def parse(path: Path) -> Any:
    """The `Model` that the file of a package holds.

    Raises:
        DecodeError, OSError: it is cut off, or not there.
    """
    with quiet():
        parser = need("coremltools.proto.Model_pb2").Model
    return parser.FromString(path.read_bytes())


def arithmetic(parsed: Any) -> Counter[str]:
    """The precisions that a parsed package declares for its heavy operators, and for how many of them.

    One whose activations and weights all come from `dequantize` counts as int8: that is how MIL writes integer arithmetic. Its
    weights alone, which are a `constexpr`, do not make it so.
    """
    return counted(declared(parsed))


def counted(operators: Sequence[Any]) -> Counter[str]:
    """Likewise, of operators as `agent.declared` lists them."""
    counts: Counter[str] = Counter()
    for name, kind, makers in operators:
        if name in HEAVY:
            given = [makers[key] for key in FACTORS if key in makers]
            whole = all(maker == "dequantize" or maker.startswith("constexpr_") for maker in given)
            counts["int8" if whole and "dequantize" in given else PRECISIONS.get(kind, kind.lower())] += 1
    return counts


def model_file(path: Path) -> Path:
    """The file of an .mlpackage that holds its description and program.

    Raises:
        EdgesegError: no manifest, one that names no model, or one that leads out of the package.
    """
    manifest = read_json(path / "Manifest.json")
    try:
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError) as error:
        raise EdgesegError(f"{path}/Manifest.json names no model; was it cut off or edited?") from error
    return inside(path / "Data", entry)


@contextmanager
def quiet() -> Iterator[None]:
    """Without coremltools' progress bars, its word on every part of macOS that Linux lacks, and its own deprecated calls."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


class _Reader:
    """Turns the parsed file into a `Program`."""

    def __init__(self, folder: Path, parsed: Any) -> None:
        self.folder, self.model = folder, parsed
        self.type_name = need("coremltools.proto.MIL_pb2").DataType.Name
        self.constants: dict[str, Any] = {}
        self.blobs: dict[str, bytes] = {}

    def program(self) -> Program:
        function, block = main_function(self.model)
        steps = []
        for operation in block.operations:
            if operation.type == "const":
                self.constants[operation.outputs[0].name] = self.constant(operation.attributes["val"])
            else:
                given = {name: self.given(argument) for name, argument in operation.inputs.items()}
                if operation.type.startswith("constexpr_"):  # what iOS 16 has of these is given by attributes
                    given |= {key: self.constant(each) for key, each in operation.attributes.items() if key != "name"}
                steps.append((operation.type, given, tuple(map(self.declared, operation.outputs))))
        inputs = tuple(map(self.declared, function.inputs))
        ended = tuple(_ended(steps, inputs, set(block.outputs)))
        return Program(inputs, tuple(block.outputs), ended, frozenset(pictures(self.model)))

    def declared(self, entry: Any) -> Declared:
        kind, shape = self.type(entry.type)
        return Declared(entry.name, kind, shape)

    def type(self, given: Any) -> tuple[str, tuple[int, ...]]:
        tensor = given.tensorType
        name = self.type_name(tensor.dataType)
        if name not in TYPES:
            raise EdgesegError(
                f"the element type {name} of MIL is not known here; add it to runtimes/mil_interpreter.py"
            )
        return TYPES[name], tuple(each.constant.size for each in tensor.dimensions)

    def given(self, argument: Any) -> Any:
        bound = [
            self.constant(each.value)
            if each.WhichOneof("binding") == "value"
            else self.constants.get(each.name, Reference(each.name))
            for each in argument.arguments
        ]
        return bound[0] if len(bound) == 1 else bound

    def constant(self, value: Any) -> Any:
        """A word, a number, a list of whole numbers, or a tensor."""
        words = value.immediateValue.tensor.strings.values
        if words:
            return words[0]
        kind, shape = self.type(value.type)
        array = self.numbers(value, np.dtype(kind), shape)
        if not shape or (len(shape) == 1 and array.dtype.kind in "biu"):
            return array.tolist()
        return torch.from_numpy(array)

    def numbers(self, value: Any, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if value.WhichOneof("value") == "blobFileValue":
            return np.frombuffer(self.blob(value.blobFileValue, kind, shape), kind).reshape(shape).copy()
        tensor = value.immediateValue.tensor
        values = getattr(tensor, tensor.WhichOneof("value")).values
        array = np.frombuffer(values, kind) if isinstance(values, bytes) else np.array(values, kind)
        return array.reshape(shape).copy()

    def blob(self, place: Any, kind: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
        """The bytes of a constant in the weights."""
        name = place.fileName.removeprefix("@model_path/")
        if name not in self.blobs:
            self.blobs[name] = inside(self.folder, name).read_bytes()
        weights, wanted = self.blobs[name], kind.itemsize * int(np.prod(shape))
        sentinel, _, size, start = struct.unpack_from("<IIQQ", weights, place.offset)
        if sentinel != SENTINEL or size != wanted or start + size > len(weights):
            raise ValueError(f"{name} has no {wanted} bytes at {place.offset}")
        return weights[start : start + size]


def _ended(
    steps: list[tuple[str, dict[str, Any], tuple[Declared, ...]]], inputs: tuple[Declared, ...], kept: set[str]
) -> Iterator[Step]:
    """The steps, each with what nobody asks for after it.

    Raises:
        ValueError: a step or an output asks for what nobody makes.
    """
    last: dict[str, int] = {entry.name: -1 for entry in inputs}
    for index, (_, given, made) in enumerate(steps):
        for name in _names(given):
            last[name] = index if name in last else _unmade(name)
        last.update((each.name, index) for each in made)
    for name in kept:
        last[name] = len(steps) if name in last else _unmade(name)
    for index, (operator, given, made) in enumerate(steps):
        names = {*_names(given), *(each.name for each in made)}
        yield Step(operator, given, made, tuple(name for name in names if last[name] == index))


def _names(given: Mapping[str, Any]) -> Iterator[str]:
    for each in given.values():
        yield from (one.name for one in (each if isinstance(each, list) else [each]) if isinstance(one, Reference))


def _unmade(name: str) -> int:
    raise ValueError(f"nothing makes {name}")
