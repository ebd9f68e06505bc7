"""What a HAT learns from a subword teacher: the terms of its loss, each with its steps.

A HAT of 2025, which predicts where its words end too, takes all but ChunkLikelihood and
ByteProbabilities.

Every term is a total over the batch (over bytes, spans or words), and the step divides their
weighted sum once by the number of predicted bytes. A weight is therefore that of a sum per byte;
a published weight of a mean over spans or words is multiplied by their number per byte.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from hat.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """A part of the loss, on from step `from_step` until before step `until_step` (None: on)."""

    weight: float = 1.0
    from_step: int = 0
    until_step: int | None = None

    def __post_init__(self):
        name = type(self).__name__
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(f"{name}: weight {self.weight}: give more than 0, or drop the term")
        end = math.inf if self.until_step is None else self.until_step
        if not 0 <= self.from_step < end:
            raise UserError(
                f"{name}: from_step {self.from_step}, until_step {self.until_step}: give steps of "
                "0 or more, of which the second is greater"
            )

    def active(self, step: int) -> bool:
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteCrossEntropy(Term):
    """Next-byte cross-entropy, in nats: the published recipe (arXiv 2603.15953)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextBytes(Term):
    """Cross-entropy of every byte against the teacher's next-token distribution, read byte by byte.

    The target of a byte is its distribution under the teacher given the tokens before it and that
    the token under way has not ended: the probabilities of the tokens that go on from its bytes so
    far, added up by their next byte. A student that does not see where tokens end learns the mean
    of these targets, which is the distribution of the next byte when the teacher draws tokens.

    A HAT of 2025 whose words are the teacher's tokens does see it: its targets are what the token's
    bytes so far leave, the end of the token among it, and then the first byte of the next token.
    All together are the teacher's distribution over tokens.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteProbabilities(Term):
    """KL from the teacher's exact distribution of the next byte, [T, 257], to the student's.

    stored: the folder that `hat byte-exact store` wrote; None computes them as training goes on,
      which takes several times as long as a step of training.
    """

    stored: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkLikelihood(Term):
    """Binary KL between teacher's and student's likelihood of spans of text (ALM, arXiv
    2503.20083 section 3; Bolmo, arXiv 2512.15586).

    temperature: tau, the power 1 / tau of both likelihoods.
    spans: "tokens", every token of the teacher; or "words", its tokens up to the next white space
      or end of text, both sides times the probability that such a byte follows (the outcome
      debiasing of ALM): where the vocabulary has longer tokens that begin alike, the likelihood of
      a token's bytes is that of a larger event.
    """

    temperature: float = 5.0
    spans: Literal["tokens", "words"] = "words"

    def __post_init__(self):
        super().__post_init__()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"ChunkLikelihood: temperature {self.temperature}: give more than 0")
        if self.spans not in ("tokens", "words"):
            raise UserError(f"ChunkLikelihood: spans {self.spans!r}: use 'tokens' or 'words'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordEmbeddings(Term):
    """Distance of a word's state to the teacher's at its last token, after `layers` blocks of each.

    layers=0 compares the connector's output with the token's embedding; more, what the first
    blocks make of both (Bolmo's loss of the encoder, arXiv 2512.15586). Squared, over the squared
    length of the teacher's, since states of single tokens are hundreds of times longer than others.
    Words that do not end where a token ends are left out. The blocks learn from it too unless
    `optimizer.parts` freezes them.
    """

    layers: int = 0

    def __post_init__(self):
        super().__post_init__()
        if self.layers < 0:
            raise UserError(f"WordEmbeddings: layers {self.layers}: give 0 or more")


AnyTerm = ByteCrossEntropy | NextBytes | ByteProbabilities | ChunkLikelihood | WordEmbeddings


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Training of a HAT beside a teacher that is not trained.

    teacher: the folder of a subword Llama's run, trained or converted by `hat convert --to native`.
    terms: of the loss; every step needs one.
    bytes_per_token: a row of T ids has room for T / bytes_per_token of the teacher's tokens. What
      does not fit has no teacher (the metric teacher_share tells); 1 is always enough, and more
      saves the teacher's work on padding.
    """

    teacher: str
    terms: tuple[AnyTerm, ...] = (ByteCrossEntropy(),)
    bytes_per_token: float = 1.0

    def __post_init__(self):
        if not self.teacher:
            raise UserError("teacher is empty: give the folder of a subword Llama's run")
        if not (math.isfinite(self.bytes_per_token) and self.bytes_per_token >= 1):
            raise UserError(f"bytes_per_token {self.bytes_per_token}: give 1 or more")
        for step in self.starts:
            if not self.active(step):
                raise UserError(f"terms: none from step {step} on; extend one")

    @property
    def starts(self) -> tuple[int, ...]:
        """The steps at which terms come or go, rising, from 0."""
        steps = {0}
        for term in self.terms:
            steps |= {term.from_step} | ({term.until_step} - {None})
        return tuple(sorted(steps))

    def active(self, step: int) -> tuple[AnyTerm, ...]:
        """The terms at a step."""
        return tuple(term for term in self.terms if term.active(step))
