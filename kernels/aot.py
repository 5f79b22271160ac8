"""Every Triton kernel for every GPU, compiled without one: `python -m edgeseg.kernels.aot [87 ...]` prints what each needs.

Needs Triton only, whose wheel brings NVIDIA's assembler. A kernel that spills registers is slow; the tests refuse it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from edgeseg.kernels.selective_scan import triton_scan as scan
from edgeseg.kernels.wkv import triton_scan as wkv

ARCHS = (80, 87, 89, 90, 110)
"""A100, Jetson Orin, RTX 40, H100, Jetson Thor."""

TYPED = {"KEY", "VALUE", "RESULT", "GRAD", "OUT", "GKEY", "GVALUE"}
"""Arguments of wkv that have the type of its values; everything else that is in capitals points to float32."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with the constants it is launched with.

    element: of the operator's values, as Triton writes it.
    aligned: the channels are a multiple of 16, so that several of them are one load.
    """

    function: Any
    constants: dict[str, Any] = field(hash=False)
    element: str = "fp32"
    aligned: bool = True

    def __str__(self) -> str:
        operator = self.function.fn.__module__.split(".")[-2]
        options = wkv.OPTIONS | scan.OPTIONS
        given = " ".join(f"{name}={int(value)}" for name, value in self.constants.items() if name not in options)
        return f"{operator} {self.function.fn.__name__} {self.element}{'' if self.aligned else ' odd'} {given}"

    def source(self) -> ASTSource:
        """What Triton compiles."""
        signature, hints = {}, {}
        for index, name in enumerate(self.function.arg_names):
            if name in self.constants:
                signature[name] = "constexpr"
            elif name.isupper():
                signature[name] = f"*{self.element if name in TYPED else 'fp32'}"
            else:
                signature[name] = "i32"
            if signature[name].startswith("*") or (name == "channels" and self.aligned):
                hints[index,] = [["tt.divisibility", 16]]
        return ASTSource(self.function, signature, self.constants, hints)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one GPU; spills in bytes per thread, written and read."""

    kernel: str
    arch: int
    registers: int
    spills: int
    shared_bytes: int
    cubin_bytes: int

    def __str__(self) -> str:
        return f"{self.kernel:58} sm_{self.arch:<4}{self.registers:4}{self.spills:7}{self.shared_bytes:7}{self.cubin_bytes:8}"


HEADER = f"{'kernel':58} arch   regs spills shared   cubin"


def kernels() -> Iterator[Kernel]:
    """All kernels, in the forms that take most."""
    size: dict[str, Any] = {"CB": wkv.OPTIONS["CB"]}
    here, back = size | {"L": wkv.CHUNK}, size | {"L": wkv.GRAD_CHUNK}
    forms = [*product(("fp32", "fp16", "bf16"), (False, True), (True,)), ("fp32", False, False)]
    for element, causal, aligned in forms:
        sides = 1 if causal else 2
        yield Kernel(wkv.fold, here | {"PARTS": 3, "SIDES": sides}, element, aligned)
        yield Kernel(wkv.fold, back | {"PARTS": 2, "SIDES": sides}, element, aligned)
        for function, chunk in ((wkv.mean, here), (wkv.weigh, back), (wkv.gather, back)):
            yield Kernel(function, chunk | {"CAUSAL": causal}, element, aligned)
    yield Kernel(wkv.carry, here | {"PARTS": 3, "FIRST": 0, "SIGNED": False})
    yield Kernel(wkv.carry, back | {"PARTS": 2, "FIRST": 0, "SIGNED": False})
    for first in (0, 1):
        yield Kernel(wkv.carry, back | {"PARTS": 5, "FIRST": first, "SIGNED": True})
    size = {"DB": scan.OPTIONS["DB"]}
    most = scan.STATES
    for block, many, aligned in ((1, False, True), (most, False, True), (most, True, True), (most, False, False)):
        for going_back in (False, True) if not many else ():
            yield Kernel(scan.fold, size | {"BACK": going_back, "NB": block}, aligned=aligned)
        for whole in (False, True):
            yield Kernel(scan.scan, size | {"WHOLE": whole, "MANY": many, "NB": block}, aligned=aligned)
    for going_back in (False, True):
        yield Kernel(scan.carry, size | {"BACK": going_back})
    yield Kernel(scan.grads, size | {"L": scan.GRAD_CHUNK})


def compiled(kernel: Kernel, arch: int) -> Usage:
    """The kernel compiled for compute capability `arch`, and what it takes there."""
    log = io.StringIO()
    with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(log):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True  # the assembler says nothing about what comes from a cache
        options = {"num_warps": 1, "enable_fp_fusion": True}
        made = triton.compile(kernel.source(), target=GPUTarget("cuda", arch, 32), options=options)
    text = log.getvalue()
    registers, spills = re.search(r"Used (\d+) registers", text), re.findall(r"(\d+) bytes spill", text)
    if registers is None or not spills:
        raise RuntimeError(f"the assembler's report on {kernel} for sm_{arch} says nothing about registers:\n{text}")
    cubin = len(made.asm["cubin"])
    return Usage(str(kernel), arch, int(registers[1]), sum(map(int, spills)), made.metadata.shared, cubin)


def main(archs: list[int]) -> int:
    """Print the table; 1 where something spills."""
    print(HEADER)
    spilled = 0
    for arch, kernel in product(archs, kernels()):
        usage = compiled(kernel, arch)
        spilled += usage.spills > 0
        print(usage, flush=True)
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]] or list(ARCHS)))
