"""Counts the parameters of a config, part by part, without allocating any.

For a HAT the second column counts the layout of the released checkpoints (arXiv 2603.15953): a
byte embedding of 256 rows, and in the decoder's cross-attention the query and key weights that a
softmax over a single key leaves without effect. Where training.lora.rank is set, another column
counts what is trained.
"""

from __future__ import annotations

import argparse

from hat.commands.arguments import add_experiment, read_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    model = experiment.model.build()
    columns = {"parameters": model.parameter_counts()}
    if hasattr(model, "released_parameter_counts"):  # only a HAT was released
        columns["released layout"] = model.released_parameter_counts()
    if experiment.training.lora.rank is not None:
        from hat.training.low_rank import Factors

        columns["low rank"] = Factors(experiment.training.lora, model).parameter_counts()
    print(f"{experiment.name}\n{table(columns)}")
    result = {"name": experiment.name}
    for column, parts in columns.items():
        key = column.replace(" ", "_")
        result |= {key: parts, f"total_{key}": sum(parts.values())}
    return result


def table(columns: dict[str, dict[str, int]]) -> str:
    """Parts down, and for every column its counts and shares across; the totals below."""
    parts = list(dict.fromkeys(part for counts in columns.values() for part in counts))
    width = max(map(len, [*parts, "total"]))
    lines = [" " * width + "".join(f"  {column:>15}   share" for column in columns)]
    totals = {column: sum(counts.values()) for column, counts in columns.items()}
    for part in [*parts, "total"]:
        line = f"{part:<{width}}"
        for column, counts in columns.items():
            count = totals[column] if part == "total" else counts.get(part, 0)
            line += f"  {count:>15,}  {count / totals[column]:>6.1%}"
        lines.append(line)
    return "\n".join(lines)
