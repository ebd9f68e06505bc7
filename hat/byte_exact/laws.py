"""The three laws by which a tokenized model gives probabilities to bytes.

A cover of a text x is a sequence of tokens of which all but the last end inside x, and the last
reaches its end or passes it. The probability that a text begins with x is the sum over its covers
of their probabilities under the model, each after BOS (the lemma of arXiv 2410.09303 and
2412.03719). Which covers count is the law:

  all        every one: what sampling tokens without restriction does. Sums to 1; exponentially
             many, so that a beam may have to drop some, and says how much it dropped
  canonical  those that begin the encoding of some text; the rest of the model's mass is lost
  last-free  those whose tokens but the last begin the encoding of some text

On a model that only ever samples valid sequences the three are one. END is the end of text or any
other id that spells nothing, which leaves the text just as well.
"""

from __future__ import annotations

from typing import Literal, get_args

from hat.errors import UserError

Law = Literal["canonical", "all", "last-free"]
LAWS: tuple[str, ...] = get_args(Law)


def check_law(law: str) -> None:
    if law not in LAWS:
        raise UserError(f"law {law!r} is none of {', '.join(LAWS)}")
