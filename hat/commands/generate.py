"""Continues prompts with a trained model, or answers them.

Each continuation ends after --bytes bytes, at the end of text that the model predicts, or before a
text of --stop. It is shown as it comes. Bytes that are no UTF-8 appear as U+FFFD (--valid-utf8 draws
none); --json gives the exact bytes too, in hexadecimal.

With --chat every prompt is a message, and what follows is the answer of a model that was trained on
conversations. Without a prompt it is a conversation: a line of standard input is a message, and
the end of input ends it.
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hat.commands.arguments import positive_int
from hat.errors import UserError

if TYPE_CHECKING:
    from hat.inference.sampling import Sampling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[],
                        help="text to continue; may be given several times, and may be empty")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="a file with a prompt a line")
    parser.add_argument("--chat", action="store_true",
                        help="answer the prompts; without one, talk over standard input")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: what the model is told first")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=200,
                        help="the longest continuation (default: 200)")
    parser.add_argument("-n", metavar="N", type=positive_int, default=1,
                        help="continuations of each prompt (default: 1)")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.8,
                        help="0 takes the likeliest byte every time (default: 0.8)")
    parser.add_argument("--top-k", metavar="K", type=positive_int,
                        help="sample from the K likeliest bytes only")
    parser.add_argument("--top-p", metavar="P", type=float,
                        help="sample from the likeliest bytes that hold P of the probability")
    parser.add_argument("--min-p", metavar="P", type=float, default=0.0,
                        help="sample from bytes at least P times as likely as the likeliest only")
    parser.add_argument("--repetition-penalty", metavar="R", type=float, default=1.0,
                        help="above 1: the latest 64 bytes become less likely (default: 1)")
    parser.add_argument("--valid-utf8", action="store_true",
                        help="draw only what keeps the text well-formed UTF-8")
    parser.add_argument("--stop", metavar="TEXT", action="append", default=[],
                        help="end before this text; may be given several times")
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=16,
                        help="continuations at once (default: 16)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.system is not None and not arguments.chat:
        raise UserError("--system is of --chat: add that, or leave it out")
    if arguments.chat and not arguments.prompt and arguments.prompts is None:
        return talk(arguments, sys.stdin.buffer)
    prompts = read_prompts(arguments)
    if "" in arguments.stop:
        raise UserError("--stop '': an empty text stands everywhere; leave it out")
    from hat.inference.generation import generate
    from hat.inference.run import load_run
    from hat.text.chat import Message

    sampling = read_sampling(arguments)
    asked = [prompt for prompt in prompts for _ in range(arguments.n)]
    printer = InOrder([b"> " + p + b"\n" if arguments.chat else p for p in asked])

    before = [] if arguments.system is None else [Message("system", _bytes(arguments.system))]
    chats = [[*before, Message("user", prompt)] for prompt in prompts]
    results = generate(
        load_run(arguments.run),
        chats if arguments.chat else prompts,
        num_bytes=arguments.bytes,
        samples=arguments.n,
        stops=[_bytes(stop) for stop in arguments.stop],
        batch_size=arguments.batch_size,
        on_bytes=printer.take,
        **dataclasses.asdict(sampling),
    )
    return {
        "run": str(arguments.run),
        "samples": [
            {
                "prompt": _readable(prompt),
                "text": _readable(result.text),
                "prompt_hex": prompt.hex(),
                "text_hex": result.text.hex(),
                "nats": -result.logprob,
                "ended": result.stopped,
            }
            for prompt, result in zip(asked, results)
        ],
    }


def talk(arguments: argparse.Namespace, lines: Iterable[bytes]) -> dict:
    """Answers line after line, each as its bytes come; returns what was said."""
    if arguments.n != 1:
        raise UserError(f"-n {arguments.n}: a conversation has one answer a turn; give --prompt")
    from hat.inference.chat import Conversation
    from hat.inference.engine import Engine
    from hat.inference.run import load_run

    sampling, loaded = read_sampling(arguments), load_run(arguments.run)
    engine = Engine(loaded.model, loaded.params, loaded.rule, max_rows=1)
    system = None if arguments.system is None else _bytes(arguments.system)
    conversation = Conversation(engine, system)
    sys.stderr.write("> ")
    sys.stderr.flush()
    for line in lines:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def show(_: int, piece: bytes | None, decoder=decoder) -> None:
            end = "\n" if piece is None else ""
            print(decoder.decode(piece or b"", final=piece is None), end=end, flush=True)

        conversation.answer(
            line.rstrip(b"\r\n"), num_bytes=arguments.bytes, sampling=sampling, on_bytes=show
        )
        sys.stderr.write("> ")
        sys.stderr.flush()
    sys.stderr.write("\n")
    return {
        "run": str(arguments.run),
        "messages": [
            {"role": role, "content": _readable(content), "content_hex": content.hex()}
            for role, content in conversation.messages
        ],
    }


class InOrder:
    """Prints continuations one after the other, each as it comes where it is its turn."""

    def __init__(self, prompts: list[bytes]):
        self._waiting: list[list[bytes | None]] = [[prompt] for prompt in prompts]
        # Nothing is printed before the first bytes come: until then a mistake may be found.
        self._turn, self._decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, index: int, piece: bytes | None) -> None:
        """What the text at `index` grows by; None: it has ended."""
        self._waiting[index].append(piece)
        if index == self._turn:
            self._print()

    def _print(self) -> None:
        while self._turn < len(self._waiting):
            pieces, self._waiting[self._turn] = self._waiting[self._turn], []
            ended = None in pieces
            text = b"".join(piece for piece in pieces if piece is not None)
            print(self._decoder.decode(text, final=ended), end="", flush=True)
            if not ended:
                return
            print("\n" + "-" * 80)
            self._turn += 1


def read_sampling(arguments: argparse.Namespace) -> Sampling:
    """The rule that the options say. UserError: one is out of its range."""
    from hat.inference.sampling import Sampling

    return Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        valid_utf8=arguments.valid_utf8,
    )


def read_prompts(arguments: argparse.Namespace) -> list[bytes]:
    """The prompts of --prompt, then those of --prompts: every line without its newline."""
    prompts = [_bytes(prompt) for prompt in arguments.prompt]
    if arguments.prompts is not None:
        try:
            prompts += arguments.prompts.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"--prompts {arguments.prompts}: {error.strerror}") from None
    if not prompts:
        raise UserError("no prompt; give --prompt TEXT (--prompt '' starts from nothing)")
    return prompts


def _bytes(argument: str) -> bytes:
    # What the shell passed that is no UTF-8 arrives as surrogate escapes; bytes are what we model.
    return argument.encode(sys.getfilesystemencoding(), "surrogateescape")


def _readable(data: bytes) -> str:
    return data.decode("utf-8", "replace")
