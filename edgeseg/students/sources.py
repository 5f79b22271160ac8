"""Teachers that are no run of edgeseg: `transformers:`, `smp:` and `package.module:factory`, each as a student that is not trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeseg.errors import EdgesegError, need
from edgeseg.pictures import distinct_colours
from edgeseg.runs import load_weights, read_weights
from edgeseg.students import Promptable, Student
from edgeseg.students.external import External, external, mend_torchvision
from edgeseg.students.student import upsample


class Queries(nn.Module):
    """A network that answers with masks and a class for each (Mask2Former, Cheng et al., arXiv 2112.01527), as logits of classes.

    Their own way to a label of each pixel: sum over queries of the probability of a class, nothing left out, times that of the pixel;
    the logarithm of that sum, so that a softmax gives the shares back.

    task: `[1, T]`, the tokens of what is asked, where one network does several tasks (OneFormer, Jain et al., arXiv 2211.06220).
    """

    task: Tensor | None

    def __init__(self, net: Any, task: Tensor | None = None) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("task", task, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 3, H, W]` to `[B, classes, H / 4, W / 4]`."""
        asked = {} if self.task is None else {"task_inputs": self.task.expand(len(image), -1)}
        net: Any = self.net
        made = net(pixel_values=image, **asked)
        classes = made.class_queries_logits.softmax(-1)[..., :-1]
        sums = torch.einsum("bqc,bqhw->bchw", classes, made.masks_queries_logits.sigmoid())
        return sums.clamp_min(1e-6).log()


