"""Several byte models as one, whatever the vocabularies of its members.

Members vote byte by byte (arXiv 2410.09303, 2506.14123): `mean` averages their probabilities,
`product` their log-probabilities, and proxy tuning adds what an expert knows beyond an anti-expert
to a base, `base + alpha * (expert - antiexpert)` (arXiv 2401.08565), each renormalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from hat.byte_exact.model import ByteModel, ByteSession, normalized
from hat.errors import UserError

Mode = Literal["mean", "product", "proxy"]
FLOOR = -100.0  # nats: what proxy tuning takes for impossible, so that differences are numbers

# Normalised log-probabilities [members, ..., 257] -> [..., 257].
Combine = Callable[[np.ndarray], np.ndarray]


class Ensemble:
    """A ByteModel of ByteModels. mode "proxy" takes base, expert and anti-expert, in this order;
    weights, for the other modes, sum to 1 (default: equal)."""

    def __init__(
        self,
        members: Sequence[ByteModel],
        mode: Mode = "mean",
        *,
        weights: Sequence[float] | None = None,
        alpha: float = 1.0,
    ):
        if mode not in get_args(Mode):
            raise UserError(f"mode {mode!r} is none of {', '.join(get_args(Mode))}")
        if mode == "proxy" and len(members) != 3:
            raise UserError(f"proxy tuning takes a base, an expert and an anti-expert, "
                            f"not {len(members)} models")
        if not members:
            raise UserError("an ensemble needs a member")
        weights = [1 / len(members)] * len(members) if weights is None else list(weights)
        if len(weights) != len(members) or min(weights) < 0 or not abs(sum(weights) - 1) < 1e-6:
            raise UserError(f"weights {weights} are not {len(members)} shares of 1")
        if not math.isfinite(alpha):
            raise UserError(f"alpha {alpha}: give a finite number")
        self.members = list(members)
        self.name = f"{mode} of {', '.join(member.name for member in members)}"
        self._combine = _combination(mode, np.array(weights), alpha)

    def logprobs(self, text: bytes) -> np.ndarray:
        """float64 [T + 1, 257]; see `hat.byte_exact.model`."""
        rows = [normalized(member.logprobs(text)) for member in self.members]
        return self._combine(np.stack(rows))

    def session(self) -> EnsembleSession:
        return EnsembleSession([member.session() for member in self.members], self._combine)


class EnsembleSession:
    def __init__(self, sessions: list[ByteSession], combine: Combine):
        self.members, self._combine = sessions, combine

    def logprobs(self) -> np.ndarray:
        return self._combine(np.stack([normalized(s.logprobs()) for s in self.members]))

    def push(self, byte: int) -> None:
        for session in self.members:
            session.push(byte)

    def fork(self) -> EnsembleSession:
        return EnsembleSession([session.fork() for session in self.members], self._combine)


def _combination(mode: Mode, weights: np.ndarray, alpha: float) -> Combine:
    def shaped(rows):
        return weights.reshape(-1, *[1] * (rows.ndim - 1))

    def mean(rows):
        with np.errstate(divide="ignore"):
            return np.logaddexp.reduce(rows + np.log(shaped(rows)), axis=0)

    def product(rows):
        # A member without a say must not forbid: 0 times minus infinity is no number.
        return normalized(np.where(shaped(rows) > 0, rows * shaped(rows), 0.0).sum(axis=0))

    def proxy(rows):
        base, expert, antiexpert = rows
        more = np.maximum(expert, FLOOR) - np.maximum(antiexpert, FLOOR)
        return normalized(base + alpha * more)

    return {"mean": mean, "product": product, "proxy": proxy}[mode]
