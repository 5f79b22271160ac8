"""What `info` says is counted: on a network small enough to count by hand, and on every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError
from edgeseg.students.count import _Memory, _receptive_fields, card, profile
from edgeseg.students.student import Semantic, Stage
from tests.students.test_registry import families


class Two(Semantic):
    licence = paper = "none"

    def __init__(self) -> None:
        super().__init__(4)
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 4, 5, 1, 2, bias=False)
        self.feature_info = (Stage(8, 2), Stage(4, 2))

    def forward_features(self, image: Tensor) -> list[Tensor]:
        first = self.one(image)
        return [first, self.two(first)]

    def low_logits(self, image: Tensor) -> Tensor:
        return self.forward_features(image)[1]


def test_receptive_fields_are_those_of_the_kernels() -> None:
    assert _receptive_fields(Two(), torch.randn(1, 3, 64, 96)) == [[3, 3], [11, 11]]  # 3, and 3 + 4 steps of 2


def test_memory_is_what_is_alive_at_once() -> None:
    memory = _Memory()
    with memory, torch.no_grad():
        first = torch.zeros(256)
        second = first + 1
        view = second.view(16, 16)
        del first, second
        third = view * 2
        del view, third
        torch.zeros(300)
    assert (memory.peak, memory.now) == (2 * 256 * 4, 0)


@pytest.mark.parametrize("name", families())
def test_the_stages_add_up(name: str) -> None:
    size = (128, 192)
    made: dict[str, Any] = profile(name, 5, size)
    assert sum(each["macs"] for each in made["stages"]) == made["macs"] == card(name, 5, size)["macs"]
    assert made["activation_bytes"] > 0
    assert all(each["macs"] >= 0 for each in made["stages"])
    for each in made["features"]:
        assert all(0 < side <= whole for side, whole in zip(each["receptive_field"], size, strict=True))


def test_a_claim_that_is_not_what_was_counted_says_so() -> None:
    claims = {claim["what"]: claim["differs"] for claim in card("pp_mobileseg_base", 150, (512, 512))["claims"]}
    assert claims["parameters, 150 classes"] == "+5.8 %"
    assert claims["ADE20K val mIoU"] is None
    other = {claim["what"]: claim["differs"] for claim in card("pp_mobileseg_base", 19, (512, 512))["claims"]}
    assert other["parameters, 150 classes"] is None  # of another network than the one that was counted


def test_a_size_that_does_not_fit_is_one_clear_line() -> None:
    with pytest.raises(EdgesegError, match="pad to 64x72"):
        profile("ddrnet23_slim", 5, (60, 70))
