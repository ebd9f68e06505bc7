"""What a run reads: one corpus, or several in given shares, in rows of one length or of several."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hat.data.config import DataConfig, SourceConfig, weight_phases
from hat.data.corpus import INFO_FILE, Corpus, stack
from hat.data.prepare import Progress, Warn, prepare_cached
from hat.data.schedule import Phases
from hat.data.splits import SPLITS
from hat.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The corpora that a run reads: of every source, for every length of rows. Most runs have one.

    corpora[b][s]: rows of lengths[b] from the source named names[s]; lengths rise.
    bucket_phases, source_phases: (step, weights from it on), of the lengths and of the sources.
    Rows of a split are numbered through, one corpus after the other.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]
    corpora: tuple[tuple[Corpus, ...], ...]
    bucket_phases: Phases
    source_phases: Phases

    @classmethod
    def of(cls, corpus: Corpus) -> Mixture:
        """The mixture of a single corpus."""
        alone = ((0, (1.0,)),)
        return cls(("all",), (corpus.info.row_length,), ((corpus,),), alone, alone)

    @property
    def num_ids(self) -> int:
        """Rows that the embedding needs."""
        return self.corpora[0][0].info.num_ids

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What spelled the rows of all corpora, or None for rows of bytes in words."""
        return self.corpora[0][0].tokenizer

    @property
    def fingerprint(self) -> str:
        """Names the bytes and how they are cut; of a single corpus its own."""
        prints = [corpus.info.fingerprint for corpus in self._flat]
        if len(prints) == 1:
            return prints[0]
        return hashlib.sha256(" ".join(prints).encode()).hexdigest()[:32]

    def num_rows(self, split: str) -> int:
        return self._ends[split][-1]

    def first_row(self, split: str, bucket: int, source: int) -> int:
        """The number of the first row of a corpus."""
        at = bucket * len(self.names) + source
        return self._ends[split][at - 1] if at else 0

    def rows(self, split: str, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """A batch of these rows, all of one length: int32 arrays [B, T] and [B, N]."""
        found = []
        for number in map(int, numbers):
            at = bisect.bisect_right(self._ends[split], number)
            first = self._ends[split][at - 1] if at else 0
            found.append(self._flat[at].row(split, number - first))
        return stack(found)

    def evaluated(self, split: str) -> dict[str, Corpus]:
        """By source, the rows of the greatest length, where the split has any: what is not trained
        on is packed in these alone."""
        found = dict(zip(self.names, self.corpora[-1]))
        return {name: corpus for name, corpus in found.items() if corpus.num_rows(split)}

    def describe(self) -> list[str]:
        """A line for every corpus, where there are several."""
        if len(self._flat) == 1:
            return []
        return [
            f"{name}, rows of {length} ids: {info.rows:,} rows, {info.bytes:,} bytes"
            for length, corpora in zip(self.lengths, self.corpora)
            for name, corpus in zip(self.names, corpora)
            for info in [corpus.info.splits["train"]]
        ]

    @functools.cached_property
    def _flat(self) -> list[Corpus]:
        return [corpus for corpora in self.corpora for corpus in corpora]

    @functools.cached_property
    def _ends(self) -> dict[str, list[int]]:
        """By split, the number after the last row of every corpus."""
        return {
            split: np.cumsum([corpus.num_rows(split) for corpus in self._flat]).tolist()
            for split in SPLITS
        }


def prepare_mixture(
    config: DataConfig,
    progress: Progress = lambda stage, done, total: None,
    warn: Warn = lambda text: None,
) -> Mixture:
    """The corpora of a config, prepared where they are not there yet (`prepare_cached`).

    A source may be a folder that `hat prepare` wrote; with buckets, one that holds such a folder
    for every length, named by it. UserError as `prepare_cached`.
    """
    sources = config.mixture or (SourceConfig(name="all", source=config.source),)
    lengths = tuple(bucket.length for bucket in config.buckets) or (config.row_length,)
    corpora = {
        length: tuple(
            prepare_cached(of_length(config, source.source, length), None, progress, warn)
            for source in sources
        )
        for length in reversed(lengths)  # the longest first: it refuses what fits no bucket
    }
    return Mixture(
        tuple(source.name for source in sources),
        lengths,
        tuple(corpora[length] for length in lengths),
        weight_phases(config.buckets) if config.buckets else ((0, (1.0,)),),
        weight_phases(sources),
    )


def of_length(config: DataConfig, source: str, length: int) -> DataConfig:
    """The config of one corpus: a source, in the bucket of rows of `length`."""
    prepared = Path(source).expanduser() / str(length)
    return dataclasses.replace(
        config,
        source=str(prepared) if config.buckets and (prepared / INFO_FILE).is_file() else source,
        mixture=(),
        row_length=length,
        row_words=config.words_of(length),
    )
