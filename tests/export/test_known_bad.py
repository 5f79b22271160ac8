"""Every row of the table of operators that converters get wrong finds its operator, and only in the form that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.errors import EdgesegError
from edgeseg.export.known_bad import TABLE, KnownBad, refuse_known_bad

Rule = Callable[[Tensor], Tensor]

WRONG: dict[str, Rule] = {
    "antialiased bilinear resizing": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    "GELU in its tanh form": lambda x: F.gelu(x, approximate="tanh"),
    "average pooling with ceil_mode": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "attention over three dimensions": lambda x: F.scaled_dot_product_attention(x[0], x[0], x[0]),
    "adaptive maximum pooling": lambda x: F.adaptive_max_pool2d(x, 2),
    "one_hot": lambda x: F.one_hot(x.argmax(1), 3),
    "topk": lambda x: x.topk(2, 1).values,
    "logcumsumexp": lambda x: x.logcumsumexp(2),
}
"""What a row is about -> something that has it."""

RIGHT: list[Rule] = [
    lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    F.gelu,
    lambda x: F.avg_pool2d(x, 3, 2),
    lambda x: F.scaled_dot_product_attention(x, x, x),
]


class Ruled(nn.Module):
    """One operator in a module of its own."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, image: Tensor) -> Tensor:
        return self.rule(image)


def program(rule: Rule) -> torch.export.ExportedProgram:
    return torch.export.export(nn.Sequential(Ruled(rule)), (torch.zeros(1, 3, 8, 8),), strict=False)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_each_row_refuses_its_operator_for_its_targets_alone(row: KnownBad) -> None:
    wrong = program(WRONG[row.what])
    for target in ("onnxruntime", "openvino", "litert", "coreml", "tensorrt", "executorch", "ncnn"):
        if target not in row.targets:
            refuse_known_bad(wrong, target)
            continue
        with pytest.raises(EdgesegError) as error:
            refuse_known_bad(wrong, target)
        assert str(error.value).startswith(f"{target} {row.targets[target]}: {row.what} in 0")
        assert row.instead in str(error.value)


@pytest.mark.parametrize("rule", RIGHT, ids=["bilinear", "gelu", "avg_pool", "attention"])
def test_the_same_operator_in_another_form_is_let_through(rule: Rule) -> None:
    right = program(rule)
    for target in ("litert", "coreml", "executorch", "ncnn"):
        refuse_known_bad(right, target)