class Sam(Promptable):
    """Segment Anything (Kirillov et al., arXiv 2304.02643) as transformers has it, for images of any size; an earlier mask is not read."""

    licence = "its author's"
    paper = "arXiv 2304.02643"
    embedding = "seen"

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.seen = net, nn.Identity()
        self.side = int(net.config.prompt_encoder_config.image_size)
        self.masks = int(net.config.mask_decoder_config.num_multimask_outputs)

    def _inner(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) of an image fitted into the square, in whole cells of the masks."""
        scale = self.side / max(size)
        height, width = (max(4, round(side * scale / 4) * 4) for side in size)
        return min(height, self.side), min(width, self.side)

    def embed(self, image: Tensor) -> tuple[Tensor, ...]:
        """The embedding of the square that the image is fitted into, at its top left."""
        height, width = self._inner(image.shape[-2:])
        square = F.pad(upsample(image, (height, width)), (0, self.side - width, 0, self.side - height))
        made = self._look(square)
        cell = self.side // made[-1].shape[-1]
        self.seen(made[-1][..., : -(-height // cell), : -(-width // cell)])  # what of it shows the image
        return made

    def _look(self, square: Tensor) -> tuple[Tensor, ...]:
        """The embedding, and before it what else the masks are made of."""
        return (self.net.vision_encoder(square)[0],)

    def low_masks(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        points: Tensor,
        labels: Tensor,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits at a quarter of the square's size, of the part that shows the image, and quality."""
        count = len(points)
        height, width = self._inner(size)
        coder = self.net.prompt_encoder
        # from the middles of pixels to shares of the square: the half pixel that SAM adds is in them
        places = points * points.new_tensor([width / size[1], height / size[0]]) / self.side
        kinds = torch.cat(list(coder.point_embed.parameters()))
        told = coder.shared_embedding(places[:, None]) + kinds[labels.long().clamp_min(0)][:, None]
        tokens = torch.where((labels < 0)[:, None, :, None], coder.not_a_point_embed.weight, told)
        *finer, image = (each.expand(count, -1, -1, -1) for each in maps)
        masks, quality, *_ = self.net.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=self.net.get_image_wide_positional_embeddings().expand(count, -1, -1, -1),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=coder.no_mask_embed.weight[0, :, None, None].expand_as(image),
            multimask_output=True,
            **({"high_resolution_features": finer} if finer else {}),
        )
        return masks[:, 0, :, : height // 4, : width // 4], quality[:, 0]


class Sam2(Sam):
    """SAM 2 (Ravi et al., arXiv 2408.00714) for single images, which are stretched to its square; nothing of a video is remembered."""

    paper = "arXiv 2408.00714"

    def _inner(self, size: Sequence[int]) -> tuple[int, int]:
        return self.side, self.side

    def _look(self, square: Tensor) -> tuple[Tensor, ...]:
        made: list[Tensor] = self.net.get_image_embeddings(square)
        return tuple(made)


SAMS: dict[str, tuple[type[Sam], str]] = {
    "sam": (Sam, "SamModel"),
    "sam2": (Sam2, "Sam2Model"),
    "sam2_video": (Sam2, "Sam2Model"),  # what the authors' checkpoints on the Hub say they are
}
"""What a configuration says it is of -> how it is asked, and transformers' class."""


def from_transformers(source: str, classes: int, weights: Path | None) -> Student:
    """The trained network in a folder, or under a name on the Hub: one for semantic segmentation, Mask2Former's kind, OneFormer, SAM or SAM 2."""
    mend_torchvision()
    transformers = need("transformers")
    if weights is not None:
        raise EdgesegError(
            f"transformers:{source} has its weights beside its configuration; leave --teacher-weights out"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        prepared = _prepared(transformers, source)
        if config.model_type in SAMS:
            kind, name = SAMS[config.model_type]
            student: Student = kind(getattr(transformers, name).from_pretrained(source).eval())
        elif "ForUniversalSegmentation" in (config.architectures or [""])[0]:
            task = _semantic(transformers, source, config.task_seq_len) if config.model_type == "oneformer" else None
            net = Queries(transformers.AutoModelForUniversalSegmentation.from_pretrained(source).eval(), task)
            student = External(len(config.id2label), net)
        else:
            net = transformers.AutoModelForSemanticSegmentation.from_pretrained(source).eval()
            student = External(len(config.id2label), net)
    except (OSError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EdgesegError(f"transformers cannot load {source!r}: {why:.200}") from error
    student.mean, student.std = prepared or (student.mean, student.std)
    names = [str(config.id2label[index]) for index in range(student.classes)] if student.task == "semantic" else []
    if names and not all(name.startswith("LABEL_") for name in names):
        student.describe(names, distinct_colours(len(names)))
    return student


def _semantic(transformers: Any, source: str, length: int) -> Tensor:
    """The words that OneFormer is asked for classes with, `[1, length]`, as its own processor makes tokens of them: 0 behind the end."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    made = tokenizer(["the task is semantic"], padding="max_length", max_length=length, truncation=True)
    return torch.tensor(made["input_ids"]) * torch.tensor(made["attention_mask"])


def _prepared(transformers: Any, source: str) -> tuple[Any, Any] | None:
    """Mean and standard deviation that its images are prepared with, where it says so."""
    mixin = transformers.image_processing_utils.ImageProcessingMixin
    try:
        stated, _ = mixin.get_image_processor_dict(source)
    except OSError:
        return None
    if stated.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if "image_mean" in stated and "image_std" in stated:
        return tuple(stated["image_mean"]), tuple(stated["image_std"])
    return None


def from_smp(source: str, classes: int, weights: Path | None) -> Student:
    """segmentation_models_pytorch: a folder that its `save_pretrained` wrote, or ARCHITECTURE/ENCODER with a file of weights."""
    mend_torchvision()
    smp = need("segmentation_models_pytorch")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise EdgesegError(
                f"smp:{source} has no config.json; give a folder that the network's save_pretrained wrote"
            )
        try:
            net = smp.from_pretrained(str(folder)).eval()
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise EdgesegError(f"segmentation_models_pytorch cannot load {folder}: {error!s:.200}") from error
        head = [part for part in net.segmentation_head.modules() if isinstance(part, nn.Conv2d)]
        return External(head[-1].out_channels, net)
    architecture, slash, encoder = source.partition("/")
    if not slash:
        raise EdgesegError(f"smp:{source} is no folder; give one, or ARCHITECTURE/ENCODER, e.g. smp:unet/resnet18")
    if weights is None:
        raise EdgesegError(f"smp:{source} has learned nothing yet; name its weights with --teacher-weights")
    try:
        net = smp.create_model(architecture, encoder, encoder_weights=None, classes=classes).eval()
    except (KeyError, ValueError, RuntimeError) as error:
        why = str(error).strip("'\"").splitlines()[0]
        raise EdgesegError(f"segmentation_models_pytorch has no {source!r} ({why:.200})") from error
    return External(classes, net)


SOURCES: dict[str, Callable[[str, int, Path | None], Student]] = {"smp": from_smp, "transformers": from_transformers}
"""What stands before the colon -> what opens the teacher; anything else before it is a module with a factory."""


def is_source(teacher: str) -> bool:
    """Whether a teacher is named by a source or a module, rather than by the folder of a run."""
    return ":" in teacher and not Path(teacher).exists()


def from_source(
    teacher: str, names: Sequence[str], class_names: Sequence[str] = (), weights: str | None = None, trust: bool = False
) -> Student:
    """The network that a teacher's name stands for, in evaluation mode.

    names:       the data's classes.
    class_names: the teacher's own, where they are neither in its configuration nor the data's.
    weights:     a file of weights, for networks that come without.

    Raises:
        EdgesegError: it cannot be found or loaded, or nobody says what its classes are.
    """
    source, _, what = teacher.partition(":")
    file = Path(weights) if weights is not None else None
    count = len(class_names or names)
    student = SOURCES[source](what, count, file) if source in SOURCES else external(teacher, count, trust)
    student.name = teacher
    if file is not None:
        _fill(student, file)
    if student.task == "semantic":
        own = tuple(class_names) or (student.class_names if _told(student) else tuple(names))
        if len(own) != student.classes:
            raise EdgesegError(
                f"the teacher {teacher} has {student.classes} classes, and {len(own)} names are known for them; "
                "name them in its order with --teacher-classes"
            )
        student.describe(own, distinct_colours(len(own)))
    return student.eval()


def _told(student: Student) -> bool:
    return student.class_names[0] != "class_0"


def _fill(student: Student, file: Path) -> None:
    """Load weights whose names are those of the network inside."""
    state = read_weights(file)
    load_weights(student, {f"net.{key}": value for key, value in state.items()}, str(file))


def digest(student: nn.Module) -> str:
    """The SHA-256 of all weights and their names."""
    total = hashlib.sha256()
    for name, value in sorted(student.state_dict().items()):
        total.update(f"{name} {list(value.shape)} {value.dtype}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
