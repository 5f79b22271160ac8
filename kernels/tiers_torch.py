"""The tiers of PyTorch, and the C++ under it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from edgeseg.errors import need
from edgeseg.kernels.build import library
from edgeseg.kernels.tier import Run, Work, tier


@tier("C++")
def _host(work: Work) -> Run:
    from edgeseg.kernels import native

    native.host()
    feeds, case = work.feeds(), work.case
    if work.name == "label_map":
        return lambda: native.label_map(feeds["logits"], case.high, case.align_corners, work.threads)
    if work.name == "wkv":
        return lambda: native.wkv(*feeds.values(), causal=case.causal, threads=work.threads)
    return lambda: native.selective_scan(*feeds.values(), threads=work.threads)


@tier("PyTorch operator")
def _torch(work: Work) -> Run:
    torch = need("torch")
    from edgeseg.kernels.torch_native import usable

    if not usable():
        library("host")  # its error says what is missing
    return _in_torch(work, torch, operators()[work.name])


@tier("PyTorch plain")
def _plain(work: Work) -> Run:
    torch = need("torch")
    from torch.nn.functional import interpolate

    from edgeseg.kernels.selective_scan.forms import scan_plain
    from edgeseg.kernels.wkv.forms import form_of, wkv_plain

    def wkv(decay: Any, bonus: Any, key: Any, value: Any, causal: bool) -> Any:
        w, u, k, v = (each.float() for each in (decay, bonus, key, value))
        return wkv_plain(w, u, k, v, causal, form_of(w, k, causal)).to(value.dtype)

    def scan(*six: Any) -> Any:
        return scan_plain(*(each.float() for each in six)).to(six[0].dtype)

    def label_map(logits: Any, height: int, width: int, align: bool) -> Any:
        full = interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=align)
        return full.argmax(1).to(torch.uint8)

    return _in_torch(work, torch, {"wkv": wkv, "selective_scan": scan, "label_map": label_map}[work.name])


def operators() -> dict[str, Callable[..., Any]]:
    """The operators in PyTorch by name, all of them for half precision too."""
    from edgeseg.kernels.label_map.torch_op import label_map
    from edgeseg.kernels.selective_scan.torch_op import selective_scan
    from edgeseg.kernels.wkv.torch_op import wkv

    def scan(*six: Any) -> Any:
        return selective_scan(*(each.float() for each in six)).to(six[0].dtype)  # float32 alone

    return {"wkv": wkv, "selective_scan": scan, "label_map": label_map}


def _in_torch(work: Work, torch: Any, function: Callable[..., Any]) -> Run:
    tensors, attributes = [torch.from_numpy(array) for array in work.feeds().values()], work.attributes()

    def run() -> Any:
        with torch.inference_mode():
            return function(*tensors, *attributes)

    return lambda: on_threads(work.threads, run)


def on_threads(count: int, run: Callable[[], Any]) -> NDArray[Any]:
    """The tensor that `run` makes while PyTorch has so many threads."""
    torch = need("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        made: NDArray[Any] = run().numpy()
    finally:
        torch.set_num_threads(before)
    return made
