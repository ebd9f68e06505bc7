"""Items under noise, their edits set off, safe to show on a page."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from hat.evaluation.edits import Edit, Perturbed
from hat.evaluation.report.blocks import Kind, Passage
from hat.evaluation.report.wording import NONE
from hat.evaluation.results import Example

NEAR = 48  # bytes of unedited text that are shown on either side of an edit
CONTINUATION = 120  # bytes of it that are shown


def passage(example: Example) -> Passage:
    """Context and continuation with their edits, and what the noise did to the latter."""
    return Passage(
        title=f"{example.perturbation} at rate {example.rate:g}, seed {example.seed}: "
        f"{example.model}, {example.task}, item {example.item}",
        pieces=[*pieces(example.context, example.edits), *_continuation(example)],
        note=_note(example),
    )


def _note(example: Example) -> str:
    clean, noised, size = example.clean_nats, example.noised_nats, len(example.continuation)
    if not example.continuation_edits:
        cost = (noised - clean) / max(size, 1)
        return (
            f"the continuation costs {clean:.2f} nats after the clean context and {noised:.2f} "
            f"after the noised one: {cost:+.3f} nats/byte over {size:,} bytes"
        )
    edits = tuple(Edit(*edit) for edit in example.continuation_edits)
    noised_size = len(Perturbed(example.continuation, edits).text)
    return (
        f"the clean continuation costs {clean:.2f} nats over {size:,} bytes, the noised one "
        f"{noised:.2f} over {noised_size:,}: {noised / noised_size - clean / size:+.3f} nats/byte"
    )


def pieces(
    context: bytes, edits: Sequence[tuple[int, int, bytes]]
) -> list[tuple[Kind, str]]:
    """A text in pieces; what lies further than NEAR from every edit and from the end is left
    out."""
    found: list[tuple[Kind, str]] = []
    end = 0
    for index, (start, stop, replacement) in enumerate([*edits, (len(context), len(context), b"")]):
        before = NEAR if index > 0 else 0
        found += _shortened(context[end:start], before, NEAR)
        if stop > start:
            found.append(("deleted", visible(context[start:stop])))
        if replacement:
            found.append(("inserted", visible(replacement)))
        end = stop
    return found


def visible(data: bytes) -> str:
    """Text in which every byte can be seen: controls, line ends, invisible and direction-changing
    characters and bytes that are no UTF-8 become escapes such as \\n, \\u202e and \\xff."""
    shown = []
    for character in data.decode("utf-8", "backslashreplace"):
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        odd_space = character.isspace() and character != " "
        escaped = character.encode("unicode_escape").decode("ascii")
        shown.append(escaped if hidden or odd_space else character)
    return "".join(shown)


def _shortened(text: bytes, head: int, tail: int) -> list[tuple[Kind, str]]:
    """The first `head` and the last `tail` bytes of a text, about: characters stay whole."""
    if len(text) <= head + tail:
        return [("same", visible(text))] if text else []
    first, last = _back(text, head), _back(text, len(text) - tail)
    kept = [("same", visible(text[:first]))] if first else []
    return [*kept, ("gap", "…"), ("same", visible(text[last:]))]


def _back(text: bytes, index: int) -> int:
    """The start of the character that the byte belongs to."""
    while index > 0 and text[index] & 0xC0 == 0x80:
        index -= 1
    return index


def _continuation(example: Example) -> list[tuple[Kind, str]]:
    text = example.continuation
    if example.continuation_edits:
        return [("continuation" if kind == "same" else kind, said)
                for kind, said in pieces(text, example.continuation_edits)]  # fmt: skip
    if len(text) <= CONTINUATION:
        return [("continuation", visible(text) or NONE)]
    return [("continuation", visible(text[: _back(text, CONTINUATION)])), ("gap", "…")]
