"""A trained run, loaded from the folder that `hat train` wrote.

The one file of `hat.inference` that reads what `hat.training` wrote.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hat.errors import UserError
from hat.models.hypernetwork import RowPredictorConfig
from hat.models.model import LanguageModel, Params
from hat.text.splitters import Splitter, kept_splitter
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from hat.training.checkpoints import read_params
from hat.training.experiment import Experiment
from hat.training.run_folder import read_experiment


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with its parameters and the rule that makes ids of bytes: the splitter of a HAT
    (tokenizer None), or the tokenizer of a Llama (splitter None)."""

    experiment: Experiment
    model: LanguageModel
    params: Params
    splitter: Splitter | None
    tokenizer: Tokenizer | None

    @property
    def rule(self) -> Splitter | Tokenizer:
        return self.tokenizer if self.splitter is None else self.splitter


def load_run(path: str | Path) -> Run:
    """The newest checkpoint of the run at `path`; a subword run keeps its tokenizer there too.

    Changes nothing on disk, so it may read a run that is still training. UserError: no such
    folder, no config.json in it, an unreadable one, no checkpoint yet.
    """
    path = Path(path)
    experiment = read_experiment(path)
    if isinstance(experiment.model, RowPredictorConfig):
        raise UserError(
            f"{path} is a hypernetwork, which belongs to {experiment.base}: give that, and this where "
            "--hypernetwork is asked for"
        )
    model = experiment.model.build()
    params, _ = read_params(path, model.abstract_params())
    rule = load_rule(path)
    is_tokenizer = isinstance(rule, Tokenizer)
    splitter, tokenizer = (None, rule) if is_tokenizer else (rule, None)
    return Run(experiment, model, params, splitter, tokenizer)


def load_rule(path: str | Path) -> Splitter | Tokenizer:
    """The splitter of the HAT, or the tokenizer of the Llama, that is trained at `path`. There may
    be no checkpoint yet. UserError: no such folder, no config.json in it, an unreadable one."""
    experiment = read_experiment(Path(path))
    data = experiment.data
    if data.tokenizer is None:
        return kept_splitter(data.splitter, Path(path))
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    tokenizer = load_tokenizer(path)
    if experiment.model.eot_id is not None:  # the model's, whatever its vocabulary calls the end
        tokenizer.eot = experiment.model.eot_id
    return tokenizer
