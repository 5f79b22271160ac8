"""Training that knows of the rounding: a few epochs with rounded weights and activations, taught by the float student.

The network is trained as it is deployed, BatchNorm folded, with gradients that pass the rounding as if it were not there
(Bengio et al., arXiv:1308.3432; Jacob et al., arXiv:1712.05877). What comes out is a run of the same student: its weights are
quantized for any target like those of every other run, only that they lose less.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from edgeseg.data import Data
from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Deployed
from edgeseg.export.target import Target
from edgeseg.metrics import VOID
from edgeseg.parity import Progress
from edgeseg.quantize.calibration import CalibrationSet
from edgeseg.quantize.document import Quantization
from edgeseg.quantize.graph import WEIGHTED, keys, plan, rounded_weight, traced
from edgeseg.quantize.post_training import calibrate, feeds
from edgeseg.quantize.scheme import BOUNDS, Recipe, scheme_for
from edgeseg.runtimes import pixels
from edgeseg.students import Semantic


@dataclass(frozen=True)
class Aware:
    """How it is trained.

    lr:     of Adam, falling to 0 as half a cosine.
    labels: the weight of the true labels beside the teacher's logits.
    """

    epochs: int = 2
    batch: int = 4
    lr: float = 5e-5
    labels: float = 0.3
    seed: int = 0


class _Rounded(nn.Module):
    """A weight as it is when it is stored in 8 bits, which the gradient does not see."""

    def forward(self, weight: Tensor) -> Tensor:
        whole, scale = rounded_weight(weight)
        real = whole * scale.view(-1, *([1] * (weight.ndim - 1)))
        return weight + (real - weight).detach()


def train_aware(
    student: Semantic,
    target: Target,
    chosen: CalibrationSet,
    recipe: Recipe,
    data: Data,
    size: tuple[int, int],
    how: Aware | None = None,
    progress: Progress | None = None,
) -> Semantic:
    """A copy of a semantic student that has learned to be rounded as it will be for a target; ranges are those of `chosen`.

    Raises:
        EdgesegError: the loss is not finite any more.
    """
    how = how or Aware()
    torch.manual_seed(how.seed)
    learner = Deployed(student, size, ("pre",))
    teacher = copy.deepcopy(learner.student)
    assert isinstance(teacher, Semantic)
    recipe = replace(recipe, equalise=False)  # what it learns is in its own weights, which it evens out itself
    made = calibrate(learner, target.name, target.precision, recipe, feeds(learner, chosen))
    graph = _rounding(learner, made, how.batch)
    weights = list(graph.parameters())
    for each in weights:
        each.requires_grad_()
    part = data.split(data.fit)
    steps = how.epochs * (len(part) // how.batch)
    optimizer = torch.optim.Adam(weights, how.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for step, (images, labels) in enumerate(_batches(learner, data, how), 1):
        with torch.no_grad():
            wanted = teacher.low_logits(learner.normalised(images))
        logits = graph(images)
        loss = _loss(logits, wanted, labels, how.labels)
        if not torch.isfinite(loss):
            raise EdgesegError(f"the loss is {loss.item()} at step {step}; take a smaller learning rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step, steps)
    return _unfolded(student, learner.student, graph)


def _loss(logits: Tensor, wanted: Tensor, labels: Tensor, share: float) -> Tensor:
    """Kullback and Leibler's divergence from the teacher, and the cross entropy of the true labels."""
    taught = F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="none").sum(1).mean()
    large = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    true: Tensor = F.cross_entropy(large, labels, ignore_index=VOID)
    return taught + share * true


def _batches(learner: Deployed, data: Data, how: Aware) -> Iterator[tuple[Tensor, Tensor]]:
    """Images as the network takes them and their labels, each half of the time as in a mirror."""
    import cv2

    part, spec, rng = data.split(data.fit), learner.input_spec(), np.random.default_rng(how.seed)
    for _ in range(how.epochs):
        order = rng.permutation(len(part))
        for at in range(0, len(part) - how.batch + 1, how.batch):
            images, truths = [], []
            for index in order[at : at + how.batch]:
                image, truth = part[int(index)]
                given = torch.from_numpy(pixels.prepare(image, spec))
                small = cv2.resize(truth, learner.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
                known = torch.from_numpy(np.asarray(small)).long()[None]
                flip = rng.random() < 0.5
                images.append(given.flip(2) if flip else given)
                truths.append(known.flip(-1) if flip else known)
            yield torch.cat(images), torch.cat(truths)


class _Low(nn.Module):
    """A network up to its logits, before they are enlarged."""

    def __init__(self, network: Deployed) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.student.low_logits(self.network.normalised(image))


def _rounding(learner: Deployed, made: Quantization, batch: int) -> GraphModule:
    """The network's graph for a batch, up to the low logits, with what rounds its weights and activations in it."""
    graph = traced(_Low(learner), (torch.zeros(batch, *learner.size, 3, dtype=torch.uint8),))
    scheme = scheme_for(made.target, made.precision)
    chosen = plan(graph, scheme, made.recipe)
    graph.add_module("rounded", _Rounded())
    for unit in chosen.units:
        weight = unit.node.args[1]
        if unit.kind in WEIGHTED and isinstance(weight, Node):
            with graph.graph.inserting_before(unit.node):
                real = graph.graph.call_module("rounded", (weight,))
            unit.node.replace_input_with(weight, real)
    if scheme.activations is not None:
        low, high = BOUNDS[scheme.activations]
        names = keys(graph)
        for value in chosen.groups:
            scale, zero = made.scales[names[value]]
            with graph.graph.inserting_after(value):
                rounded = graph.graph.call_function(torch.fake_quantize_per_tensor_affine)
            value.replace_all_uses_with(rounded)
            rounded.args = (value, scale, zero, low, high)
    graph.graph.lint()
    graph.recompile()
    return graph


def _unfolded(student: Semantic, folded: nn.Module, graph: GraphModule) -> Semantic:
    """The student with the trained weights of its folded graph: a BatchNorm that was folded now only adds the bias.

    BatchNorm with mean 0, variance 1 - eps and weight 1 is x + bias.
    """
    trained = {name.removeprefix("network.student."): value.detach() for name, value in graph.named_parameters()}
    made = copy.deepcopy(student)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name in trained and trained[name].shape == value.shape:
                value.copy_(trained[name])
        for path, module in made.named_modules():
            for (first, conv), (second, norm) in pairwise(module.named_children()):
                at = f"{path}.{first}" if path else first
                beside = f"{path}.{second}" if path else second
                gone = isinstance(norm, nn.BatchNorm2d) and isinstance(folded.get_submodule(beside), nn.Identity)
                if not (gone and isinstance(conv, nn.Conv2d)):
                    continue
                assert isinstance(norm, nn.BatchNorm2d)
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
                norm.weight.fill_(1)
                norm.bias.copy_(trained[f"{at}.bias"])
                if conv.bias is not None:
                    conv.bias.zero_()
    return made.eval()
