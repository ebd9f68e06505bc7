"""What ids do to the text that they continue: its length, its end, whether it stays UTF-8."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hat.models.attention.plain import NEGATIVE
from hat.models.hat_2025 import W
from hat.text.tokenizers import ByteTokenizer, Tokenizer
from hat.text.utf8 import byte_automaton


class TextTables(NamedTuple):
    """For the ids of a vocabulary and U states of a reader of UTF-8, of which 0 is between two
    characters.

    length: int32 [ids], bytes that an id spells. ends: bool [ids], whether it ends a text; closes:
    bool [ids], whether a word (hat.models.hat_2025), which spells nothing and may stand anywhere.
    after: int32 [U, ids], the state after an id; U where a character breaks. missing: int32 [U],
    the bytes that the character begun still needs.
    """

    length: jax.Array
    ends: jax.Array
    closes: jax.Array
    after: jax.Array
    missing: jax.Array


@functools.lru_cache(maxsize=8)
def text_tables(tokenizer: Tokenizer, num_ids: int, unspelled_end: bool = False) -> TextTables:
    """num_ids: of the model, which may have more than the tokenizer. unspelled_end: whether every
    id that spells nothing ends a text."""
    after_byte, missing = _reader()
    broken = len(missing)
    spellings = [tokenizer.token_bytes(id) for id in range(num_ids)]
    length = np.array([len(spelling) for spelling in spellings], np.int32)
    after = np.tile(np.arange(broken, dtype=np.int32)[:, None], num_ids)
    for place in range(length.max()):
        (ids,) = np.nonzero(length > place)
        bytes_ = np.array([spellings[id][place] for id in ids])
        after[:, ids] = after_byte[after[:, ids], bytes_]
    # A model that begins another document, where its tokenizer lets it, has ended this one.
    ends = np.isin(np.arange(num_ids), [tokenizer.eot, tokenizer.bos, tokenizer.pad])
    ends |= unspelled_end & (length == 0)
    closes = (np.arange(num_ids) == W) & isinstance(tokenizer, ByteTokenizer) & ~ends
    return TextTables(length, ends, closes, after, missing)


def read_state(text: bytes) -> int:
    """The reader's state after a text of any bytes: where a character breaks, it begins anew."""
    after_byte, missing = _reader()
    state = 0
    for byte in text[-3:]:  # no character that is begun is longer
        after = after_byte[state, byte]
        state = int(after if after < len(missing) else after_byte[0, byte] % len(missing))
    return state


def missing_bytes(state: int) -> int:
    """How many bytes the character begun still needs."""
    return int(_reader()[1][state])


def keep_valid(
    logits: jax.Array, tables: TextTables, state: jax.Array, room: jax.Array
) -> jax.Array:
    """Logits [B, ids] of what keeps a text well-formed: state int [B] of its reader; room int [B],
    how many bytes it may still grow by, within which a character that is begun must end."""
    after, broken = tables.after[state], len(tables.missing)
    missing = jnp.append(tables.missing, 0)[after]
    fits = missing <= jnp.maximum(room[:, None] - tables.length, 0)
    spells = (tables.length > 0) | tables.closes | (tables.ends & (state == 0)[:, None])
    return jnp.where((after < broken) & fits & spells, logits, NEGATIVE)


@functools.cache
def _reader() -> tuple[np.ndarray, np.ndarray]:
    """int32 [U + 1, 256], the state after a byte, U where it breaks a character and from then on;
    int32 [U], the bytes missing. From the automaton of the splitters, with one class of
    characters."""
    invalid = 1
    automaton = byte_automaton(np.zeros(0x110000, np.uint8), invalid)
    emissions = automaton.emissions
    breaks = np.array([e.broken > 0 or e.character == invalid for e in emissions])
    states = len(automaton.pending)
    after = np.where(breaks[automaton.emission], states, automaton.next_state)
    lengths = [
        min(length for character, length in candidates if character != invalid)
        for candidates in automaton.candidates
    ]
    missing = np.array(lengths) - automaton.pending
    missing[0] = 0
    return np.vstack([after, np.full(256, states)]).astype(np.int32), missing.astype(np.int32)
