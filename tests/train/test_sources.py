"""Teachers that are no runs: small networks of random weights, written as their libraries write them, answer here as they do there."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeseg.cli import main
from edgeseg.data import Data, load_data
from edgeseg.embed import Embedded
from edgeseg.errors import EdgesegError
from edgeseg.runs import read_card
from edgeseg.students import Promptable
from edgeseg.students.external import External, mend_torchvision
from edgeseg.students.sources import Sam, Sam2, digest, from_source
from edgeseg.train.teacher import PromptTeacher, Teacher
from edgeseg.train.teaching import Teaching
from edgeseg.train.teaching.logits import Kd
from tests.conftest import TINY

NAMES = ("road", "sky", "car")


def picture(height: int = 64, width: int = 96) -> Tensor:
    made = np.random.default_rng(0).integers(0, 256, (1, 3, height, width), np.uint8)
    return torch.from_numpy(made)


@pytest.fixture(scope="module")
def transformers() -> Any:
    mend_torchvision()
    return pytest.importorskip("transformers", reason="the extra `transformers` is not installed")


@pytest.fixture(scope="module")
def segformer(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    stated = {"image_processor_type": "SegformerImageProcessor", "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated), encoding="utf-8")
    return folder


def test_segformer_answers_as_its_library_says(transformers: Any, segformer: Path) -> None:
    student = from_source(f"transformers:{segformer}", ("a", "b"))
    assert student.class_names == NAMES
    assert student.mean == (0.5, 0.4, 0.3)
    net = transformers.SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)
    with torch.inference_mode():
        wanted = net(pixel_values=(picture() / 255 - mean) / 0.2).logits
        made = student.low_logits(student.normalise(picture()))  # type: ignore[operator]
    assert torch.allclose(made, wanted, atol=1e-5)


def test_it_teaches_and_its_modules_are_maps(segformer: Path) -> None:
    spec = f"transformers:{segformer}"
    teaching = Teaching(spec, digest(from_source(spec, NAMES)), losses=(Kd(),))
    teacher = Teacher(teaching, ("Sky", "road", "car"))
    view = teacher.view(picture(), (8, 12), ("net.decode_head.linear_fuse",))
    assert view.logits.shape == (1, 3, 8, 12)
    assert view.maps["net.decode_head.linear_fuse"].shape == (1, 16, 16, 24)
    with pytest.raises(EdgesegError, match="does not say what its stages are; name a module"):
        teacher.view(picture(), (8, 12), (-1,))
    with pytest.raises(EdgesegError, match="has other weights than the recipe says"):
        Teacher(replace(teaching, sha256="0" * 64), NAMES)
    with pytest.raises(EdgesegError, match="does not know tree"):
        Teacher(teaching, ("tree", "sky"))


def test_mask2former_s_masks_become_logits(transformers: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=5,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
    )  # fmt: skip
    net = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    net.save_pretrained(tmp_path)
    student = from_source(f"transformers:{tmp_path}", NAMES)
    normal = student.normalise(picture(96, 96))
    with torch.inference_mode():
        made = student.low_logits(normal)  # type: ignore[operator]
        outputs = net(pixel_values=normal)
        classes, masks = outputs.class_queries_logits.softmax(-1)[0], outputs.masks_queries_logits.sigmoid()[0]
    assert made.shape == (1, 3, 24, 24)
    for k, y, x in ((0, 0, 0), (1, 11, 7), (2, 23, 20)):
        wanted = sum(float(classes[q, k]) * float(masks[q, y, x]) for q in range(5))
        assert float(made[0, k, y, x].exp()) == pytest.approx(wanted, rel=1e-4)


@pytest.fixture(scope="module")
def oneformer(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that knows letters alone."""
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.OneFormerConfig(
        backbone_config=backbone, conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=16,
        dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=5, query_dec_layers=1,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("oneformer")
    transformers.OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    transformers.CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


def test_oneformer_is_asked_for_classes(transformers: Any, oneformer: Path) -> None:
    """With the tokens that its library's processor makes, and not those of another task."""
    student: Any = from_source(f"transformers:{oneformer}", NAMES)
    net = transformers.OneFormerForUniversalSegmentation.from_pretrained(oneformer).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(oneformer)
    words = transformers.OneFormerProcessor._preprocess_text(
        SimpleNamespace(tokenizer=tokenizer), ["the task is semantic"]
    )
    assert torch.equal(student.net.task, words)
    assert 15 < int((words > 0).sum()) < 30
    normal = student.normalise(picture(96, 96)).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        made = student.low_logits(normal)
        outputs = net(pixel_values=normal, task_inputs=words.repeat(2, 1))
        classes, masks = outputs.class_queries_logits.softmax(-1)[..., :-1], outputs.masks_queries_logits.sigmoid()
    assert torch.allclose(made.exp(), torch.einsum("bqc,bqhw->bchw", classes, masks), rtol=1e-4)
    assert made.shape == (2, 3, 24, 24)
    assert digest(student) == digest(from_source(f"transformers:{oneformer}", NAMES))


def test_a_network_that_wants_more_than_the_image_is_one_line() -> None:
    class Two(nn.Module):
        multiple = 8

        def forward(self, image: Tensor, task: Tensor) -> Tensor:
            return image

    with pytest.raises(EdgesegError, match=r"cannot be asked with an image .* alone \(.*missing 1 .*'task'\)"):
        External(3, Two()).low_logits(torch.zeros(1, 3, 8, 8))
    Two.multiple = 0  # so that it is tried out
    with pytest.raises(EdgesegError, match="cannot be asked with an image"):
        External(3, Two())


@pytest.fixture(scope="module")
def sam(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    vision = transformers.SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=128, patch_size=16,
        window_size=4, global_attn_indexes=[0], num_pos_feats=8, mlp_dim=16,
    )  # fmt: skip
    prompt = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=128, patch_size=16, mask_input_channels=4)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    folder = tmp_path_factory.mktemp("sam")
    transformers.SamModel(config).save_pretrained(folder)
    return folder


