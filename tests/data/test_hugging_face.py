"""`hf:` on folders that `datasets` wrote; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from edgeseg.data import load_data
from edgeseg.data.augment import Augment
from edgeseg.data.check import check
from edgeseg.data.loader import Batches
from edgeseg.errors import EdgesegError, MissingTool

installed = importlib.util.find_spec("datasets") is not None
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of datasets itself
needs = pytest.mark.skipif(not installed, reason="needs the datasets extra: pip install 'edgeseg[datasets]'")


def write(folder: Path, splits: dict[str, int], columns: tuple[str, str] = ("pixel_values", "label")) -> None:
    """A data set of splits with so many images each; the masks have 0, 1, 2."""
    import datasets

    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))

    def table(count: int) -> Any:
        photos = [Pillow.fromarray(np.full((8, 10, 3), n, np.uint8)) for n in range(count)]
        masks = [Pillow.fromarray(np.resize(np.arange(3, dtype=np.uint8), (8, 10))) for _ in range(count)]
        return datasets.Dataset.from_dict(dict(zip(columns, (photos, masks), strict=True)), features=features)

    datasets.DatasetDict({name: table(count) for name, count in splits.items()}).save_to_disk(str(folder))


@needs
@pytest.mark.parametrize(
    ("splits", "parts"),
    [
        ({"train": 20, "validation": 3, "test": 4}, ("train", "validation", "test")),
        ({"train": 20, "validation": 3}, ("fit", "held", "validation")),
        ({"train": 20}, ("fit", "held", "test")),
        ({"validation": 20}, ("fit", "held", "test")),  # never what is learned from
        ({"test": 20}, ("fit", "held", "test")),
        ({"validation": 20, "test": 4}, ("fit", "held", "test")),
    ],
)
def test_splits_of_a_folder(tmp_path: Path, splits: dict[str, int], parts: tuple[str, str, str]) -> None:
    write(tmp_path, splits)
    data = load_data(f"hf:{tmp_path}")
    assert (data.fit, data.select, data.test) == parts
    assert data.class_names == ("class_0", "class_1", "class_2")
    assert check(data, list(data.splits)) == []
    seen = [{int(data.split(name)[i][0][0, 0, 0]) for i in range(len(data.split(name)))} for name in parts]
    if len(splits) == 1:
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    split = pickle.loads(pickle.dumps(data.split(data.fit)))
    image, labels = split[0]
    assert image.shape == (8, 10, 3)
    assert labels[0, :3].tolist() == [0, 1, 2]


@needs
def test_options_name_columns_and_void(tmp_path: Path) -> None:
    write(tmp_path, {"train": 20, "test": 2}, ("left", "right"))
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "unlabelled", "1": "road", "2": "sky"}))
    with pytest.raises(EdgesegError, match="image columns: left, right"):
        load_data(f"hf:{tmp_path}")
    data = load_data(f"hf:{tmp_path},image=left,labels=right,void=0")
    assert data.class_names == ("road", "sky")
    assert data.split("test")[0][1][0, :3].tolist() == [255, 0, 1]
    with pytest.raises(EdgesegError, match="no option of hf named 'label'; did you mean labels"):
        load_data(f"hf:{tmp_path},image=left,label=right")
    with pytest.raises(EdgesegError, match="void is an id"):
        load_data(f"hf:{tmp_path},image=left,labels=right,void=x")


@needs
def test_a_repository_as_the_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet files with the images in them, two for `train`, under `data`; a card that says which are of which split."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "made", {"train": 21, "validation": 3}, ("image", "annotation"))
    made, repository = datasets.load_from_disk(str(tmp_path / "made")), tmp_path / "repository"
    (repository / "data").mkdir(parents=True)
    for split, parts in (("train", 2), ("validation", 1)):
        for part in range(parts):
            table = made[split].shard(parts, part, contiguous=True)
            table.to_parquet(str(repository / "data" / f"{split}-{part:05d}-of-{parts:05d}.parquet"))
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    lines += [f"  - split: {split}\n    path: data/{split}-*" for split in made]
    (repository / "README.md").write_text("\n".join([*lines, "---", "# Streets", ""]), encoding="utf-8")
    (repository / "id2label.json").write_text(json.dumps({"0": "road", "1": "sky", "2": "car"}))
    data = load_data(f"hf:{repository}")
    assert (data.fit, data.select, data.test) == ("fit", "held", "validation")
    assert data.class_names == ("road", "sky", "car")
    assert check(data, list(data.splits)) == []
    learned = [data.split(name) for name in ("fit", "held")]
    assert sorted(int(split[i][0][0, 0, 0]) for split in learned for i in range(len(split))) == list(range(21))
    batches = Batches(data.split("fit"), Augment(crop=(8, 8)), batch=2, seed=0, workers=1)
    images, labels = next(batches.epoch(0))
    assert images.shape == (2, 3, 8, 8)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 255}


@needs
def test_what_is_no_data_set_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    for spec in (f"hf:{tmp_path / 'empty'}", f"hf:{tmp_path / 'none'}"):
        with pytest.raises(EdgesegError, match="hf:") as error:
            load_data(spec)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(installed, reason="datasets is installed")
def test_without_the_library_the_line_that_installs_it_is_said() -> None:
    with pytest.raises(MissingTool, match=r"pip install 'edgeseg\[datasets\]'"):
        load_data("hf:user/name")


def test_a_name_is_asked_for() -> None:
    with pytest.raises(EdgesegError, match="hf:USER/NAME"):
        load_data("hf:")


@pytest.mark.parametrize(
    "names", [["validation"], ["test"], ["validation", "test"], ["train", "validation"], ["train"]]
)
def test_what_is_learned_from_is_not_reported(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tables are called; without the library, on tables of row numbers."""
    from edgeseg.data import hugging_face
    from edgeseg.data.published import Classes

    monkeypatch.setattr(hugging_face, "_tables", lambda source: {name: range(30) for name in names})
    monkeypatch.setattr(hugging_face, "_columns", lambda *_: ("image", "labels"))
    monkeypatch.setattr(hugging_face, "_classes", lambda *_: Classes((0,), ("a",), ((0, 0, 0),)))
    data = load_data("hf:somebody/something")
    seen = {}
    for name in (data.fit, data.select, data.test):
        split: Any = data.split(name)
        seen[name] = {(split._where, row) for row in split.names}
    assert len(seen) == 3
    assert all(seen.values())
    assert not seen[data.fit] & seen[data.select]
    assert not seen[data.fit] & seen[data.test]
