"""What `hat convert --method` does: a Llama with another tokenizer, and no training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hat.commands.conversions import Source, open_source
from hat.data.records import appearing
from hat.errors import UserError
from hat.text.tokenizers import load_tokenizer
from hat.training.progress import warn


def transfer(
    path: Path,
    other: Path,
    method: str,
    out: Path,
    *,
    hypernetwork: Path | None = None,
    sparsity: int = 64,
) -> dict[str, Any]:
    """Writes the run at `path` anew with the tokenizer of `other`: a tokenizer file or its folder;
    for `omp` a Llama with its tokenizer, the donor. UserError: what does not fit; nothing is left of
    `out` then."""
    from hat.dynamic_tokenization import transfer as rows
    from hat.dynamic_tokenization.base import load_hypernetwork, read_base
    from hat.dynamic_tokenization.embeddings import KnownSpellings, untrained
    from hat.training.converted_run import local_shardings, read_params, write_run

    experiment = read_base(path)
    if method in ("last", "suffix") and experiment.model.tie_embeddings:
        raise UserError(
            f"{path}: --method {method} makes embeddings and heads that differ, and here they are one; "
            "use --method mean"
        )
    source = open_source(path)
    if source.tokenizer is None:
        raise UserError(f"{path} has no tokenizer: put its tokenizer.json or tokenizer.model there")
    donor = open_donor(other) if method == "omp" else None
    target = load_tokenizer(other) if donor is None else donor.tokenizer
    model = experiment.model.build()
    params = read_params(path, model, local_shardings(model))
    base = rows.stored_rows(experiment.model, params)
    base_of = rows.shared_tokens(source.tokenizer, target, experiment.model)
    shared, new = rows.spelled_tokens(target, base_of)
    if donor is not None:
        theirs = donor.experiment.model
        its_params = donor.read(theirs, local_shardings(theirs.build()))
        its_rows = rows.stored_rows(theirs, its_params)
        made = rows.by_pursuit(base, its_rows, base_of, shared, new, sparsity)
    else:
        if method == "hypernetwork":
            predictor, _ = load_hypernetwork(hypernetwork, model, source.tokenizer)
            known = KnownSpellings(source.tokenizer)
        else:
            predictor, known = untrained(method, source.tokenizer)
        made = rows.by_parts(base, source.tokenizer, target, new, predictor, known)
    config = dataclasses.replace(
        experiment.model,
        num_tokens=target.vocab_size,
        eot_id=target.eot if target.eot < target.vocab_size else None,
    )
    params = rows.with_rows(params, rows.assemble(base, base_of, made, new, config.num_ids))
    before, after = map(rows.digit_groups, (source.tokenizer, target))
    if before != after:
        warn(f"numbers are grouped otherwise: {rows.DIGITS.decode()} by {before} digits before, by "
             f"{after} now; expect the model to calculate worse")

    data = dataclasses.replace(experiment.data, tokenizer=str(out))
    training = dataclasses.replace(experiment.training, objective=None)
    written = dataclasses.replace(
        experiment, model=config, data=data, training=training, init=None, base=None
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with appearing(out) as folder:
        write_run(folder, written, params)
        target.save(folder)
    return {"source": str(path), "method": method, "tokens": target.vocab_size,
            "shared": len(shared), "new": len(new)}  # fmt: skip


def open_donor(path: Path) -> Source:
    """UserError unless there is a Llama with a tokenizer."""
    donor = open_source(path)
    if donor.is_hat or donor.tokenizer is None:
        raise UserError(
            f"{path}: --method omp takes a donor: a run or a folder of a Llama with its tokenizer"
        )
    return donor
