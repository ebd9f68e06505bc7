"""The OpenAI completions interface: what a request says, and what is answered.

A token is a byte of a HAT or a token of a Llama; `max_tokens` counts bytes for both. What is text
in JSON is UTF-8 here; in `logprobs`, a token that is no text by itself is spelled `bytes:\\xe4`.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import secrets
import typing
from collections.abc import Sequence
from typing import Any

from hat.errors import UserError
from hat.inference.burst import MOST_TOPS
from hat.inference.requests import Continuation, Request
from hat.inference.sampling import Sampling
from hat.text.tokenizers import Tokenizer


class BadRequest(Exception):
    """A request that cannot be done, and the HTTP status that says so."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for. seconds: from its first byte to its last; body_bytes: of the
    JSON; waiting: continuations in the server, running ones included."""

    prompt_bytes: int = 65_536
    output_bytes: int = 4_096
    choices: int = 128  # prompts times n
    stops: int = 16
    waiting: int = 256
    seconds: float = 300.0
    body_bytes: int = 1_048_576


@dataclasses.dataclass(frozen=True)
class Completion:
    """The fields of a request that are understood; the same names as OpenAI's, and top_k, min_p,
    repetition_penalty and valid_utf8, which are those of `hat generate`."""

    prompt: Any
    model: str | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stream: bool = False
    stream_options: dict | None = None
    logprobs: int | None = None
    echo: bool = False
    stop: Any = None
    seed: int | None = None
    user: str | None = None
    best_of: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict | None = None
    suffix: str | None = None
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    valid_utf8: bool = False


_KINDS = typing.get_type_hints(Completion)
_NOT_OFFERED = ("presence_penalty", "frequency_penalty", "logit_bias", "suffix")


def read_completion(body: Any) -> Completion:
    """The request of a JSON value. BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    for name, value in body.items():
        if name not in _KINDS:
            near = difflib.get_close_matches(name, _KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise BadRequest(f"there is no field {name!r}{hint}")
        if not _is_kind(value, _KINDS[name]):
            raise BadRequest(f"{name!r} has a value of the wrong type")
    if "prompt" not in body:
        raise BadRequest("'prompt' is missing")
    given = {name: value for name, value in body.items() if value is not None}
    completion = Completion(**{"prompt": None, **given})
    for name in _NOT_OFFERED:
        if getattr(completion, name):
            raise BadRequest(f"{name!r} is not offered here; leave it out")
    if completion.best_of not in (None, completion.n):
        raise BadRequest("'best_of' must equal 'n': no choice is left out here")
    if completion.logprobs is not None and not 0 <= completion.logprobs <= MOST_TOPS:
        raise BadRequest(f"'logprobs' {completion.logprobs} must be between 0 and {MOST_TOPS}")
    return completion


def _is_kind(value: Any, kind: Any) -> bool:
    if kind is Any or value is None:
        return True
    (kind,) = [kind] if isinstance(kind, type) else [
        k for k in typing.get_args(kind) if k is not type(None)
    ]  # fmt: skip
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if kind is float else kind)


def is_id(value: Any) -> bool:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def requests_of(completion: Completion, tokenizer: Tokenizer, limits: Limits) -> list[Request]:
    """One request a choice: prompt after prompt, `n` of each. BadRequest."""
    if not 0 <= completion.max_tokens <= limits.output_bytes:
        raise BadRequest(
            f"'max_tokens' {completion.max_tokens} must be between 0 and {limits.output_bytes}, the "
            "most bytes that this server writes at once"
        )
    prompts = [_ids(prompt, tokenizer) for prompt in _prompts(completion.prompt)]
    if completion.n < 1 or completion.n * len(prompts) > limits.choices:
        raise BadRequest(
            f"'n' {completion.n} times {len(prompts)} prompts must be between 1 and "
            f"{limits.choices} choices"
        )
    for ids in prompts:
        size = int(tokenizer.byte_lengths[ids].sum())
        if size > limits.prompt_bytes:
            raise BadRequest(
                f"a prompt of {size} bytes is longer than the {limits.prompt_bytes} that this "
                "server reads", 413,
            )  # fmt: skip
    try:
        sampling = Sampling(
            temperature=float(completion.temperature),
            top_k=completion.top_k,
            top_p=completion.top_p,
            seed=secrets.randbits(32) if completion.seed is None else completion.seed,
            min_p=completion.min_p,
            repetition_penalty=completion.repetition_penalty,
            valid_utf8=completion.valid_utf8,
        )
    except UserError as error:
        raise BadRequest(str(error)) from None
    stops = _stops(completion.stop, limits)
    wanted = completion.logprobs is not None
    return [
        Request(
            [tokenizer.bos, *ids], completion.max_tokens, sampling, prompt=number, sample=sample,
            stops=stops, tops=wanted, scores=wanted and completion.echo,
        )
        for number, ids in enumerate(prompts)
        for sample in range(completion.n)
    ]  # fmt: skip


def _prompts(prompt: Any) -> list[Any]:
    """The prompts, one or a list of them: each a text or a list."""
    if isinstance(prompt, str) or (
        isinstance(prompt, list) and prompt and all(_is_kind(id, int) for id in prompt)
    ):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise BadRequest("'prompt' must be a text, a list of token ids, or a list of these")
    return prompt


