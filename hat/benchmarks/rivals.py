"""Trains the HAT, its baselines and MEGABYTE for the same seconds: bytes a second, bits per byte.

All run one after the other in this process, on the same training and held-out bytes, in steps of
the config's batch size, each with the schedule of its config over its own seconds; compilation and
evaluation do not count as training. MEGABYTE (Yu et al., arXiv 2305.07185) is that of the package
MEGABYTE-pytorch, with the width that gives it the parameters of the first config, and AdamW at a
learning rate that nobody has tuned. It reads the rows of a flat byte-level model, and is charged
for the same bytes and ends of text; it sees the documents before in a row, as the package has no
mask. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from hat.commands.arguments import positive_int
from hat.config import load, override
from hat.errors import UserError

CONFIGS = ("quickstart", "quickstart_bpe", "quickstart_bytes")
PATCH = 4  # bytes that MEGABYTE's global model reads as one
DEPTH = (4, 4)  # layers of its global and of its local model
HEADS, HEAD_SIZE = 2, 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="*", type=Path,
                        default=[Path("configs", f"{name}.py") for name in CONFIGS],
                        help="default: the HAT, the subword and the flat byte model")
    parser.add_argument("--seconds", metavar="S", type=positive_int, default=20,
                        help="of training, for each (default: 20)")
    parser.add_argument("--megabyte-learning-rate", metavar="R", type=float, default=2e-3,
                        help="peak of MEGABYTE's AdamW (default: 0.002)")
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="change fields of every config, such as training.seed=1")


def run(arguments: argparse.Namespace) -> dict:
    if not 0 < arguments.megabyte_learning_rate < math.inf:
        raise UserError(
            f"--megabyte-learning-rate {arguments.megabyte_learning_rate}: give a number above 0"
        )
    changes = [f"training.seconds={arguments.seconds}", "training.steps=none", *arguments.set]
    experiments = [override(load(path), changes) for path in arguments.configs]
    rows = {experiment.name: train_ours(experiment) for experiment in experiments}
    wanted = rows[experiments[0].name]["parameters"]
    rows["MEGABYTE-pytorch"] = (
        train_megabyte(experiments[0], wanted, arguments.megabyte_learning_rate)
        if importlib.util.find_spec("MEGABYTE_pytorch")
        else {"skipped": "MEGABYTE-pytorch is not installed; pip install -e '.[rivals]'"}
    )
    first = rows[experiments[0].name]
    print(f"{'model':20} {'parameters':>10} {'bytes/s':>9} {'ratio':>6} {'steps':>7} "
          f"{'bits/byte':>9} {'on bytes':>9}")
    for name, row in rows.items():
        if "skipped" in row:
            print(f"{name:20} skipped: {row['skipped']}")
            continue
        row["ratio"] = row["bytes_per_second"] / first["bytes_per_second"]
        print(f"{name:20} {row['parameters']:10,} {row['bytes_per_second']:9,.0f} "
              f"{row['ratio']:6.2f} {row['steps']:7,} {row['heldout_bits_per_byte']:9.4f} "
              f"{row['heldout_bytes']:9,}")
    return {"seconds": arguments.seconds, "results": rows}


def train_ours(experiment: Any) -> dict:
    """One of our models, by the loop that `hat train` runs, in a folder that is thrown away."""
    from hat.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        result = train(experiment, folder)
    if "heldout_bits_per_byte" not in result:
        raise UserError(
            f"{experiment.name}: nothing is held out; set data.heldout_fraction above 0"
        )
    names = ("bytes_per_second", "heldout_bits_per_byte", "heldout_bytes")
    parameters = sum(experiment.model.build().parameter_counts().values())
    return {"parameters": parameters, "steps": result["step"]} | {k: result[k] for k in names}


def train_megabyte(experiment: Any, parameters: int, peak: float) -> dict:
    """MEGABYTE with about that many parameters, on the byte rows of the experiment's data."""
    import torch

    from hat.data.loader import Loader
    from hat.data.mixture import prepare_mixture
    from hat.training.optimizer import learning_rate
    from hat.training.position import Clock, Position
    from hat.training.progress import Stages, warn

    config = experiment.training
    data = dataclasses.replace(experiment.data, tokenizer="bytes")
    with Stages("B") as progress:
        corpus = prepare_mixture(data, progress, warn)
    loader = Loader(corpus, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = megabyte_of_size(parameters, data.row_length)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)

    warn(f"MEGABYTE-pytorch: training for {config.seconds:g} seconds")
    position, clock = Position(), Clock(0.0)
    with closing(loader.iterate(0)) as batches:
        while not position.finished(config):
            nats, targets, num_bytes = sums(model, next(batches))
            optimizer.zero_grad()
            (nats / targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(config.schedule, position.progress(config))
            optimizer.step()
            finite = math.isfinite(nats.item())
            position = position.launched(clock.read()).landed(num_bytes, finite)
    warn("MEGABYTE-pytorch: evaluating")
    with torch.no_grad():
        scored = [
            sums(model, batch)
            for source in corpus.evaluated("heldout").values()
            for batch in source.batches("heldout", config.batch_size)
        ]
    heldout_bytes = sum(num_bytes for _, _, num_bytes in scored)
    return {
        "parameters": count(model),
        "steps": position.step,
        "bytes_per_second": position.bytes / position.seconds,
        "heldout_bits_per_byte": sum(float(nats) for nats, _, _ in scored)
        / math.log(2) / heldout_bytes,
        "heldout_bytes": heldout_bytes,
    }  # fmt: skip


def sums(model: Any, batch: dict) -> tuple[Any, int, int]:
    """Nats over all targets (a float32 scalar), the number of targets, and of bytes they spell.

    batch: rows of tokens int32 [B, T] (hat.text.rows.expand_tokens). The targets are those of our
    own models: every id after BOS in its segment, so the next byte or the end of text.
    """
    import torch

    tokens, segment = (torch.as_tensor(batch[name]).long() for name in ("tokens", "segment"))
    mask = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    logits = model(tokens)[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits[mask], tokens[:, 1:][mask], reduction="sum")
    spelled = torch.as_tensor(batch["token_bytes"])[:, 1:][mask]
    return nats, int(mask.sum()), int(spelled.sum())


def megabyte_of_size(parameters: int, row_length: int) -> Any:
    """The MEGABYTE whose number of parameters is nearest, its local model half as wide."""
    import torch

    if row_length % PATCH:
        raise UserError(f"data.row_length is {row_length}: give a multiple of {PATCH}")
    with torch.device("meta"):  # counted without memory
        counts = {width: count(megabyte(width, row_length)) for width in range(64, 1025, 4)}
    width = min(counts, key=lambda width: abs(counts[width] - parameters))
    return megabyte(width, row_length)


def megabyte(width: int, row_length: int) -> Any:
    from MEGABYTE_pytorch import MEGABYTE

    from hat.text.ids import NUM_IDS, PAD

    return MEGABYTE(
        num_tokens=NUM_IDS,
        dim=(width, width // 2),
        depth=DEPTH,
        max_seq_len=(row_length // PATCH, PATCH),
        dim_head=HEAD_SIZE,
        heads=HEADS,
        rel_pos=True,
        pad_id=PAD,
    )


def count(model: Any) -> int:
    """How many parameters a torch module has."""
    return sum(parameter.numel() for parameter in model.parameters())