def test_sam_answers_as_its_library_says(transformers: Any, sam: Path) -> None:
    """Clicks, and a box: a square image, so that nothing is resized or padded."""
    student = from_source(f"transformers:{sam}", ())
    assert isinstance(student, Sam)
    net = transformers.SamModel.from_pretrained(sam).eval()
    normal = student.normalise(picture(128, 128))
    points = torch.tensor([[[20.5, 30.5], [70.5, 90.5]], [[10.5, 100.5], [64.5, 64.5]]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    empty = torch.zeros(2, 1, 2), torch.full((2, 1), -1.0)  # what SAM appends where there is no box
    with torch.inference_mode():
        wanted = net(pixel_values=normal, input_points=points[None] - 0.5, input_labels=labels[None].long())
        features = student.encode(normal)
        made, quality = student.low_masks(
            features.maps, features.size, torch.cat([points, empty[0]], 1), torch.cat([labels, empty[1]], 1)
        )
        box = net(pixel_values=normal, input_boxes=torch.tensor([[[9.5, 19.5, 59.5, 79.5]]]))
        boxed, _ = student.low_masks(
            features.maps, features.size, torch.tensor([[[10.0, 20], [60, 80]]]), torch.tensor([[2.0, 3.0]])
        )
    assert torch.allclose(made, wanted.pred_masks[0], atol=1e-4)
    assert torch.allclose(quality, wanted.iou_scores[0], atol=1e-5)
    assert torch.allclose(boxed, box.pred_masks[0], atol=1e-4)


def test_sam_s_embeddings_are_written_down(transformers: Any, sam: Path, tmp_path: Path) -> None:
    loud = transformers.SamModel.from_pretrained(sam)
    for weight in loud.vision_encoder.parameters():
        if weight.ndim > 1:
            weight.data.normal_(std=0.2)  # fresh ones are 1e-10, which float16 does not have
    loud.save_pretrained(sam := tmp_path / "sam")
    data = "synthetic_objects:size=64x96,train=2,val=1,test=1"
    assert main(f"embed --teacher transformers:{sam} --data {data} --out {tmp_path / 'out'}".split()) == 0
    embedded = Embedded(tmp_path / "out")
    assert embedded.manifest.size == (128, 128)  # SAM's own square
    assert embedded.manifest.sha256 == digest(from_source(f"transformers:{sam}", ["thing"]))
    look = embedded.look(embedded.places(["train-00001"])[0])
    assert (look.image, look.seen) == ((64, 96), (96, 96))
    import cv2

    image = load_data(data).split("train").image(1)
    net = transformers.SamModel.from_pretrained(sam).eval()
    square = np.full((128, 128, 3), (124, 116, 104), np.uint8)  # the mean colour
    square[:85] = cv2.resize(image, (128, 85), interpolation=cv2.INTER_LINEAR)
    student = from_source(f"transformers:{sam}", ["thing"])
    with torch.inference_mode():
        wanted = net.get_image_embeddings(student.normalise(torch.from_numpy(square).permute(2, 0, 1)[None]))
    assert torch.allclose(torch.from_numpy(look.array).float(), wanted[0], atol=2e-3 * float(wanted.abs().max()))


def test_sam_teaches_images_of_any_shape(sam: Path) -> None:
    spec = f"transformers:{sam}"
    teacher = PromptTeacher(Teaching(spec, digest(from_source(spec, ())), losses=(Kd(),)))
    assert isinstance(teacher.network, Promptable)
    features, maps = teacher.look(picture(64, 96), ("embedding",))
    assert maps["embedding"].shape == (1, 16, 6, 8)  # 128 wide, 85 high, in cells of 16
    masks, _ = teacher.answer(features, torch.tensor([[[50.0, 30.0]]]), torch.ones(1, 1), None)
    assert masks.shape == (1, 1, 64, 96)


@pytest.fixture(scope="module")
def sam2(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=16, image_size=128, patch_size=16, mask_input_channels=4)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    net = transformers.Sam2Model(config)
    for weight in net.parameters():
        weight.data.normal_(
            std=0.2
        )  # fresh ones leave nothing of an image, and of the video's embedding nothing at all
    folder = tmp_path_factory.mktemp("sam2")
    net.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["sam2", "sam2_video"])
def test_sam2_answers_as_its_library_says(transformers: Any, sam2: Path, tmp_path: Path, kind: str) -> None:
    """Clicks and a box in an image that is no square, by the library's own way of preparing both."""
    shutil.copytree(sam2, folder := tmp_path / "sam2")
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**stated, "model_type": kind}), encoding="utf-8")
    student = from_source(f"transformers:{folder}", ())
    assert isinstance(student, Sam2)
    net = transformers.Sam2Model.from_pretrained(sam2).eval()
    image = picture(64, 96)
    points = torch.tensor([[[20.5, 30.5], [70.5, 50.5]], [[10.5, 10.5], [64.5, 44.5]]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    box = torch.tensor([[[10.0, 20.0], [60.0, 50.0]]])
    empty = torch.zeros(2, 1, 2), torch.full((2, 1), -1.0)  # what SAM appends behind
    grow = torch.tensor([128 / 96, 128 / 64])
    with torch.inference_mode():
        normal = student.normalise(image)
        square = torch.nn.functional.interpolate(normal, (128, 128), mode="bilinear")
        wanted = net(pixel_values=square, input_points=points[None] * grow - 0.5, input_labels=labels[None].long())
        features = student.encode(normal)
        made, quality = student.low_masks(
            features.maps, features.size, torch.cat([points, empty[0]], 1), torch.cat([labels, empty[1]], 1)
        )
        boxed, _ = student.low_masks(
            features.maps, features.size, torch.cat([box, empty[0][:1]], 1), torch.tensor([[2.0, 3.0, -1.0]])
        )
        asked = net(pixel_values=square, input_boxes=(box * grow - 0.5).reshape(1, 1, 4))
    assert made.shape == (2, 3, 32, 32)
    assert float(wanted.pred_masks.std()) > 0.1
    assert torch.allclose(made, wanted.pred_masks[0], atol=1e-4)
    assert torch.allclose(quality, wanted.iou_scores[0], atol=1e-5)
    assert torch.allclose(boxed, asked.pred_masks[0], atol=1e-4)


def test_sam2_teaches_embeddings_and_masks(sam2: Path, tmp_path: Path) -> None:
    """A live teacher of images of any shape; then a student learns from it by the verb, and its embeddings are written down."""
    spec = f"transformers:{sam2}"
    teacher = PromptTeacher(Teaching(spec, digest(from_source(spec, ())), losses=(Kd(),)))
    features, maps = teacher.look(picture(64, 96), ("embedding",))
    assert maps["embedding"].shape == (1, 16, 8, 8)  # the whole picture, stretched
    masks, _ = teacher.answer(features, torch.tensor([[[50.0, 30.0]]]), torch.ones(1, 1), None)
    assert masks.shape == (1, 1, 64, 96)
    data = "synthetic_objects:size=64x64,train=4,val=1,test=1"
    more = "--epochs 1 --loss embedding,masks --set batch=2 --set workers=0 --set norm_batches=0 --set prompts.clicks=1"
    words = f"distill rwkv_sam_tiny --teacher {spec} --data {data} --out {tmp_path / 'run'} --threads 1 {more}"
    assert main(words.split()) == 0
    assert main(f"embed --teacher {spec} --data {data} --out {tmp_path / 'out'}".split()) == 0
    embedded = Embedded(tmp_path / "out")
    assert embedded.manifest.size == (128, 128)
    look = embedded.look(embedded.places(["train-00001"])[0])
    assert look.array.shape == (16, 8, 8)
    assert float(look.array.std()) > 0.01


def test_smp_answers_as_its_library_says(tmp_path: Path) -> None:
    mend_torchvision()
    smp = pytest.importorskip("segmentation_models_pytorch", reason="the extra `smp` is not installed")
    torch.manual_seed(0)
    net = smp.FPN("resnet18", encoder_weights=None, classes=3, decoder_pyramid_channels=16).eval()
    net.save_pretrained(str(tmp_path / "fpn"))
    student = from_source(f"smp:{tmp_path / 'fpn'}", NAMES)
    normal = student.normalise(picture())
    with torch.inference_mode():
        assert torch.allclose(student.low_logits(normal), net(normal), atol=1e-5)  # type: ignore[operator]
    assert (student.classes, student.class_names, student.multiple) == (3, NAMES, 32)
    plain = smp.create_model("fpn", "resnet18", encoder_weights=None, classes=3)
    save_file(plain.state_dict(), tmp_path / "fpn.safetensors")
    made = from_source("smp:fpn/resnet18", NAMES, weights=str(tmp_path / "fpn.safetensors"))
    assert all(torch.equal(value, made.state_dict()[f"net.{key}"]) for key, value in plain.state_dict().items())
    with pytest.raises(
        EdgesegError, match=r"has no config\.json; give a folder that the network's save_pretrained wrote"
    ):
        from_source(f"smp:{tmp_path}", NAMES)
    with pytest.raises(EdgesegError, match="has learned nothing yet; name its weights"):
        from_source("smp:fpn/resnet18", NAMES)
    with pytest.raises(EdgesegError, match="is no folder; give one, or ARCHITECTURE/ENCODER"):
        from_source("smp:nowhere", NAMES)
    with pytest.raises(EdgesegError, match="has no 'fpm/resnet18'"):
        from_source("smp:fpm/resnet18", NAMES, weights="x.safetensors")


class Mine(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.conv(image)
        return made


def test_a_module_teaches_by_the_verb(tmp_path: Path, tiny_data: Data, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_teacher.py").write_text(
        "import torch\nfrom tests.train.test_sources import Mine\n\n\ndef net(classes):\n    return Mine(classes)\n"
    )
    save_file(Mine(len(tiny_data.class_names)).state_dict(), tmp_path / "mine.safetensors")
    sys.path.insert(0, str(tmp_path))
    try:
        words = (
            f"--trust my_teacher distill lraspp_mobilenet_v3_small --teacher my_teacher:net --data {TINY} --epochs 1"
        )
        more = "--loss kd --set batch=8 --set workers=0 --set norm_batches=0"
        folders = ["--out", str(tmp_path / "run"), "--teacher-weights", str(tmp_path / "mine.safetensors")]
        assert main([*words.split(), *more.split(), *folders]) == 0, capfd.readouterr().err
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("my_teacher", None)
    training = read_card(tmp_path / "run").training
    assert training is not None
    assert len(training.recipe["teaching"]["sha256"]) == 64


def test_what_a_teacher_cannot_be_is_one_line(tmp_path: Path, segformer: Path) -> None:
    with pytest.raises(EdgesegError, match="no factory 'no_such_module:net'"):
        from_source("no_such_module:net", NAMES, trust=True)
    with pytest.raises(EdgesegError, match="would import no_such_module, which runs its code"):
        from_source("no_such_module:net", NAMES)
    with pytest.raises(EdgesegError, match=r"has 3 classes, and 2 names are known for them; .*--teacher-classes"):
        from_source(f"transformers:{segformer}", NAMES, ("a", "b"))
    with pytest.raises(EdgesegError, match="transformers cannot load"):
        from_source(f"transformers:{tmp_path}", NAMES)
    with pytest.raises(EdgesegError, match="leave --teacher-weights out"):
        from_source(f"transformers:{segformer}", NAMES, weights="x")
