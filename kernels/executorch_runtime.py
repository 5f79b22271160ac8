"""Networks with our operators as programs of ExecuTorch: ours as its kernels, or as standard operators. A delegate gets the rest."""

from __future__ import annotations

import ctypes
import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest.mock import patch
from weakref import WeakSet

from edgeseg.errors import EdgesegError, MissingTool, need
from edgeseg.kernels.build import LIBRARIES, Flags, Library, library

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

Delegate = Literal["xnnpack", "coreml", "vulkan", "portable"]

DELEGATES = {"xnnpack": "XnnpackBackend", "coreml": "CoreMLBackend", "vulkan": "VulkanBackend"}
"""Delegate -> what ExecuTorch calls it; `portable` is none of them."""

CARD = "edgeseg"
"""The method of a program that gives what it says about itself: one JSON document."""


@dataclass(frozen=True)
class Program:
    """What ExecuTorch executes, for inputs of one size.

    code:       the contents of a `.pte` file.
    plugin:     it calls our kernels, so it runs only where they are registered.
    delegated:  the share of its operators that a delegate executes; ExecuTorch's own kernels and ours do the others.
    parts:      how many times a delegate is called.
    left:       operators that no delegate takes, with their number.
    arithmetic: precision -> how many convolutions and products compute in it.
    operators:  those of ours that it has, as kernels or as standard operators.
    """

    code: bytes
    plugin: bool
    delegated: float
    parts: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    arithmetic: Mapping[str, int] = field(default_factory=dict)
    operators: list[str] = field(default_factory=list)


def to_executorch(network: nn.Module, inputs: tuple[Tensor, ...], plugin: bool) -> Program:
    """The program of a network for XNNPACK, with our operators as our kernels (`plugin`) or as standard operators.

    Raises:
        MissingTool: ExecuTorch is not installed.
        EdgesegError: the decay of a wkv depends on the input, so that no form of standard operators can be chosen for it.
    """
    import torch

    need("executorch")
    return lower(torch.export.export(network, inputs), plugin)


def lower(
    exported: ExportedProgram,
    plugin: bool,
    delegate: Delegate = "xnnpack",
    half: bool = False,
    card: Mapping[str, Any] | None = None,
) -> Program:
    """The program of an exported network, for a delegate; with `half` in float16 wherever the image is involved.

    card: what the file says about itself, beside what is known here.

    Raises:
        MissingTool: ExecuTorch is not installed, or not the part that writes for this delegate.
        EdgesegError: the decay of a wkv depends on the input, a weight that float16 cannot hold, or what the converter cannot do.
    """
    import torch

    with _quietly(), torch.no_grad():
        exir = need("executorch.exir")
        # the caller's arrays are read in place
        planning = exir.passes.MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        ours = sorted({_name(node.target) for node in exported.graph.nodes if node.target in _ours()})
        plugin = plugin and bool(ours)
        prepared = _prepared(exported, plugin, delegate, half)
        partitioners = _partitioners(delegate, half)
        unchecked = exir.EdgeCompileConfig(_check_ir_validity=False)
        with _in_one_line():
            edge = exir.to_edge_transform_and_lower(prepared, partitioner=partitioners, compile_config=unchecked)
        network = edge.exported_program().graph_module
        parts, left, arithmetic = _parts(network), _kinds(network), _arithmetic(network)
        inside = sum(len(_operators(part)) for part in parts)
        said = {"delegate": delegate, "plugin": plugin, "parts": len(parts), "inside": inside, "left": left}
        # what may be said only now, and so cannot be among the `constant_methods` that the step before takes
        edge._config_methods = {CARD: json.dumps({**said, "arithmetic": arithmetic, **(card or {})})}
        with _in_one_line():
            made = edge.to_executorch(exir.ExecutorchBackendConfig(memory_planning_pass=planning))
    delegated = inside / max(1, inside + sum(left.values()))
    return Program(bytes(made.buffer), plugin, delegated, len(parts), left, arithmetic, ours)


