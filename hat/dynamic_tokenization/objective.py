"""Training with tokens that are merged anew for every step.

A step draws rows of the training text, counts a table of merges in them (with noise: a sampled
tokenizer, arXiv 2405.07883 section 3.2), draws how many of them it takes (arXiv 2411.18553 section
3.3), and reads its batch in merged tokens. What is minimised is the cross-entropy of the next merged
token over all base tokens and all of the step's table. Either the model itself is trained, with rows
of merged tokens that are made of their parts or those of a given hypernetwork, or the hypernetwork
is, and the model stays as it is.

The table is that of the step, not of its rows: it is drawn from the seed and the number of the batch
alone, so that every process has the same one, and a resumed run too.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hat.data.mixture import prepare_mixture
from hat.dynamic_tokenization.base import check_hypernetwork, read_base
from hat.dynamic_tokenization.boundaries import Encoded, check_boundary, piece_starts
from hat.dynamic_tokenization.embeddings import hypernetwork, pad_parts, source_of, untrained
from hat.dynamic_tokenization.measure import symbol_bytes
from hat.dynamic_tokenization.merging import (
    MergeTable,
    apply_in_place,
    largest_reduction,
    learn,
)
from hat.dynamic_tokenization.model import MergedLlama, merged_params
from hat.errors import UserError
from hat.inference.run import load_rule
from hat.models.hypernetwork import RowPredictor, RowPredictorConfig
from hat.models.model import Batch, LanguageModel, Params
from hat.text.rows import Row, expand_tokens
from hat.text.tokenizers import Tokenizer
from hat.training.checkpoints import read_params
from hat.training.config import DynamicConfig
from hat.training.experiment import Experiment
from hat.training.init import latest_step
from hat.training.objectives import HostBatch, Loss, Measures, Objective
from hat.training.run_folder import read_experiment
from hat.training.sharding import with_shardings

HELD_OUT_SHARE = 0.5  # of the reduction that a table reaches, where text is measured


class Dynamic(Objective):
    """The objective of a `DynamicConfig`.

    base: number of the first merged token. pool: rows of token ids and segments int32 [P, T], of
    which a step draws those that it counts. frozen_model, folder: what is read and not trained (the
    base of a hypernetwork, or a hypernetwork), and the folder of its run; None: nothing is.
    """

    def __init__(
        self,
        config: DynamicConfig,
        tokenizer: Tokenizer,
        base: int,
        pool: HostBatch,
        seed: int,
        frozen_model: LanguageModel | None = None,
        folder: Path | None = None,
    ):
        self._config, self._tokenizer, self._base, self._seed = config, tokenizer, base, seed
        self._frozen_model, self._folder = frozen_model, folder
        # Where a hypernetwork makes the rows, it reads the parts alone.
        way = config.rows if frozen_model is None else "mean"
        self._predictor, self._known = untrained(way, tokenizer)
        self._most_parts = config.most_parts + (way == "suffix")
        self._pool = [self._encoded(*row) for row in zip(pool["tokens"], pool["segment"])]
        if frozen_model is not None:
            self.frozen = jax.eval_shape(
                frozen_model.compute_params, frozen_model.abstract_params()
            )
            self.frozen_axes = frozen_model.logical_axes()

    @classmethod
    def open(cls, experiment: Experiment, read_text: bool = True) -> Dynamic:
        """read_text: whether there is text to count merges in; without it there are none, in
        batches of the same shapes. UserError: `base` is not set, or is no Llama; a hypernetwork of
        another model; data that are no plain text."""
        config, model = experiment.training.objective, experiment.model
        if experiment.base is None:
            raise UserError("base is not set: give the run whose tokens are merged, --set base=RUN")
        check_boundary(config.boundary)
        base = read_base(experiment.base)
        if experiment.data.format != "text":
            raise UserError(f"data.format {experiment.data.format!r}: tokens of text alone are merged")
        if isinstance(model, RowPredictorConfig):
            check_hypernetwork("model", experiment, base.model)
            if config.hypernetwork is not None:
                raise UserError("training.objective.hypernetwork: this run trains one itself")
            frozen, folder = base.model.build(), Path(experiment.base)
        elif config.hypernetwork is not None:
            folder = Path(config.hypernetwork)
            frozen = check_hypernetwork(folder, read_experiment(folder), model).build()
        else:
            frozen = folder = None
        rows, tokenizer = 0, None
        if read_text:
            mixture = prepare_mixture(experiment.data)
            corpus, tokenizer = mixture.corpora[-1][0], mixture.tokenizer
            rows = min(config.pool_rows, corpus.num_rows("train"))
        pool = corpus.rows("train", range(rows)) if rows else {"tokens": (), "segment": ()}
        return cls(
            config, tokenizer or load_rule(experiment.base), model.num_ids, pool,
            experiment.training.seed, frozen, folder,
        )  # fmt: skip

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """The step of what is not trained: it may have been trained on since this run began."""
        return {} if self._folder is None else {"frozen_step": latest_step(self._folder)}

    def read_frozen(self, shardings: Params) -> Params:
        if self._folder is None:
            return {}
        return read_params(self._folder, with_shardings(self.frozen, shardings))[0]

    # --- on the host ------------------------------------------------------------------------------

    def annotate(self, batch: HostBatch, number: int) -> HostBatch:
        """The rows in merged tokens, and the table of batch `number`: unit_parts [B, M, L], equal in
        every row, unit_count [B], and base_length [B], the positions that there were."""
        return self._merge(batch, self.table(number))

    def annotate_held_out(self, batch: HostBatch) -> HostBatch:
        return self._merge(batch, self._held_out_table)

    def table(self, number: int) -> MergeTable:
        """The merges of a step."""
        rng = np.random.default_rng([self._seed, number])
        share = 0.5 + rng.normal() / 6 if self._config.law == "gaussian" else rng.random()
        return self._learn(rng, float(np.clip(share, 0, 1)), self._config.noise)

    @functools.cached_property
    def _held_out_table(self) -> MergeTable:
        """Of the training text, so that held-out text owes nothing for it."""
        return self._learn(np.random.default_rng([self._seed, 2**40]), HELD_OUT_SHARE, 0.0)

    def _learn(self, rng: np.random.Generator, share: float, noise: float) -> MergeTable:
        config = self._config
        drawn = rng.integers(len(self._pool), size=config.sample_rows) if self._pool else []
        table = learn(
            [self._pool[i] for i in drawn], self._base, merges=config.most_merges,
            least_count=2, most_parts=config.most_parts, noise=noise, seed=int(rng.integers(2**31)),
        )  # fmt: skip
        return table.first(table.merges_for(share * largest_reduction(table)))

    def _encoded(self, tokens: np.ndarray, segment: np.ndarray) -> Encoded:
        """A row without its padding; nothing merges with BOS and EOT."""
        tokens, segment = tokens[segment > 0], segment[segment > 0]
        opened = np.zeros(len(tokens), bool)
        lengths = self._tokenizer.byte_lengths[tokens]
        for number in range(1, int(segment.max(initial=0)) + 1):
            places = np.flatnonzero((segment == number) & (lengths > 0))
            text = self._tokenizer.decode(tokens[places])
            if not text:
                continue
            firsts = np.cumsum(lengths[places]) - lengths[places]
            opened[places] = ~piece_starts(text, self._tokenizer, self._config.boundary)[firsts]
        return Encoded(tokens, opened)

    def _merge(self, batch: HostBatch, table: MergeTable) -> HostBatch:
        size, length = batch["tokens"].shape
        token_bytes = symbol_bytes(self._tokenizer, self._base, table)
        rows = []
        for tokens, segment in zip(batch["tokens"], batch["segment"]):
            symbols = apply_in_place(table, [self._encoded(tokens, segment)])
            kept = symbols >= 0
            lengths = np.bincount(segment[segment > 0][kept])[1:].astype(np.int32)
            row = Row(symbols[kept], lengths)
            rows.append(expand_tokens(row, length, token_bytes, self._tokenizer.pad))
        parts = pad_parts(
            self._known(table.parts()), self._most_parts, self._config.most_merges
        )
        merged = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return batch | merged | {
            "unit_parts": np.broadcast_to(parts, (size, *parts.shape)).copy(),
            "unit_count": np.full(size, len(table), np.int32),
            "base_length": (batch["segment"] > 0).sum(axis=1, dtype=np.int32),
        }

    # --- on the device ----------------------------------------------------------------------------

    def loss(self, stage: int, frozen: Params) -> Loss:
        def loss(model, params, batch):
            sums, ratios = self.measure(model, params, batch, frozen)
            return sums.nats, (sums, ratios)

        return loss

    def measure(
        self, model: LanguageModel, params: Params, batch: Batch, frozen: Params
    ) -> Measures:
        """Bits per byte in merged tokens, and the share of the positions that is left."""
        trains_rows = isinstance(model, RowPredictor)
        base, base_params = (self._frozen_model, frozen) if trains_rows else (model, params)
        source, parts = source_of(base, base_params), batch["unit_parts"][0]
        if trains_rows:
            rows = hypernetwork(model, params, self._tokenizer)(source, parts)
        elif self._frozen_model is not None:
            rows = hypernetwork(self._frozen_model, frozen, self._tokenizer)(source, parts)
        else:
            rows = self._predictor(source, parts)
        whole = merged_params(base_params, rows, batch["unit_count"][0])
        sums = MergedLlama(base.config).loss(whole, batch)
        before = batch["base_length"].sum().astype(np.float32)
        return sums, {"positions_left": (sums.words, before)}
