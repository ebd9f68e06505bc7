"""Sessions of a tokenized model: texts that grow byte by byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hat.byte_exact.canonical import DEAD
from hat.byte_exact.ensemble import EnsembleSession
from hat.byte_exact.masses import Following, Masses, log_mass
from hat.byte_exact.model import ByteSession
from hat.byte_exact.pool import Node
from hat.errors import UserError

if TYPE_CHECKING:
    from hat.byte_exact.tokenized import TokenizedModel


# Nodes that are read before they are asked for, in the call for one that is. On a CPU, 4 nodes of a
# Llama of 30 million parameters cost 1.7 calls of one, of one of 2 million 1.2; on accelerators the
# same as one. So the next bytes are guessed where they are likely enough.
_AHEAD = 3
_LIKELY = 0.4

State = tuple[Node, int]  # a node, and where in the trie the text after it has come to


class TokenizedSession:
    """A text that grows: the nodes of its tree that still have a say, each with the node of the
    trie that the text after it has come to.

    Most bytes of a token can be guessed from its first: where the token that is likeliest to be
    open is likely, the nodes at its next bytes are evaluated together with the one that is needed.
    What a byte is given does not depend on it.

    dropped: under law `all`, the share of the probability that the beam has dropped at the last
    byte; log_dropped: log of all that it has dropped, each weighed when it was dropped, so that the
    true log-probability is between `logprob` and logaddexp(logprob, log_dropped).
    """

    def __init__(self, model: TokenizedModel, states: list[State], rows: dict):
        self.model = model
        self.states = states
        self._start = states
        self._text = b""
        self._rows: dict[Node, Following] = rows
        self._logs: np.ndarray | None = None
        self._masses = Masses(model.vocabulary, 0)  # of what may follow, from the nodes below
        self._summed: set[Node] = set()
        self._base: float | None = 0.0  # log-probability of the bytes so far
        self._guess: list[tuple[int, list[State]]] = []  # bytes that may come, the states after each
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
            self._sum()
            self._logs = self._masses.logs()[0] - self.logprob
        return self._logs

    def push(self, byte: int) -> None:
        """UserError where the byte has no probability; for laws `canonical` and `last-free` only
        `logprobs` and `logprob` tell, since the model has not been asked yet."""
        self.advance(bytes([byte]))

    def advance(self, text: bytes) -> None:
        """Pushes every byte; but for law `all`, no faster than one by one, the model is not asked
        for what is between."""
        exact = self.model.law == "all"
        for byte in text:
            base = None
            if exact or self._logs is not None:
                base = self.logprob + float(self.logprobs()[byte])
            if self._guess and self._guess[0][0] == byte:
                _, states = self._guess.pop(0)
            else:
                self._guess, states = [], self._after(self.states, byte)
            if not states or (exact and base == -math.inf):
                raise UserError(impossible(byte, self.length, self.model.law))
            if self._summed:
                self._masses, self._summed = Masses(self.model.vocabulary, 0), set()
            # Where nothing is left, `logprob` looks for the byte that was impossible.
            self._base = None if base == -math.inf else base
            self.states, self._logs = states, None
            self._text += bytes([byte])
            if exact:
                self._prune()
        live = self._nodes()
        self._rows = {node: row for node, row in self._rows.items() if node in live}

    def fork(self) -> TokenizedSession:
        other = TokenizedSession(self.model, list(self.states), dict(self._rows))
        for name in ("_start", "_text", "_logs", "_base", "dropped", "log_dropped"):
            setattr(other, name, getattr(self, name))
        other._guess = list(self._guess)
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
                logs = node.logprob + self._rows[node].logprobs[tokens].astype(np.float64)
                found.append((node, tokens, logs))
        return found

    def _after(self, states: Sequence[State], byte: int) -> list[State]:
        """The states after one more byte, those of new nodes last."""
        model, going, new = self.model, [], []
        for node, at in states:
            at = model.vocabulary.child(at, byte)
            if at < 0:
                continue
            going.append((node, at))
            for token in model.vocabulary.exact_ids(at):
                child = self._child(node, token)
                if child is not None:
                    new.append((child, 0))
        return going + new

    def _child(self, node: Node, token: int) -> Node | None:
        """A new node, unless the law gives it no say."""
        model, after = self.model, DEAD
        if node.configuration != DEAD:
            after = model.canonical.step(node.configuration, token)
        if after == DEAD and model.law != "all":
            return None
        child, row = Node(model.pool, token, node, after), self._rows.get(node)
        if row is not None and node.logprob is not None:
            child.logprob = node.logprob + float(row.logprobs[token])
        return child

    def _look_ahead(self, room: int) -> list[Node]:
        """At most `room` nodes that are likely to be needed next: those along the likeliest token
        that is open, as far as the text so far makes its bytes likely. Not under law `all`, whose
        beam decides at every byte."""
        v, found = self.model.vocabulary, []
        known = [(n, at) for n, at in self.states if at and n in self._rows]
        if self.model.law == "all" or self._base is None or self._guess or not known:
            return found
        node, at = max(known, key=lambda state: self._reaching(*state))
        low, high = v.low[at], v.high[at]
        place = low + int(np.argmax(self._rows[node].probabilities[low:high]))
        states, likely = self.states, self._base + math.log(_LIKELY)
        for byte in v.spellings[v.order[place]][v.depth[at] :]:
            at = v.child(at, byte)
            if self._reaching(node, at) < likely:
                break
            states = self._after(states, byte)
            new = [n for n, where in states if not where]
            if len(found) + len(new) > room:
                break
            self._guess.append((byte, states))
            found += new
        return found

    def _nodes(self) -> set[Node]:
        """Those that have a say, or will have if the guess is right."""
        every = (self.states, *(states for _, states in self._guess))
        return {node for states in every for node, _ in states}

    def _read(self) -> None:
        read_together([self])

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
                raise UserError(impossible(byte, number, self.model.law))

    def _sum(self) -> None:
        """Sums up what is known of the distribution after the bytes so far."""
        for node, at in self.states:
            if node in self._rows and node not in self._summed:
                self._masses.add_one(self._rows[node], node.logprob, at)
                self._summed.add(node)

    def _reaching(self, node: Node, at: int) -> float:
        """Log-mass of the covers that go through a node and a last token from `at` of the trie."""
        v = self.model.vocabulary
        return node.logprob + log_mass(self._rows[node], v, v.low[at], v.high[at])

    def _prune(self) -> None:
        """Law `all`: keeps the likeliest states, and the canonical ones."""
        v, beam = self.model.vocabulary, self.model.beam
        self.dropped = 0.0
        if beam is None or len(self.states) <= beam:
            return
        weights = []
        for node, at in self.states:
            if at:  # what is exactly here goes on in a node of its own
                weight = log_mass(self._rows[node], v, v.exact[at], v.high[at])
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
    """Evaluates what several sessions of one model wait for, in as few calls as one needs."""
    wanted = {n: None for s in sessions for n, _ in s.states if n not in s._rows}
    if not wanted:
        return
    if len(wanted) <= len(sessions) and _AHEAD:
        wanted |= {n: None for session in sessions for n in session._look_ahead(_AHEAD)}
    model, rows = sessions[0].model, {}

    def meanwhile():
        for session in sessions:
            session._sum()
        if model.law == "canonical":
            for node in wanted:
                model.canonical.packed_mask(node.configuration)  # which is kept

    model.pool.read(wanted, rows, meanwhile)
    found = {node: model.following(node, rows[node]) for node in wanted}
    for session in sessions:
        session._rows |= {node: found[node] for node in session._nodes() if node in found}


def read_ahead(sessions: Sequence[ByteSession]) -> None:
    """Evaluates what sessions of one model are going to be asked for together, where that is
    cheaper; members of ensembles included."""
    if isinstance(sessions[0], TokenizedSession):
        read_together(sessions)
    elif isinstance(sessions[0], EnsembleSession):
        for its in zip(*(session.members for session in sessions)):
            read_ahead(its)


def impossible(byte: int, at: int, law: str) -> str:
    return (f"byte {byte:#04x} at {at} has no probability under law {law}: no token that the model "
            "can predict spells it there")
