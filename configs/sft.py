"""Supervised fine-tuning: a model that continues text learns to answer.

    hat train configs/sft.py --set init=runs/quickstart data.source=CONVERSATIONS.jsonl

A line of CONVERSATIONS.jsonl (.gz, .zst) is {"messages": [{"role": "user", "content": "..."},
{"role": "assistant", "content": "..."}]}, with a system message first or none, and as many turns as
you like. The loss is that of the answers and of their ends alone. The model is that of
quickstart.py; for another one, load its config here.

The released models were tuned on 256 packed rows a step; their rates are not published. A tenth of
the rate of pretraining is usual.
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.config import OptimizerConfig, SampleConfig, ScheduleConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    base = load(Path(__file__).with_name("quickstart.py"))
    data = dataclasses.replace(
        base.data, source="conversations.jsonl", format="chat", row_length=1024, row_words=320
    )
    training = dataclasses.replace(
        base.training,
        seconds=None,
        steps=1000,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=3e-4, weight_decay=0.0),
        schedule=ScheduleConfig(warmup_fraction=0.03),
        evaluate_every_steps=100,
        samples=SampleConfig(prompts=("Hello!", "What does len do?")),
    )
    return dataclasses.replace(
        base, name="sft", data=data, training=training, init="runs/quickstart"
    )
