"""What is to be embedded by whom, and the shards that it makes: the same plan in every process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from edgeseg import schema
from edgeseg.data import Data, Split, load_data
from edgeseg.errors import EdgesegError
from edgeseg.provenance import MadeBy, made_by, versions
from edgeseg.runs import load_run, read_card
from edgeseg.schema import STRICT
from edgeseg.students import Semantic, Student
from edgeseg.students.sources import digest, from_source, is_source
from edgeseg.tars import key_of

SCHEMA = 1
MANIFEST = "embeddings.json"
ARRAY, NOTE = ".npy", ".json"
"""What a key's two files end with."""


@dataclass(frozen=True)
class Embeddings:
    """`embeddings.json`.

    sha256: of the teacher's weights.
    size:   (height, width) that images are fitted into, for a promptable teacher; null: images are taken as they are.
    shards: name of each tar file, and how many images it holds.
    batch, threads: as asked for; null `threads`: as many as PyTorch takes, null `batch`: neither was written down.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["embeddings"]
    edgeseg: MadeBy
    tools: dict[str, str]
    teacher: str
    sha256: str
    task: Literal["semantic", "promptable"]
    class_names: list[str]
    size: tuple[int, int] | None
    data: str
    split: str
    images: int
    shards: list[tuple[str, int]]
    batch: int | None = None
    threads: int | None = None


def teacher_of(folder: Path) -> Embeddings | None:
    """Who made what a folder holds; null where it holds no embeddings."""
    manifest = folder / MANIFEST
    return schema.read(Embeddings, manifest) if manifest.exists() else None


class Who(NamedTuple):
    """A teacher; `size` is the one that a promptable one takes, null where nobody says."""

    name: str
    sha256: str
    task: Literal["semantic", "promptable"]
    class_names: list[str]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Shard:
    """A tar file to make: the images `start` to `stop` of the split."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """A teacher, a split of a data set, and the folder that the shards go to.

    teacher:   the folder of a run, or a network from elsewhere (`edgeseg.students.sources`).
    per_shard: images in a shard, where the data does not come in shards of its own.
    trust:     import the module that the teacher's run names.
    size:      (height, width) that a promptable teacher's images are fitted into; null: as its run or its network says.
    weights, class_names: of a teacher from elsewhere, as for `distill`.
    batch:     images that the teacher looks at together, where they are of one size.
    threads:   of PyTorch; null: as many as it takes. Both change the last bits of what is made.
    """

    teacher: str
    data: str
    split_name: str | None
    out: Path
    per_shard: int = 256
    trust: bool = False
    size: tuple[int, int] | None = None
    weights: str | None = None
    class_names: tuple[str, ...] = ()
    batch: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise EdgesegError(f"batch must be at least 1, got {self.batch}")

    @cached_property
    def network(self) -> Student:
        """The teacher; slow to open, so only what needs it asks."""
        if is_source(self.teacher):
            return from_source(self.teacher, self.source.class_names, self.class_names, self.weights, self.trust)
        return load_run(self.teacher, trust=self.trust)

    @cached_property
    def card(self) -> Who:
        """Who the teacher is."""
        if not is_source(self.teacher):
            card = read_card(Path(self.teacher))
            return Who(card.name, card.sha256, card.task, card.class_names, card.size)
        one = self.network
        names = list(one.class_names) if isinstance(one, Semantic) else []
        side = getattr(one, "side", None)  # SAM's square
        return Who(one.name, digest(one), one.task, names, None if side is None else (side, side))

    @cached_property
    def source(self) -> Data:
        """The data set."""
        return load_data(self.data)

    @cached_property
    def split(self) -> Split:
        """The images, named once each."""
        split = self.source.split(self.split_name or self.source.fit)
        if len(set(split.names)) < len(split):
            twice = next(name for name in split.names if split.names.count(name) > 1)
            raise EdgesegError(f"{self.data}: two images are called {twice}; rename one of them")
        return split

    @cached_property
    def keys(self) -> list[str]:
        """The keys of the images in the tar files."""
        return [key_of(name) for name in self.split.names]

    @cached_property
    def shards(self) -> list[Shard]:
        """The shards to make: those that the data has, or equal ones."""
        parts: list[tuple[str, int]] | None = getattr(self.split, "parts", None)
        if parts is None:
            total = len(self.split)
            starts = range(0, total, self.per_shard)
            parts = [(f"{n:05d}.tar", min(self.per_shard, total - at)) for n, at in enumerate(starts)]
        made, at = [], 0
        for name, count in parts:
            made.append(Shard(name, at, at + count))
            at += count
        return made

    def begin(self) -> None:
        """Write `embeddings.json` if it is not there, and compare."""
        if not (self.out / MANIFEST).exists():
            schema.write(self.out / MANIFEST, self.manifest())
        self.compare(making=True)

    def compare(self, making: bool = False) -> None:
        """Nothing when the `embeddings.json` that is there is of this job.

        making: more is to be made, by the same sums in the same order, so that a stopped job ends as one that was not.

        Raises:
            EdgesegError: the folder holds what another teacher made, or of other images, or in another way.
        """
        before, now = (asdict(one) for one in (schema.read(Embeddings, self.out / MANIFEST), self.manifest()))
        way = ("batch", "threads")
        apart = ("edgeseg", "tools", *(() if making and before["batch"] is not None else way))
        for key, value in now.items():
            if key not in apart and before[key] != value:
                raise EdgesegError(
                    f"{self.out} was begun with another {key} ({before[key]!r:.60}, now {value!r:.60}); "
                    + (f"go on with --{key} as it was, or choose" if key in way and before[key] else "choose")
                    + " another --out"
                )

    def manifest(self) -> Embeddings:
        """What `embeddings.json` says of this job."""
        size = self.size or self.card.size
        if self.card.task == "promptable" and size is None:
            raise EdgesegError(f"{self.teacher} does not say which size it takes; name one with --size")
        if self.card.task == "semantic" and self.size is not None:
            raise EdgesegError("a semantic teacher sees images as they are; --size is for promptable ones")
        return Embeddings(
            schema=SCHEMA,
            kind="embeddings",
            edgeseg=made_by(),
            tools=versions("torch", "numpy"),
            teacher=self.card.name,
            sha256=self.card.sha256,
            task=self.card.task,
            class_names=list(self.card.class_names),
            size=size if self.card.task == "promptable" else None,
            data=self.source.spec,
            split=self.split_name or self.source.fit,
            images=len(self.split),
            shards=[(shard.name, shard.stop - shard.start) for shard in self.shards],
            batch=self.batch,
            threads=self.threads,
        )
