"""What a frozen teacher makes of every image, written down once: tar shards of float16 arrays that a student learns from.

    embeddings.json                 who the teacher is, what was looked at, which shards that makes
    00000.tar                       KEY.npy, KEY.json, KEY.npy, ... in the order of the data; or the names of the data's own shards

The array of a semantic teacher is its logits `[K, h, w]` at the head's own resolution, of the whole image, padded at the right and
bottom to a size that it takes; that of a promptable one is its embedding of the image, `[C, h, w]`, fitted into
the size of the run. Nothing is pickled. A shard is either whole or not there.
"""

from edgeseg.embed.job import Embeddings, Job, Shard, teacher_of
from edgeseg.embed.reading import Embedded, problems
from edgeseg.embed.work import work

__all__ = ["Embedded", "Embeddings", "Job", "Shard", "problems", "teacher_of", "work"]
