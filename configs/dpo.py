"""Direct preference optimisation: a model that answers learns which answers are preferred.

    hat train configs/dpo.py --set init=runs/sft data.source=PAIRS.jsonl

A line of PAIRS.jsonl (.gz, .zst) is {"prompt": "...", "chosen": "...", "rejected": "..."}; the prompt
may be messages instead, as in sft.py. The model is that of sft.py, and the reference the one in
`init`. A rate some hundred times below that of pretraining and one or a few passes over the pairs
are usual: a run that goes on longer lowers the likelihood of the chosen answers too
(`chosen_log_ratio` in metrics.jsonl).
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.config import OptimizerConfig, PreferenceConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    base = load(Path(__file__).with_name("sft.py"))
    data = dataclasses.replace(base.data, source="pairs.jsonl", format="preference")
    training = dataclasses.replace(
        base.training,
        steps=200,
        optimizer=OptimizerConfig(learning_rate=2e-5, weight_decay=0.0),
        objective=PreferenceConfig(beta=0.1),
        evaluate_every_steps=50,
    )
    return dataclasses.replace(base, name="dpo", data=data, training=training, init="runs/sft")
