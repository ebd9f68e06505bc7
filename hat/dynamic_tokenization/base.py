"""The run whose tokens are merged, and the hypernetwork that belongs to it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hat.dynamic_tokenization.embeddings import Predictor, hypernetwork
from hat.errors import UserError
from hat.inference.run import Run, load_run
from hat.models.hypernetwork import RowPredictorConfig
from hat.models.llama import LlamaConfig, LlamaModel
from hat.text.tokenizers import Tokenizer
from hat.training.checkpoints import read_params
from hat.training.experiment import Experiment
from hat.training.run_folder import read_experiment


def read_base(path: str | Path) -> Experiment:
    """The experiment of a subword (or flat byte-level) Llama. UserError: no run, or another model."""
    experiment = read_experiment(Path(path))
    if not isinstance(experiment.model, LlamaConfig):
        raise UserError(f"{path}: only tokens can be merged; give the run of a subword Llama")
    return experiment


def load_base(path: str | Path) -> Run:
    """UserError as `read_base`, and where there is no checkpoint yet."""
    read_base(path)
    return load_run(path)


def fit_to_base(experiment: Experiment) -> Experiment:
    """The experiment with the model, tokenizer and length of rows of the run in `base`: that model
    is the one to begin with, or the one whose tokens a hypernetwork predicts."""
    base = read_base(experiment.base)
    tokenizer = "bytes" if base.data.tokenizer == "bytes" else str(experiment.base)
    data = dataclasses.replace(
        experiment.data, tokenizer=tokenizer, row_length=base.data.row_length
    )
    if isinstance(experiment.model, RowPredictorConfig):
        model = dataclasses.replace(experiment.model, base=base.model)
        return dataclasses.replace(experiment, model=model, data=data)
    init = experiment.base if experiment.init is None else experiment.init
    return dataclasses.replace(experiment, model=base.model, data=data, init=init)


def load_hypernetwork(
    path: str | Path, base: LlamaModel, tokenizer: Tokenizer
) -> tuple[Predictor, int]:
    """A trained one, and how many parts its tokens had at most. UserError: none is there, or it
    belongs to another model."""
    experiment = read_experiment(Path(path))
    model = check_hypernetwork(path, experiment, base.config).build()
    params, _ = read_params(path, model.abstract_params())
    predictor = hypernetwork(model, params, tokenizer)
    return predictor, experiment.training.objective.most_parts


def check_hypernetwork(
    path: str | Path, experiment: Experiment, base: LlamaConfig
) -> RowPredictorConfig:
    """UserError unless the experiment at `path` is a hypernetwork for models like this."""
    config = experiment.model
    if not isinstance(config, RowPredictorConfig):
        raise UserError(f"{path} is no hypernetwork; train one with configs/hypernetwork.py")
    its, sizes = config.base, ("num_ids", "tie_embeddings")
    if (its.stack.hidden_size, *(getattr(its, n) for n in sizes)) != (
        base.stack.hidden_size, *(getattr(base, n) for n in sizes)
    ):  # fmt: skip
        raise UserError(
            f"{path} was trained for another model: {its.num_ids} ids of width "
            f"{its.stack.hidden_size}, where this one has {base.num_ids} of {base.stack.hidden_size}"
        )
    return config
