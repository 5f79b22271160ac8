"""Batches for training, repeatable to the bit from any step, and images one by one for evaluation."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from os import cpu_count
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from edgeseg.data.augment import Augment
from edgeseg.data.base import Image, Labels, Split
from edgeseg.errors import EdgesegError

Batch: TypeAlias = tuple[Tensor, Tensor]
"""uint8 images `[B, 3, H, W]` stored channels-last, uint8 labels `[B, H, W]`."""

Placed: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""A batch and where its images are from, float64 `[B, 7]`: the number of each in its split, its height and width there, and the
place of the view in it (`edgeseg.data.augment.Place`)."""

Mixing: TypeAlias = Callable[[Tensor, Tensor, int], Batch]
"""`(images, labels, seed) -> (images, labels)`: mixes the images of a batch; pure, and run by the workers."""

T = TypeVar("T")

_ORDER, _VIEW, _MIX = range(3)  # what a random number is for


class Batches:
    """Shuffled, augmented batches of one process out of `world`; the last, partial one of an epoch is left out.

    Every random choice is a function of `seed`, the epoch and the place in it, so neither the number of workers nor an
    interruption changes a batch. Images that together fit `cache_bytes` are decoded once and shared with the workers.
    """

    def __init__(
        self,
        split: Split,
        augment: Augment,
        batch: int,
        seed: int,
        workers: int,
        cache_bytes: int = 1 << 30,
        rank: int = 0,
        world: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        if batch < 1 or workers < 0 or seed < 0:
            raise EdgesegError(f"batch {batch} must be at least 1, workers {workers} and seed {seed} at least 0")
        self._length = len(split) // (batch * world)
        if self._length == 0:
            raise EdgesegError(
                f"{len(split)} images do not fill one batch of {batch} on {world} processes; make the batch smaller"
            )
        self._steps = _Steps(self._length)
        self._maker = _Maker(cached(split, cache_bytes), augment, batch, seed, rank, world, mixing)
        self._loader: DataLoader[Placed | str] = DataLoader(
            self._maker,  # type: ignore[arg-type]
            sampler=self._steps,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # the global one would be drawn from, once per epoch begun or resumed
        )

    def __len__(self) -> int:
        """Batches per epoch and process."""
        return self._length

    def names(self, step: int) -> list[str]:
        """The images of the batch of a step, counted over all epochs."""
        return [self._maker.split.names[index] for index in self._maker.chosen(*divmod(step, self._length))]

    def forever(self, step: int) -> Iterator[Batch]:
        """The batches from a step on, counted over all epochs, without an end."""
        number, start = divmod(step, self._length)
        while True:
            yield from self.epoch(number, start)
            number, start = number + 1, 0

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the `start`-th on."""
        return ((images, labels) for images, labels, _ in self.placed(number, start))

    def placed(self, number: int, start: int = 0) -> Iterator[Placed]:
        """The same, and where their images are from."""
        self._steps.epoch, self._steps.start = number, start
        for made in self._loader:
            if isinstance(made, str):
                raise EdgesegError(made)
            yield made


class _Steps:
    """The keys (epoch, step) of the batches to make."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch, self.start = length, 0, 0

    def __len__(self) -> int:
        return max(0, self.length - self.start)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, step) for step in range(self.start, self.length))


class _Maker:
    """Makes a batch from its key, or says what went wrong; workers receive a copy."""

    def __init__(
        self, split: Split, augment: Augment, batch: int, seed: int, rank: int, world: int, mixing: Mixing | None
    ) -> None:
        self.split, self.view, self.mixing = split, augment.build(), mixing
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        self._order: tuple[int, NDArray[np.int64]] | None = None  # of the epoch last asked about

    def __getitem__(self, key: tuple[int, int]) -> Placed | str:
        try:
            return self._make(*key)
        except EdgesegError as error:
            return str(error)  # raised in a worker it would arrive wrapped in a traceback

    def chosen(self, epoch: int, step: int) -> list[int]:
        """The images of a batch."""
        if self._order is None or self._order[0] != epoch:  # of eleven million images it takes 0.3 s
            self._order = epoch, np.random.default_rng((self.seed, epoch, _ORDER)).permutation(len(self.split))
        turn = step * self.world + self.rank
        return self._order[1][turn * self.batch :][: self.batch].tolist()

    def _make(self, epoch: int, step: int) -> Placed:
        turn = step * self.world + self.rank
        made = [self._sample(epoch, index) for index in self.chosen(epoch, step)]
        sizes = {labels.shape for _, labels, _ in made}
        if len(sizes) > 1:
            raise EdgesegError(f"images of different sizes in one batch, {sorted(sizes)}; give the augmentation a crop")
        images = torch.from_numpy(np.stack([image for image, _, _ in made])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([labels for _, labels, _ in made]))
        if self.mixing:
            images, labels = self.mixing(images, labels, _number(self.seed, epoch, _MIX, turn))
        return images, labels, torch.tensor([view for _, _, view in made], dtype=torch.float64)

    def _sample(self, epoch: int, index: int) -> tuple[Image, Labels, tuple[float, ...]]:
        image, labels = self.split[index]
        seen, known, place = self.view(image, labels, _number(self.seed, epoch, _VIEW, index))
        return seen, known, (index, *labels.shape, *place)


def _number(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def _unchanged(made: Any) -> Any:
    return made


def _begin_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which then ends the workers


class _Decoded(Split):
    """A split in memory."""

    def __init__(self, names: tuple[str, ...], pairs: list[tuple[Image, Labels]]) -> None:
        self.names, self._pairs = names, pairs

    def __getitem__(self, index: int) -> tuple[Image, Labels]:
        return self._pairs[index]


def cached(split: Split, cache_bytes: int) -> Split:
    """The split decoded into memory if that takes at most `cache_bytes`, else the split itself."""
    if not len(split) or sum(array.nbytes for array in split[0]) * len(split) > cache_bytes:
        return split
    pairs: list[tuple[Image, Labels]] = []
    for image, labels, _ in evaluation(split, cpu_count() or 1):
        cache_bytes -= image.nbytes + labels.nbytes
        if cache_bytes < 0:  # the first one was smaller than the rest
            return split
        pairs.append((image, labels))
    return _Decoded(split.names, pairs)


def evaluation(split: Split, workers: int) -> Iterator[tuple[Image, Labels, str]]:
    """Every image with its labels and name, in order; `workers` threads read ahead (0: none)."""
    pairs = ahead(split.__getitem__, range(len(split)), workers)
    return ((*pair, name) for pair, name in zip(pairs, split.names, strict=True))


def ahead(read: Callable[[int], T], indices: Sequence[int], workers: int) -> Iterator[T]:
    """`read` of each index, in order; `workers` threads read ahead (0: none)."""
    if workers < 1:
        yield from map(read, indices)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        reads = (pool.submit(read, index) for index in indices)
        queue = deque(islice(reads, 2 * workers))
        for _ in indices:
            made = queue.popleft().result()
            queue.extend(islice(reads, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)  # a reader that is left early reads nothing more
