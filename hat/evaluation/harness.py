"""lm-evaluation-harness on our models (extra `[eval]`): its tasks and metrics, our scoring.

The harness asks for log-likelihoods and greedy continuations of strings, so that byte-level and
subword models answer alike, and through the same `hat.evaluation.scoring.Scorer` as everything
else here. Boundaries need no care: the rule splits context and continuation as one text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from hat.errors import UserError
from hat.evaluation.scoring import Scorer

EXAMPLE_TASKS = Path(__file__).with_name("harness_tasks")
BYTES_PER_TOKEN = 4  # the harness limits generation by tokens: so many bytes each, for every model
DEFAULT_TOKENS = 256  # the harness's own, where a task sets no limit
BOOTSTRAP_DRAWS = 1000

# Read when the libraries are imported. No network unless the user asks for it (HF_HUB_OFFLINE=0),
# and no processes forked off JAX's threads.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}


class HarnessModel(LM):
    """A scorer as the harness sees a model. max_bytes: the longest continuation it generates."""

    def __init__(self, scorer: Scorer, max_bytes: int):
        super().__init__()
        self._scorer, self._max_bytes = scorer, max_bytes

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy generation gives it) of every continuation; that
        of an empty one is 0."""
        pairs = [(_bytes(context), _bytes(continuation))
                 for context, continuation in (request.args for request in requests)]  # fmt: skip
        scores = iter(self._scorer.continuations(pair for pair in pairs if pair[1]))
        return [_answer(next(scores)) if continuation else (0.0, True)
                for _, continuation in pairs]  # fmt: skip

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of every text, each byte of it once; without its end, which the
        harness does not charge."""
        scores = self._scorer.rolling([_bytes(request.args[0]) for request in requests])
        return [-float(score.nats[:-1].sum(dtype="float64")) for score in scores]

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """The greedy continuation of every context up to the first of its stops, left out.

        UserError: a task that samples.
        """
        groups: dict[tuple, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(self._limits(request.args[1]), []).append(index)
        answers = [""] * len(requests)
        for (num_bytes, stops), indices in groups.items():
            prompts = [_bytes(requests[index].args[0]) for index in indices]
            for index, text in zip(indices, self._scorer.complete(prompts, num_bytes, stops)):
                answers[index] = text.decode("utf-8", "replace")
        return answers

    def _limits(self, options: dict[str, Any]) -> tuple[int, tuple[bytes, ...]]:
        """The most bytes and the stops of a request."""
        if options.get("do_sample") or options.get("temperature"):
            raise UserError(
                "the task samples its answers, and this adapter generates the likeliest ones; "
                "set do_sample: false in its generation_kwargs"
            )
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        tokens = options.get("max_gen_toks") or DEFAULT_TOKENS
        num_bytes = min(int(tokens) * BYTES_PER_TOKEN, self._max_bytes)
        return num_bytes, tuple(_bytes(stop) for stop in until if stop)


def evaluate(
    scorer: Scorer,
    tasks: Sequence[str],
    *,
    max_bytes: int,
    include: Sequence[Path] = (),
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> dict[str, Any]:
    """The harness's results, with the samples of every task, for tasks by name.

    include: folders of task files beside EXAMPLE_TASKS. limit: items of a task; None: all. Tasks
    that come with the harness are known too, where their data set is on this machine.
    UserError: no such task, or its data is not here.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import lm_eval
    from lm_eval.tasks import TaskManager

    folders = [str(folder) for folder in (EXAMPLE_TASKS, *include)]
    manager = TaskManager(include_path=folders, include_defaults=False)
    if set(tasks) - set(manager.all_tasks):  # its thousands of task files take seconds to list
        manager = TaskManager(include_path=folders)
    if unknown := sorted(set(tasks) - set(manager.all_tasks)):
        raise UserError(f"no task {unknown[0]!r} in the harness or in {', '.join(folders)}")
    try:
        return lm_eval.simple_evaluate(
            model=HarnessModel(scorer, max_bytes),
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            log_samples=True,
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f"the data of {', '.join(tasks)} is not on this machine "
            f"({str(error).splitlines()[0]}); put it there, or set HF_HUB_OFFLINE=0 to download it"
        ) from None


def _answer(score) -> tuple[float, bool]:
    return -score.nats, score.likeliest


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