def _ids(prompt: Any, tokenizer: Tokenizer) -> list[int]:
    """Without the BOS with which ids may begin: every text has it."""
    if isinstance(prompt, str):
        return tokenizer.encode(utf8(prompt, "prompt")).tolist()
    if isinstance(prompt, list) and all(map(is_id, prompt)):
        ids = prompt[_names_bos(prompt, tokenizer) :]
        for id in ids:
            if not (0 <= id < len(tokenizer.byte_lengths) and tokenizer.byte_lengths[id]):
                raise BadRequest(f"'prompt' has the id {id}, which is no token of text")
        return ids
    raise BadRequest("'prompt' must be a text, a list of token ids, or a list of these")


def _names_bos(prompt: Any, tokenizer: Tokenizer) -> bool:
    return isinstance(prompt, list) and prompt[:1] == [tokenizer.bos]


def _stops(stop: Any, limits: Limits) -> tuple[bytes, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
        raise BadRequest("'stop' must be a text that is not empty, or a list of these")
    if len(stops) > limits.stops or sum(map(len, stops)) > 256 * limits.stops:
        raise BadRequest(f"'stop' has more than {limits.stops} texts, or too long ones")
    return tuple(utf8(stop, "stop") for stop in stops)


def utf8(text: str, field: str) -> bytes:
    """The bytes of a text of JSON. BadRequest: it has none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{field!r} has a lone surrogate, which is no character") from None


class Choice:
    """One continuation as the interface shows it, all at once or piece by piece."""

    def __init__(
        self, index: int, continuation: Continuation, completion: Completion, tokenizer: Tokenizer
    ):
        self.index, self.continuation = index, continuation
        self._completion, self._tokenizer = completion, tokenizer
        self._shown = 0  # bytes of the continuation's text
        self._tokens = 0  # and of its tokens
        self._offset = 0  # characters shown, the prompt's included where it is echoed
        self._text_decoder, self._token_decoder = _decoder(), _decoder()
        self._echoed = not completion.echo

    def piece(self) -> dict[str, Any] | None:
        """What is new since the last time, as an element of `choices`; None for nothing."""
        made = self.continuation
        finish, size = made.finish, len(made.text)  # in this order: a finished text does not grow
        if finish is None and size == self._shown:
            return None
        new, echoes = bytes(made.text[self._shown : size]), not self._echoed
        if echoes:
            self._echoed = True
            new = b"".join(map(self._tokenizer.token_bytes, made.request.ids)) + new
        text = self._text_decoder.decode(new, final=finish is not None)
        piece = {"index": self.index, "text": text, "logprobs": None, "finish_reason": finish}
        if self._completion.logprobs is not None:
            piece["logprobs"] = self._logprobs(size, finish is not None, echoes)
        self._shown = size
        return piece

    def _logprobs(self, size: int, finished: bool, echoes: bool) -> dict[str, list]:
        """Of the tokens that begin before byte `size` of the text and were not shown."""
        made, shown = self.continuation, _Logprobs()
        if echoes:
            prompt = _prompts(self._completion.prompt)[made.request.prompt]
            if _names_bos(prompt, self._tokenizer):  # one of the client's tokens, under no law
                shown.add_bos(self._offset)
            for id, nats, top in zip(made.request.ids[1:], made.prompt_nats, made.prompt_tops):
                self._add(shown, id, nats, top)
        lengths = self._tokenizer.byte_lengths
        begin = self._shown
        while self._tokens < len(made.ids):
            id = made.ids[self._tokens]
            # The end of text is a token too, without a text.
            if not (begin < size or (finished and self._ends(id))):
                break
            self._add(shown, id, made.nats[self._tokens], made.tops[self._tokens])
            begin += int(lengths[id])
            self._tokens += 1
        return dataclasses.asdict(shown)

    def _ends(self, id: int) -> bool:
        return not self._tokenizer.byte_lengths[id]

    def _add(self, shown: _Logprobs, id: int, nats: float, top) -> None:
        spelled = self._tokenizer.token_bytes(id)
        shown.tokens.append(token_text(spelled))
        shown.token_logprobs.append(-float(nats))
        likeliest = zip(top[0][: self._completion.logprobs], top[1])
        shown.top_logprobs.append(
            {token_text(self._tokenizer.token_bytes(int(i))): -float(n) for i, n in likeliest}
        )
        shown.text_offset.append(self._offset)
        self._offset += len(self._token_decoder.decode(spelled))


@dataclasses.dataclass
class _Logprobs:
    tokens: list[str] = dataclasses.field(default_factory=list)
    token_logprobs: list[float | None] = dataclasses.field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = dataclasses.field(default_factory=list)
    text_offset: list[int] = dataclasses.field(default_factory=list)

    def add_bos(self, offset: int) -> None:
        self.tokens.append("")
        self.token_logprobs.append(None)
        self.top_logprobs.append(None)
        self.text_offset.append(offset)


def token_text(spelled: bytes) -> str:
    """The bytes of a token as JSON can show them."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def usage(continuations: Sequence[Continuation], samples: int) -> dict[str, int]:
    """Tokens read and written; a prompt counts once, whatever its samples."""
    prompts = sum(len(made.request.ids) - 1 for made in continuations[::samples])
    written = sum(len(made.ids) for made in continuations)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": written,
        "total_tokens": prompts + written,
    }


def _decoder():
    return codecs.getincrementaldecoder("utf-8")("replace")
