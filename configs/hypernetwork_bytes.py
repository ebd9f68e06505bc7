"""The hypernetwork of hypernetwork.py, made of the byte parts of a HAT.

    hat train configs/hypernetwork_bytes.py --set base=RUN data.source=TEXT --out runs/hypernetwork
    hat dynamic apply RUN --text FILE --hypernetwork runs/hypernetwork

The byte encoder reads the spelling of a new token and the connector pools it, as both do with a
word; what they make of it is added to the mean of the rows of the token's parts. A row costs
somewhat fewer FLOPs than one of hypernetwork.py.
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.models.byte_hypernetwork import ByteHypernetworkConfig
from hat.models.connector import ConnectorConfig
from hat.models.layers import StackConfig
from hat.training.experiment import Experiment


def config() -> Experiment:
    base = load(Path(__file__).with_name("hypernetwork.py"))
    return dataclasses.replace(
        base,
        name="hypernetwork_bytes",
        model=ByteHypernetworkConfig(
            encoder=StackConfig(hidden_size=64, num_layers=1, num_heads=2, intermediate_size=128),
            connector=ConnectorConfig(hidden_size=64, num_heads=2),
            word_size=128,
            most_bytes=32,
        ),
    )