def _prepared(exported: ExportedProgram, plugin: bool, delegate: Delegate, half: bool) -> ExportedProgram:
    """The exported program in operators that ExecuTorch and the delegate know."""
    import torch

    from edgeseg.kernels import executorch_bodies as bodies
    from edgeseg.kernels.executorch_half import halve

    if plugin:
        _define_out_variants()
    assert exported.example_inputs is not None
    inputs = exported.example_inputs[0]
    network = _folded(exported).module()
    bodies.without_checks(network)
    bodies.cast_first(network)
    if half:
        halve(network)
    functions = ({} if plugin else bodies.OURS) | (bodies.XNNPACK if delegate == "xnnpack" else {})
    others = {"xnnpack": bodies.XNNPACK_MODULES, "portable": bodies.EXACT_MODULES}
    modules = ({} if plugin else bodies.MODULES) | others.get(delegate, {})
    bodies.rewrite(network, functions, modules)
    bodies.drop_unused(network)
    return torch.export.export(network, inputs)


def _folded(exported: ExportedProgram) -> ExportedProgram:
    """The exported program with what depends on weights alone computed now: decays, and what ExecuTorch has no kernel for."""
    marks = {node.target for node in exported.graph.nodes if str(node.target).startswith("quantized_decomposed.")}
    folding = need("executorch.exir.passes.constant_prop_pass").constant_prop_pass
    folded: ExportedProgram = folding(exported, custom_skip_targets=marks)  # else whole numbers become real ones
    for name, constant in folded.constants.items():
        folded.constants[name] = constant.detach()  # a Parameter here would not be found again
    return folded


