"""Direct preference optimisation: of two answers, the chosen one is to gain over the rejected one.

Rafailov et al., arXiv 2305.18290. The reference is the model that the run began with. Its
log-probabilities are computed in every step, by a second copy of the parameters in the compute
dtype, sharded like the first: 2 bytes a parameter beside the 16 of a float32 state with gradients
and Adam's moments, and a third more work. Stored log-probabilities would spare both, for a pass
over the corpus before the first step, and for a file that must fit model, rows and order as long
as the run lasts.

Pairs are neighbouring segments of a row (hat.text.pairs), so that nothing here depends on how rows
are packed or batches are dealt out.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hat.models.model import Batch, LanguageModel, Params, sums_of
from hat.text.ids import SMALLEST_ROW
from hat.training.checkpoints import read_params
from hat.training.config import PreferenceConfig
from hat.training.experiment import Experiment
from hat.training.init import latest_step
from hat.training.objectives import Loss, Measures, Objective, Ratios
from hat.training.sharding import with_shardings


class Preference(Objective):
    """The objective of a `PreferenceConfig`. Bits per byte are those of the chosen answers."""

    divisor = "preference_loss"  # so that every pair weighs the same
    frozen_is_init = True

    def __init__(self, experiment: Experiment):
        model = experiment.model.build()
        self._config, self._init = experiment.training.objective, experiment.init
        self.frozen = jax.eval_shape(model.compute_params, model.abstract_params())
        self.frozen_axes = model.logical_axes()

    @functools.cached_property
    def origin(self) -> dict[str, Any]:
        """The step of the reference: `init` may have been trained on since this run began."""
        return {"init_step": latest_step(self._init)}

    def read_frozen(self, shardings: Params) -> Params:
        return read_params(self._init, with_shardings(self.frozen, shardings))[0]

    def loss(self, stage: int, frozen: Params) -> Loss:
        def loss(model, params, batch):
            sums, ratios = self.measure(model, params, batch, frozen)
            return ratios["preference_loss"][0], (sums, ratios)

        return loss

    def measure(
        self, model: LanguageModel, params: Params, batch: Batch, frozen: Params
    ) -> Measures:
        nats, correct, targets = model.nats(params, batch)
        before = model.nats(frozen, batch)[0]
        gained = by_pair(before - nats, batch["segment"])
        present = by_pair(targets.mask.astype(jnp.float32), batch["segment"]).min(axis=-1) > 0
        chosen = batch["segment"] % 2 == 1
        nats, correct = jnp.where(chosen, nats, 0.0), correct & chosen
        targets = targets._replace(mask=targets.mask & chosen)
        sums = sums_of(nats, correct, targets, model.words(batch))
        return sums, compare(self._config, gained, present)


def by_pair(x: jax.Array, segment: jax.Array) -> jax.Array:
    """x float32 [B, T] added up over the two segments of every pair: [B, P, 2], chosen and
    rejected, P as many pairs as a row can hold; 0 where there is none."""
    pairs = -(-x.shape[1] // (2 * SMALLEST_ROW))

    def row(x, segment):
        return jax.ops.segment_sum(x, segment, num_segments=1 + 2 * pairs)[1:]

    return jax.vmap(row)(x, segment).reshape(len(x), pairs, 2)


def compare(config: PreferenceConfig, gained: jax.Array, present: jax.Array) -> Ratios:
    """What the pairs add up to, over their number.

    gained float32 [B, P, 2]: log-probability of the chosen and of the rejected answer, less that
    under the reference. present bool [B, P]: whether there is a pair.

    preference_loss: -log sigmoid(beta * (chosen - rejected)) (equation 7); with label smoothing e,
    (1 - e) times that and e times the same of the pair turned round. preference_accuracy: the share
    of pairs whose chosen answer gained more. reward_margin: beta * (chosen - rejected).
    chosen_log_ratio, rejected_log_ratio: what was gained.
    """
    chosen, rejected = gained[..., 0], gained[..., 1]
    margin = config.beta * (chosen - rejected)
    right, wrong = -jax.nn.log_sigmoid(margin), -jax.nn.log_sigmoid(-margin)
    measured = {
        "preference_loss": (1 - config.label_smoothing) * right + config.label_smoothing * wrong,
        "preference_accuracy": margin > 0,
        "reward_margin": margin,
        "chosen_log_ratio": chosen,
        "rejected_log_ratio": rejected,
    }
    count = jnp.sum(present, dtype=jnp.float32)
    return {
        name: (jnp.sum(jnp.where(present, values, 0), dtype=jnp.float32), count)
        for name, values in measured.items()
    }
