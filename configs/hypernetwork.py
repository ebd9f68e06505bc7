"""A hypernetwork for a trained subword Llama: rows of tokens that it has never had.

    hat train configs/hypernetwork.py --set base=RUN data.source=TEXT --out runs/hypernetwork
    hat dynamic apply RUN --text FILE --hypernetwork runs/hypernetwork

The model of RUN is not changed; its tokenizer and length of rows are taken. Every step merges its
tokens by another table. The stack suits a base of quickstart_bpe.py's size; for a large one take its
width (model.stack.hidden_size), as ZeTT does (arXiv 2405.07883). hypernetwork_bytes.py reads the
bytes of tokens by the parts of a HAT.
"""

from hat.data.config import DataConfig
from hat.models.hypernetwork import HypernetworkConfig
from hat.models.layers import StackConfig
from hat.training.config import DynamicConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    return Experiment(
        name="hypernetwork",
        model=HypernetworkConfig(
            stack=StackConfig(hidden_size=128, num_layers=3, num_heads=2, intermediate_size=256)
        ),
        data=DataConfig(source="stdlib", tokenizer="bpe:4096", validation_fraction=0.05),
        training=TrainingConfig(
            steps=1_000,
            batch_size=4,
            optimizer=OptimizerConfig(learning_rate=2e-3, weight_decay=0.01, clip_norm=1.0),
            schedule=ScheduleConfig(name="cosine", warmup_fraction=0.05, final_fraction=0.0),
            objective=DynamicConfig(most_merges=256, most_parts=4),
        ),
        base="runs/quickstart_bpe",
    )