def _partitioners(delegate: Delegate, half: bool) -> list[Any]:
    """What finds the parts of a network that a delegate takes."""
    if delegate == "xnnpack":
        return [need("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()]
    if delegate == "vulkan":
        return [need("executorch.backends.vulkan.partitioner.vulkan_partitioner").VulkanPartitioner()]
    if delegate == "coreml":
        coremltools = need("coremltools")
        backend = need("executorch.backends.apple.coreml.compiler").CoreMLBackend
        precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
        specs = backend.generate_compile_specs(compute_precision=precision)
        return [need("executorch.backends.apple.coreml.partition").CoreMLPartitioner(compile_specs=specs)]
    return []


@cache
def _define_out_variants() -> Any:
    """Tell PyTorch of `wkv.out` and the others, which the exporter puts in the places of `wkv`; nobody ever calls them.

    Returns what must be kept: without it they are gone.
    """
    from torch.library import Library

    definitions = Library("edgeseg", "FRAGMENT")
    for operator in _ours():
        name, _, rest = str(operator._schema).removeprefix("edgeseg::").partition("(")
        given, _, _ = rest.rpartition(") ->")
        definitions.define(f"{name}.out({given}, *, Tensor(a!) out) -> Tensor(a!)")
    return definitions


def _ours() -> list[Any]:
    """Our operators."""
    from torch import ops

    import edgeseg.kernels.label_map.torch_op  # noqa: F401 (each defines its operator)
    import edgeseg.kernels.selective_scan.torch_op  # noqa: F401
    import edgeseg.kernels.wkv.torch_op  # noqa: F401

    return [ops.edgeseg.wkv.default, ops.edgeseg.selective_scan.default, ops.edgeseg.label_map.default]


def _parts(network: Any) -> list[Any]:
    """The networks inside the parts that a delegate takes."""
    found = need("executorch.exir.lowered_backend_module").get_lowered_submodules(network)
    return [part.original_module.graph_module for _, part, _ in found]


def _operators(network: Any) -> list[Any]:
    """The nodes of a network that compute something in it."""
    return [
        node
        for node in network.graph.nodes
        if node.op == "call_function" and node.target is not getitem and "call_delegate" not in str(node.target)
    ]


def _kinds(network: Any) -> dict[str, int]:
    """Operators outside of delegated parts -> their number."""
    return dict(Counter(_name(node.target) for node in _operators(network)))


def _name(operator: Any) -> str:
    """`aten::add.Tensor` is `add`."""
    return str(operator._schema.name).partition("::")[2]


HEAVY = ("convolution", "linear", "addmm", "mm", "bmm")


def _arithmetic(network: Any) -> dict[str, int]:
    """Precision -> how many of the operators that carry the arithmetic have their results in it."""
    names = {"torch.float32": "fp32", "torch.float16": "fp16"}
    heavy = (node for part in (network, *_parts(network)) for node in _operators(part) if _name(node.target) in HEAVY)
    return dict(
        Counter("int8" if _whole(node) else names.get(kind := str(node.meta["val"].dtype), kind) for node in heavy)
    )


def _whole(node: Any) -> bool:
    """Whether an operator takes whole numbers that are made real only on paper."""
    return "dequantize_per_tensor" in str(node.all_input_nodes[0].target)


OPEN: WeakSet[Any] = WeakSet()
"""The programs of this process that somebody can still run."""


@dataclass(frozen=True)
class Loaded:
    """A program that can be run; `card` is what it says about itself, `threads` how many the process has."""

    card: Mapping[str, Any]
    run: Callable[[Sequence[Tensor]], list[Tensor]]
    threads: Callable[[], int]


def load(program: Program, threads: int) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """What runs a program; as `load_code`."""
    return load_code(program.code, threads).run


def load_code(code: bytes, threads: int) -> Loaded:
    """The contents of a `.pte` file, ready to run.

    threads: for every program in this process, since ExecuTorch has one pool for all of them. The first one says how many: a
             pool that is replaced while XNNPACK's part of a program holds on to it ends the process (seen with 1.5.1).

    Raises:
        MissingTool: ExecuTorch is not installed, a compiler for our kernels, or the delegate that the program was made for.
        EdgesegError: an operator without a kernel; from a run: inputs that the program was not exported for.
    """
    with _quietly():
        bindings = need("executorch.extension.pybindings.portable_lib")
        runtime = need("executorch.runtime").Runtime.get()
    if bindings._threadpool_get_thread_count() != threads and not OPEN:
        bindings._unsafe_reset_threadpool(threads)
    try:
        loaded = runtime.load_program(code)
    except RuntimeError as error:
        raise EdgesegError(f"ExecuTorch: {error}; this is no program of version {_version()}: export again") from error
    card = json.loads(loaded.load_method(CARD).execute([])[0]) if CARD in loaded.method_names else {}
    _prepare(runtime, card)
    try:
        loaded.load_method("forward")
    except RuntimeError as error:
        raise EdgesegError(
            f"ExecuTorch: {error}; what it printed names an operator that it has no kernel for"
        ) from error
    OPEN.add(loaded)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            made: list[Tensor] = loaded.load_method("forward").execute(
                inputs
            )  # a method does not keep its program alive
        except RuntimeError as error:
            got = ", ".join(f"{each.dtype} {list(each.shape)}" for each in inputs)
            raise EdgesegError(f"ExecuTorch: {error}; got {got}: run what the program was exported for") from error
        return made

    return Loaded(card, run, bindings._threadpool_get_thread_count)


def _prepare(runtime: Any, card: Mapping[str, Any]) -> None:
    """See to it that there is what a program calls."""
    needed = DELEGATES.get(card.get("delegate", ""))
    there = runtime.backend_registry.registered_backend_names
    if needed is not None and needed not in there:
        raise MissingTool(
            f"the program was made for {needed}, and ExecuTorch {_version()} has {', '.join(sorted(there))} here; "
            f"run it on a device that has {needed}, or export with delegate='xnnpack'"
        )
    # a second registration would end the process
    if card.get("plugin") and "edgeseg::wkv.out" not in runtime.operator_registry.operator_names:
        ctypes.CDLL(str(library("executorch")))


def _version() -> str:
    return str(need("executorch.version").__version__)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without ExecuTorch's remarks about deprecated and experimental names, which are not the user's to mend.

    And without the history of every node: each of the fifty steps copies it, longer every time, for a fifth of the export.
    """
    from torch.fx.traceback import NodeSource

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), patch.object(NodeSource, "__deepcopy__", _itself, create=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What ExecuTorch's converter raises, in a line."""
    errors = need("executorch.exir.error")
    kinds = (errors.ExportError, errors.InternalError, RuntimeError, ValueError, TypeError, KeyError, AssertionError)
    try:
        yield
    except kinds as error:
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise EdgesegError(f"ExecuTorch {_version()} cannot convert the network: {words[:300]}") from error


def _itself(one: Any, memo: Any) -> Any:
    return one


def _flags() -> Flags:
    version = need("executorch.version")
    root = Path(str(version.__file__)).parent
    own = root / "include" / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    # as in the CMake file of the package, whose functions they change
    defined = ("C10_USING_CUSTOM_GENERATED_MACROS", "ET_EVENT_TRACER_ENABLED", "ET_USE_THREADPOOL")
    return Flags(
        (
            f"-isystem{root / 'include'}",
            f"-isystem{own}",
            *(f"-D{name}" for name in defined),
            f"-L{root / 'lib'}",
            "-lexecutorch",
            "-lexecutorch_threadpool",
        ),
        version.__version__,
    )


LIBRARIES.add("executorch", Library("executorch", "executorch.cc", _flags))
