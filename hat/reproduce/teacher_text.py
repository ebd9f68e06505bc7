"""Text that a teacher wrote: its own distribution, in any amount, and what it costs the teacher."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from hat.errors import UserError

MOST_BYTES = 1000  # a document that has not ended by then is dropped
AT_ONCE = 64  # documents drawn side by side: their caches stay near the processor
ROUND = 256  # documents between two reports, at most


def write_text(run, path: Path, num_bytes: int, seed: int, say: Callable[[str], None]) -> None:
    """Draws documents from a Llama (hat.inference.run.Run) until they are num_bytes long, and
    writes them to an ArrayRecord file, a document a record, since a model may draw any bytes.

    UserError: a teacher that hardly ever ends a text.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    from hat.inference.generation import generate

    partial = path.with_name(path.name + ".part")
    writer, written, drawn, kept = ArrayRecordWriter(str(partial), "group_size:64"), 0, 0, 0
    for number in itertools.count():
        if written >= num_bytes:
            break
        results = generate(
            run, [b""], samples=min(ROUND, 32 + (num_bytes - written) // 600),
            num_bytes=MOST_BYTES, temperature=1.0, seed=seed * 1000 + number, batch_size=AT_ONCE,
        )  # fmt: skip
        ended = [result.text for result in results if result.stopped and result.text]
        drawn, kept = drawn + len(results), kept + len(ended)
        if kept < drawn / 10:
            raise UserError(
                f"the teacher ended only {kept} of {drawn} texts within {MOST_BYTES} bytes; "
                "give --text FILE"
            )
        for text in ended:
            if written < num_bytes:
                writer.write(text)
                written += len(text)
        say(f"sampled {written:,} of {num_bytes:,} bytes; {kept} of {drawn} texts had ended")
    writer.close()
    partial.replace(path)


def heldout_documents(source: str, fraction: float) -> list[bytes]:
    """The documents that training on `source` holds out (hat.data.splits)."""
    from hat.data.sources import Skipped, Source
    from hat.data.splits import plan_splits

    documents = [document.data for document in Source(source).documents(Skipped())]
    plan = plan_splits([len(data) for data in documents], fraction, 0.0)
    return [
        part
        for number, data in enumerate(documents)
        for split, part in plan.divide(number, data)
        if split == "heldout"
    ]


def ending_id(run, texts: Sequence[bytes]) -> int:
    """The id with which a Llama ends texts, of its tokenizer's EOT and BOS the likelier.

    Models of llama2.c, for one, begin the next text instead.
    """
    import jax
    import numpy as np

    forward = jax.jit(run.model.logits)  # not op by op: that compiles a stack anew at every call
    found = [run.tokenizer.eot, run.tokenizer.bos]
    logprobs = np.zeros(2)
    for text in texts:
        ids = np.array([run.tokenizer.bos, *run.tokenizer.encode(text)])
        row = np.zeros(-(-len(ids) // 512) * 512, np.int32)  # few shapes to compile
        row[: len(ids)] = ids
        index = np.arange(len(row), dtype=np.int32)
        batch = {"tokens": row, "segment": (index < len(ids)).astype(np.int32), "position": index}
        logits = forward(run.params, {name: x[None] for name, x in batch.items()})
        last = np.asarray(logits, np.float64)[0, len(ids) - 1]
        logprobs += last[found] - np.logaddexp.reduce(last)
    return found[int(np.argmax(logprobs))]


def bits_per_byte(run, documents: Sequence[bytes]) -> float:
    """Of documents, their ends included, under a run, in rows as long as those of its training."""
    from hat.inference.scoring import score_documents

    data = run.experiment.data
    scores = score_documents(
        run.model, run.params, run.rule, documents,
        row_length=data.row_length, row_words=data.row_words,
    )  # fmt: skip
    nats = sum(float(score.nats.sum(dtype="float64")) for score in scores)
    return nats / math.log(2) / sum(map(len, documents))
