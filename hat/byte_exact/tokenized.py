"""A tokenized model as a model of bytes, under a named law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hat.byte_exact.canonical import DEAD, Canonical, NotUnderstood
from hat.byte_exact.laws import Law, check_law
from hat.byte_exact.model import NUM_SYMBOLS, chosen
from hat.byte_exact.pool import Node, Pool
from hat.byte_exact.token_bytes import Vocabulary
from hat.byte_exact.tree_attention import Evaluator
from hat.byte_exact.trees import Masses, Tree, build_tree, log_sum
from hat.byte_exact.unigram import Unigram, canonical_of
from hat.errors import UserError
from hat.models.llama import LlamaModel
from hat.models.model import Params
from hat.text.tokenizers import Tokenizer

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
        below = [_children(tree) for tree in trees]
        whole = self.evaluator.whole([(t.tokens, t.parents, t.depths) for t in trees])
        for first, logprobs in whole:
            for tree, mass, weight, children, its in zip(trees, masses, weights, below, logprobs):
                part = slice(first, min(first + len(its), len(tree.tokens)))
                its = its[: max(part.stop - first, 0)]
                for node in range(first, part.stop):
                    for child in children[node]:
                        weight[child] = weight[node] + its[node - first, tree.tokens[child]]
                self._add(mass, tree, weight, part, its)
        rows = (conditional(mass.logs(), text, self.law) for mass, text in zip(masses, texts))
        return [(its, -math.inf) for its in rows]

    def _add(self, mass: Masses, tree: Tree, weights, part: slice, logprobs: np.ndarray) -> None:
        ends = tree.ends[part]
        configurations = tree.configurations[part].tolist()
        masks, may_end = None, np.ones(len(ends), bool)
        if self.law == "canonical" and configurations:
            masks = np.stack([self.canonical.mask(c) for c in configurations])
            may_end = np.array([self.canonical.may_end(c) for c in configurations])
        mass.add(logprobs, weights[part], ends, tree.paths[ends], masks, may_end)

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


class TokenizedSession:
    """A text that grows: the nodes of its tree that still have a say, each with the node of the
    trie that the text after it has come to.

    dropped: under law `all`, the share of the probability that the beam has dropped at the last
    byte; log_dropped: log of all that it has dropped, each weighed when it was dropped, so that the
    true log-probability is between `logprob` and logaddexp(logprob, log_dropped).
    """

    def __init__(self, model: TokenizedModel, states: list[tuple[Node, int]], rows: dict):
        self.model = model
        self.states = states
        self._start = states
        self._text = b""
        self._rows: dict[Node, np.ndarray] = rows
        self._logs: np.ndarray | None = None
        self._base: float | None = 0.0  # log-probability of the bytes so far
        self.dropped, self.log_dropped = 0.0, -math.inf

    @property
    def length(self) -> int:
        """Bytes pushed."""
        return len(self._text)

    @property
    def logprob(self) -> float:
        """What the law gives to the bytes pushed so far, in nats. UserError: nothing at all."""
        if self._base is None:
            base = self._log_mass()
            if base == -math.inf:
                self._find_impossible()
            self._base = base
        return self._base

    def logprobs(self) -> np.ndarray:
        """float64 [257]; see `hat.byte_exact.model`."""
        if self._logs is None:
            self._read()
            self._logs = self._masses() - self.logprob
        return self._logs

    def push(self, byte: int) -> None:
        """UserError where the byte has no probability; for laws `canonical` and `last-free` only
        `logprobs` and `logprob` tell, since the model has not been asked yet."""
        self.advance(bytes([byte]))

    def advance(self, text: bytes) -> None:
        """Pushes every byte; but for law `all`, no faster than one by one, the model is not asked
        for what is between."""
        for byte in text:
            exact = self.model.law == "all"
            if exact:
                base = self.logprob + float(self.logprobs()[byte])
            states = self._after(byte)
            if not states or (exact and base == -math.inf):
                raise UserError(_impossible(byte, self.length, self.model.law))
            self.states, self._logs, self._base = states, None, None
            self._text += bytes([byte])
            if exact:
                self._base = base
                self._prune()
        live = {node for node, _ in self.states}
        self._rows = {node: row for node, row in self._rows.items() if node in live}

    def fork(self) -> TokenizedSession:
        other = TokenizedSession(self.model, list(self.states), dict(self._rows))
        for name in ("_start", "_text", "_logs", "_base", "dropped", "log_dropped"):
            setattr(other, name, getattr(self, name))
        return other

    def covers(self) -> list[tuple[Node, np.ndarray, np.ndarray]]:
        """What covers the bytes so far: nodes, each with the last tokens int [n] that may follow
        and the log-probabilities float64 [n] of the covers. Nothing pushed: the root, no token."""
        self._read()
        vocabulary, found = self.model.vocabulary, []
        for node, at in self.states:
            if at:
                places = np.arange(vocabulary.low[at], vocabulary.high[at])
                if self.model.law == "canonical":
                    places = places[self.model.canonical.mask(node.configuration)[places]]
                tokens = vocabulary.order[places]
                logs = node.logprob + self._rows[node][tokens].astype(np.float64)
                found.append((node, tokens, logs))
        return found

    def _after(self, byte: int) -> list[tuple[Node, int]]:
        """The states after one more byte, those of new nodes last."""
        model, states, new = self.model, [], []
        for node, at in self.states:
            at = model.vocabulary.child(at, byte)
            if at < 0:
                continue
            states.append((node, at))
            row = self._rows.get(node)
            for token in model.vocabulary.exact_ids(at).tolist():
                after = DEAD
                if node.configuration != DEAD:
                    after = model.canonical.step(node.configuration, token)
                if after != DEAD or model.law == "all":
                    child = Node(model.pool, token, node, after)
                    if row is not None and node.logprob is not None:
                        child.logprob = node.logprob + float(row[token])
                    new.append((child, 0))
        return states + new

    def _read(self) -> None:
        self.model.pool.read((node for node, _ in self.states), self._rows)

    def _log_mass(self) -> float:
        if not self._text:
            return 0.0
        self._read()
        reaching = [self._reaching(node, at) for node, at in self.states if at]
        return float(np.logaddexp.reduce(reaching)) if reaching else -math.inf

    def _find_impossible(self) -> None:
        """UserError that names the first byte without any probability."""
        again = TokenizedSession(self.model, self._start, {})
        for number, byte in enumerate(self._text):
            again.push(byte)
            if again._log_mass() == -math.inf:
                raise UserError(_impossible(byte, number, self.model.law))

    def _masses(self) -> np.ndarray:
        model = self.model
        mass = Masses(model.vocabulary, 0)
        nodes = [node for node, _ in self.states]
        at = np.array([at for _, at in self.states])
        masks, may_end = None, at == 0
        if model.law == "canonical":
            masks = np.stack([model.canonical.mask(node.configuration) for node in nodes])
            may_end &= [model.canonical.may_end(node.configuration) for node in nodes]
        logprobs = np.stack([self._rows[node] for node in nodes])
        weights = np.array([node.logprob for node in nodes])
        rows = np.zeros(len(nodes), np.int64)
        mass.add(logprobs, weights, rows, at[:, None].astype(np.int32), masks, may_end)
        return mass.logs()[0]

    def _reaching(self, node: Node, at: int) -> float:
        """Log-mass of the covers that go through a node and a last token from `at` of the trie."""
        v, mask = self.model.vocabulary, np.ones(1, bool)
        masked = self.model.law == "canonical"
        if masked:
            mask = self.model.canonical.mask(node.configuration)
        low, high = int(v.low[at]), int(v.high[at])
        return node.logprob + log_sum(self._rows[node], v.order, mask, masked, low, high)

    def _prune(self) -> None:
        """Law `all`: keeps the likeliest states, and the canonical ones."""
        v, beam = self.model.vocabulary, self.model.beam
        self.dropped = 0.0
        if beam is None or len(self.states) <= beam:
            return
        weights = []
        for node, at in self.states:
            if at:  # what is exactly here goes on in a node of its own
                row, mask = self._rows[node], np.ones(1, bool)
                weight = log_sum(row, v.order, mask, False, int(v.exact[at]), int(v.high[at]))
                weights.append(node.logprob + weight)
            else:
                weights.append(node.logprob)
        kept = set(np.argsort(weights)[::-1][:beam].tolist())
        kept |= {i for i, (node, _) in enumerate(self.states) if node.configuration != DEAD}
        gone = [weight for i, weight in enumerate(weights) if i not in kept]
        if gone:
            gone = float(np.logaddexp.reduce(gone))
            self.dropped = math.exp(min(gone - float(np.logaddexp.reduce(weights)), 0.0))
            self.log_dropped = float(np.logaddexp(self.log_dropped, gone))
            self.states = [self.states[i] for i in sorted(kept)]


def read_together(sessions: Sequence[TokenizedSession]) -> None:
    """Evaluates what several sessions of one model wait for in as few calls as one of them needs."""
    rows = {node: row for session in sessions for node, row in session._rows.items()}
    sessions[0].model.pool.read((node for s in sessions for node, _ in s.states), rows)
    for session in sessions:
        session._rows = {node: rows[node] for node, _ in session.states}


def _impossible(byte: int, at: int, law: str) -> str:
    return (f"byte {byte:#04x} at {at} has no probability under law {law}: no token that the model "
            "can predict spells it there")


def conditional(logs: np.ndarray, text: bytes, law: Law) -> np.ndarray:
    """Log-masses [T + 1, 257] of prefixes -> log-probabilities given each prefix."""
    symbols = np.frombuffer(text, np.uint8)
    before = np.append(0.0, logs[np.arange(len(symbols)), symbols])
    impossible = np.flatnonzero(before == -np.inf)
    if len(impossible):
        at = int(impossible[0]) - 1
        raise UserError(_impossible(text[at], at, law))
    return logs - before[:, None]


def _children(tree: Tree) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in tree.parents]
    for node, parent in enumerate(tree.parents.tolist()):
        if parent >= 0:
            children[parent].append(node)
    return children
