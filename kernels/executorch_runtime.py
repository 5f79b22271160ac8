"""Networks with our operators as programs of ExecuTorch: ours as its kernels, or as standard operators. XNNPACK gets the rest."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import attrgetter, getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, need
from edgeseg.kernels.build import LIBRARIES, Flags, Library, library

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgeseg.kernels.wkv.forms import Form


@dataclass(frozen=True)
class Program:
    """What ExecuTorch executes, for inputs of one size.

    code:      the contents of a `.pte` file.
    plugin:    it calls our kernels, so it runs only where they are registered.
    delegated: the share of its operators that XNNPACK executes; ExecuTorch's own kernels and ours do the others.
    """

    code: bytes
    plugin: bool
    delegated: float


def to_executorch(network: nn.Module, inputs: tuple[Tensor, ...], plugin: bool) -> Program:
    """The program of a network, with our operators as our kernels (`plugin`) or as standard operators.

    Raises:
        MissingTool: ExecuTorch is not installed.
        EdgesegError: the decay of a wkv depends on the input, so that no form of standard operators can be chosen for it.
    """
    import torch

    with _quietly():
        exir = need("executorch.exir")
        partitioner = need("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()
        # the caller's arrays are read in place
        planning = exir.passes.MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        exported = _folded(torch.export.export(network, inputs))
        if plugin:
            _define_out_variants()
        else:
            exported = torch.export.export(_in_standard_operators(exported), inputs)
        edge = exir.to_edge_transform_and_lower(exported, partitioner=[partitioner])
        made = edge.to_executorch(exir.ExecutorchBackendConfig(memory_planning_pass=planning))
    return Program(bytes(made.buffer), plugin, _delegated(edge.exported_program().graph_module))


def _folded(exported: Any) -> Any:
    """The exported program with what depends on weights alone computed now: decays, and what ExecuTorch has no kernel for."""
    folded = need("executorch.exir.passes.constant_prop_pass").constant_prop_pass(exported)
    for name, constant in folded.constants.items():
        folded.constants[name] = constant.detach()  # a Parameter here would not be found again
    return folded


@cache
def _define_out_variants() -> Any:
    """Tell PyTorch of `wkv.out` and the others, which the exporter puts in the places of `wkv`; nobody ever calls them.

    Returns what must be kept: without it they are gone.
    """
    from torch.library import Library

    definitions = Library("edgeseg", "FRAGMENT")
    for operator in _bodies():
        name, _, rest = str(operator._schema).removeprefix("edgeseg::").partition("(")
        given, _, _ = rest.rpartition(") ->")
        definitions.define(f"{name}.out({given}, *, Tensor(a!) out) -> Tensor(a!)")
    return definitions


def _in_standard_operators(exported: Any) -> nn.Module:
    """The network of an exported program with its constants folded, without nodes of ours.

        wkv(decay, bonus, key, value, causal) -> amax, sub, exp, mul, matmul, ..., div

    The form of each wkv is chosen from the decays at its place.
    """
    import torch

    from edgeseg.kernels.wkv.forms import form_for

    network: nn.Module = exported.module()
    graph: Any = network.graph
    bodies = _bodies()
    for node in graph.nodes:
        if node.target is torch.ops.edgeseg.wkv.default:
            if node.args[0].op != "get_attr":
                raise EdgesegError("the decay of a wkv depends on the input; only a trained decay can be exported")
            decay, tokens = attrgetter(node.args[0].target)(network), node.meta["val"].shape[1]
            node.args = (*node.args, form_for(decay * tokens, preferred="chunk"))
        node.target = bodies.get(node.target, node.target)
    network.recompile()  # type: ignore[operator]
    return network


def _bodies() -> dict[Any, Callable[..., Tensor]]:
    """Our operators, and what they are made of."""
    from torch import ops

    import edgeseg.kernels.label_map.torch_op  # noqa: F401 (each defines its operator)
    import edgeseg.kernels.selective_scan.torch_op  # noqa: F401
    import edgeseg.kernels.wkv.torch_op  # noqa: F401
    from edgeseg.kernels.selective_scan.forms import scan_plain

    ours = ops.edgeseg
    return {ours.wkv.default: _wkv, ours.selective_scan.default: scan_plain, ours.label_map.default: _label_map}


def _wkv(decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, causal: bool, form: Form) -> Tensor:
    from edgeseg.kernels.wkv.forms import wkv_plain

    return wkv_plain(decay, bonus, key.float(), value.float(), causal, form).to(value.dtype)


def _label_map(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    import torch
    from torch.nn.functional import interpolate

    full = interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=align_corners)
    return full.permute(0, 2, 3, 1).argmax(3).to(torch.uint8)  # with the classes innermost it takes two thirds as long


def _delegated(network: Any) -> float:
    """The share of the operators that lie in delegated parts."""

    def operators(graph: Any) -> int:
        return sum(node.op == "call_function" and node.target is not getitem for node in graph.nodes)

    parts = [part for _, part, _ in need("executorch.exir.lowered_backend_module").get_lowered_submodules(network)]
    inside = sum(operators(part.original_module.graph) for part in parts)
    return inside / (inside + operators(network.graph) - len(parts))


def load(program: Program, threads: int) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """What runs a program.

    threads: for every program in this process, since ExecuTorch has one pool for all of them.

    Raises:
        MissingTool: ExecuTorch is not installed, or a compiler for our kernels.
        EdgesegError: an operator without a kernel; from a run: inputs that the program was not exported for.
    """
    with _quietly():
        bindings = need("executorch.extension.pybindings.portable_lib")
        runtime = need("executorch.runtime").Runtime.get()
    if bindings._threadpool_get_thread_count() != threads:
        bindings._unsafe_reset_threadpool(threads)
    # a second registration would end the process
    if program.plugin and "edgeseg::wkv.out" not in runtime.operator_registry.operator_names:
        ctypes.CDLL(str(library("executorch")))
    loaded = runtime.load_program(program.code)
    try:
        loaded.load_method("forward")
    except RuntimeError as error:
        raise EdgesegError(
            f"ExecuTorch: {error}; what it printed names an operator that it has no kernel for"
        ) from error

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        try:
            made: list[Tensor] = loaded.load_method("forward").execute(inputs)
        except RuntimeError as error:
            got = ", ".join(f"{each.dtype} {list(each.shape)}" for each in inputs)
            raise EdgesegError(f"ExecuTorch: {error}; got {got}: run what the program was exported for") from error
        return made

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without ExecuTorch's remarks about deprecated and experimental names, which are not the user's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
