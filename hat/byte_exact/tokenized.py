"""A tokenized model as a model of bytes, under a named law."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from hat.byte_exact.canonical import Canonical, NotUnderstood
from hat.byte_exact.laws import Law, check_law
from hat.byte_exact.masses import Following, Masses, following
from hat.byte_exact.model import NUM_SYMBOLS, chosen
from hat.byte_exact.pool import Node, Pool
from hat.byte_exact.sessions import TokenizedSession, impossible, read_together
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.tree_attention import Evaluator
from hat.byte_exact.trees import Tree, build_tree, weigh
from hat.byte_exact.unigram import Unigram, canonical_of
from hat.errors import UserError
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

T = TypeVar("T")

BEAM = 16  # covers that law `all` keeps beside the canonical ones
_SPARE = 8  # tokens that a branch of the tree may be deeper than the encoding


class TokenizedModel:
    """beam: for law `all`, how many covers it follows beside the canonical ones, None for every
    one; context: tokens, BOS included, that the model has been trained on, None for any number.
    UserError where the law needs to know when a sequence of tokens is an encoding, and that is
    not understood of this tokenizer; law `all` does not need it, and keeps no covers but its beam
    then.

    A text of more tokens is scored in pieces, each after BOS and its own beginning alone, as it
    would be trained on.
    """

    def __init__(
        self,
        model: LlamaModel,
        params: Params,
        tokenizer: Tokenizer,
        law: Law = "canonical",
        *,
        beam: int | None = BEAM,
        context: int | None = None,
    ):
        check_law(law)
        if beam is not None and beam < 1:
            raise UserError(f"beam {beam} must be at least 1")
        if context is not None and context < 4 * _SPARE:
            raise UserError(f"a context of {context} tokens is too short; give {4 * _SPARE}")
        self.law, self.beam, self.context = law, beam, context
        self.name = f"{tokenizer.name} {law}"
        self.vocabulary = Vocabulary(tokenizer, model.config.num_ids)
        self.canonical: Canonical | Unigram | NotUnderstood
        try:
            self.canonical = canonical_of(self.vocabulary)
        except UserError as error:
            self.canonical = NotUnderstood(error)
        self.canonical.check(law)
        self.evaluator = Evaluator(model, params)
        self._pool: Pool | None = None

    def with_law(self, law: Law, beam: int | None = BEAM) -> TokenizedModel:
        """The same model under another law; what is prepared is shared."""
        check_law(law)
        self.canonical.check(law)
        other = object.__new__(TokenizedModel)
        other.__dict__.update(self.__dict__)
        other.law, other.beam, other._pool = law, beam, None
        other.name = f"{self.vocabulary.tokenizer.name} {law}"
        return other

    def logprobs(self, text: bytes) -> np.ndarray:
        """float64 [T + 1, 257]; see `hat.byte_exact.model`."""
        return self.logprobs_of([text])[0]

    def logprobs_of(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """`logprobs` of several texts, evaluated side by side."""
        return [rows for rows, _ in self.bounded(texts)]

    def bounded(self, texts: Sequence[bytes]) -> list[tuple[np.ndarray, float]]:
        """`logprobs` of each text, and the least nats that it can cost with its end: less than
        its rows say only where the beam of law `all` dropped covers."""
        pieces = [self._cut(text) for text in texts]
        score = self._step_by_step if self.law == "all" else self._score
        flat = [piece for its_pieces in pieces for piece in its_pieces]
        most = self.evaluator.max_rows
        groups = (flat[first : first + most] for first in range(0, len(flat), most))
        results = (result for group in groups for result in score(group))
        found = []
        for its_pieces in pieces:
            parts, least = [], 0.0
            for piece in its_pieces:
                rows, log_dropped = next(results)
                last = piece is its_pieces[-1]
                parts.append(rows if last else rows[:-1])
                spent = chosen(rows, piece)[: len(piece) + last].sum()
                least -= min(float(np.logaddexp(spent, log_dropped)), 0.0)
            found.append((np.concatenate(parts), least))
        return found

    def session(self, context: Sequence[int] = ()) -> TokenizedSession:
        """A session with nothing pushed; context: ids that stand between BOS and the text, the
        way to condition on special tokens, which no text spells."""
        if self._pool is None:
            self._pool = Pool(self.evaluator)
        node = Node(self._pool, self.vocabulary.tokenizer.bos, None, self.canonical.start)
        for token in context:
            node = Node(self._pool, token, node, self.canonical.start)
            node.logprob = 0.0  # given, not predicted
        return TokenizedSession(self, [(node, 0)], {})

    @property
    def pool(self) -> Pool:
        """Where the nodes of its sessions live."""
        return self._pool

    def tree(self, text: bytes) -> Tree:
        """The nodes of which whole texts are scored."""
        return build_tree(text, self.vocabulary, self.canonical)

    def _score(self, texts: list[bytes]) -> list[tuple[np.ndarray, float]]:
        trees = [self.tree(text) for text in texts]
        masses = [Masses(self.vocabulary, len(text)) for text in texts]
        weights = [np.zeros(len(tree.tokens)) for tree in trees]
        whole = self.evaluator.whole([(t.tokens, t.parents, t.depths) for t in trees])
        for first, logprobs in one_ahead(whole):
            parts = [slice(first, max(first, min(first + logprobs.shape[1], len(tree.tokens))))
                     for tree in trees]
            # While the model is at work: what may follow does not depend on what it says.
            rules = [self._rules(tree, part) for tree, part in zip(trees, parts)]
            logprobs = np.asarray(logprobs)
            for row, (tree, mass, weight, part) in enumerate(zip(trees, masses, weights, parts)):
                its, ends = logprobs[row, : part.stop - part.start], tree.ends[part]
                weigh(tree, weight, first, its)
                mass.add(its, *rules[row], weight[part], ends, tree.paths[ends])
        rows = (conditional(mass.logs(), text, self.law) for mass, text in zip(masses, texts))
        return [(its, -math.inf) for its in rows]

    def _rules(self, tree: Tree, part: slice) -> tuple[np.ndarray | None, np.ndarray]:
        """The masks and may_end of `Masses.add` for some nodes of a tree."""
        configurations = tree.configurations[part].tolist()
        if self.law != "canonical" or not configurations:
            return None, np.ones(len(configurations), bool)
        masks = np.stack([self.canonical.packed_mask(c) for c in configurations])
        return masks, np.array([self.canonical.may_end(c) for c in configurations])

    def following(self, node: Node, logprobs: np.ndarray) -> Following:
        """What counts of what the model says after a node."""
        if self.law != "canonical":
            return following(logprobs, self.vocabulary)
        rule, at = self.canonical, node.configuration
        return following(logprobs, self.vocabulary, rule.packed_mask(at), rule.may_end(at))

    def _step_by_step(self, texts: list[bytes]) -> list[tuple[np.ndarray, float]]:
        """The rows of each text, and the log of what its beam dropped."""
        sessions = [self.session() for _ in texts]
        rows = [np.empty((len(text) + 1, NUM_SYMBOLS)) for text in texts]
        for t in range(max(map(len, rows), default=0)):
            active = [i for i, text in enumerate(texts) if t <= len(text)]
            read_together([sessions[i] for i in active])
            for i in active:
                rows[i][t] = sessions[i].logprobs()
                if t < len(texts[i]):
                    sessions[i].push(texts[i][t])
        return [(its, session.log_dropped) for its, session in zip(rows, sessions)]

    def _cut(self, text: bytes) -> list[bytes]:
        """Pieces of as many whole characters as the context has room for."""
        if self.context is None:
            return [text]
        pieces, room = [], self.context - 1 - _SPARE
        while len(lengths := self._beginning(text, room)) > room:
            cuts = np.cumsum(lengths[:room])
            opens = [cut for cut in cuts.tolist() if text[cut] & 0xC0 != 0x80]
            cut = opens[-1] if opens else int(cuts[-1])
            pieces.append(text[:cut])
            text = text[cut:]
        return [*pieces, text]

    def _beginning(self, text: bytes, room: int) -> np.ndarray:
        """The lengths of the tokens of a text; of a long one, of more than `room` of its first."""
        tokenizer, size = self.vocabulary.tokenizer, 8 * (room + 1)
        while True:
            lengths = tokenizer.byte_lengths[tokenizer.encode(text[:size])]
            if len(lengths) > room + 1 or size >= len(text):
                return lengths
            size *= 2


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, each after the next has been begun."""
    before = list(itertools.islice(items, 1))
    for item in items:
        yield before.pop()
        before.append(item)
    yield from before


def conditional(logs: np.ndarray, text: bytes, law: Law) -> np.ndarray:
    """Log-masses [T + 1, 257] of prefixes -> log-probabilities given each prefix."""
    symbols = np.frombuffer(text, np.uint8)
    before = np.append(0.0, logs[np.arange(len(symbols)), symbols])
    without = np.flatnonzero(before == -np.inf)
    if len(without):
        at = int(without[0]) - 1
        raise UserError(impossible(text[at], at, law))
    return logs - before[:, None]
