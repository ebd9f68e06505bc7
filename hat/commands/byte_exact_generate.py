"""Continues a prompt that may end anywhere: inside a token, a word or a character.

A cover of the prompt is drawn as likely as the law has it, and the model goes on in tokens.
With --each-byte a distribution is computed, and sampled from, at every byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int, raw
from hat.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder of hat train or convert")
    add_prompt(parser)
    parser.add_argument("--fim", metavar=("PREFIX", "SUFFIX"), nargs=2,
                        help="fill in between; the model needs tokens for it, such as <|fim_middle|>")
    parser.add_argument("--law", default="canonical", help="canonical (default), all or last-free")
    parser.add_argument("--beam", metavar="K", type=positive_int, default=16, help="of --law all")
    parser.add_argument("--each-byte", action="store_true",
                        help="sample bytes, not tokens: --top-k and --top-p are about bytes then")
    add_sampling(parser)


def add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue; may be empty")
    parser.add_argument("--prompt-file", metavar="FILE", type=Path,
                        help="the prompt as the bytes of a file")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=200,
                        help="the longest continuation (default: 200)")
    parser.add_argument("-n", metavar="N", type=positive_int, default=1, help="continuations")
    parser.add_argument("--stop", metavar="TEXT", default="", help="end before this text")
    parser.add_argument("--temperature", metavar="T", type=float, default=1.0,
                        help="0 takes the likeliest every time (default: 1, the law itself)")
    parser.add_argument("--top-k", metavar="K", type=positive_int)
    parser.add_argument("--top-p", metavar="P", type=float)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")


def run(arguments: argparse.Namespace) -> dict:
    prompt = read_prompt(arguments)
    from hat.byte_exact.generate import continue_bytes, continue_tokens
    from hat.byte_exact.run import load_byte_model
    from hat.byte_exact.tokenized import TokenizedModel

    options = sampling_options(arguments)
    model = load_byte_model(arguments.model, arguments.law, arguments.beam)
    if isinstance(model, TokenizedModel) and not arguments.each_byte:
        context = fill_in_context(model, arguments.fim)
        results = continue_tokens(model, prompt, context=context, **options)
    elif arguments.fim:
        raise UserError("--fim needs a tokenized model with such tokens, and no --each-byte")
    else:
        results = continue_bytes(model, prompt, **options)
    return show(arguments, results)


def read_prompt(arguments: argparse.Namespace) -> bytes:
    given = [arguments.prompt, arguments.prompt_file, getattr(arguments, "fim", None)]
    if sum(value is not None for value in given) != 1:
        raise UserError("give one of --prompt TEXT, --prompt-file FILE (and --fim, where it is)")
    if arguments.prompt_file is not None:
        try:
            return arguments.prompt_file.read_bytes()
        except OSError as error:
            raise UserError(f"--prompt-file {arguments.prompt_file}: {error.strerror}") from None
    return raw(arguments.fim[0] if arguments.prompt is None else arguments.prompt)


def sampling_options(arguments: argparse.Namespace) -> dict:
    from hat.inference.sampling import Sampling

    sampling = Sampling(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed
    )
    return dict(num_bytes=arguments.bytes, samples=arguments.n, sampling=sampling,
                stop=raw(arguments.stop))


def fill_in_context(model, fim: list[str] | None) -> list[int]:
    """What stands before the prefix: the suffix, between the tokens that announce it, so that the
    prefix comes last and may end inside a token (suffix-prefix-middle, arXiv 2207.14255)."""
    if fim is None:
        return []
    tokenizer = model.vocabulary.tokenizer
    known = {t["content"]: t["id"] for t in getattr(tokenizer, "spec", {}).get("added_tokens", ())}
    for form in ("<fim_{}>", "<|fim_{}|>", "<fim-{}>"):
        names = [form.format(part) for part in ("prefix", "suffix", "middle")]
        if all(name in known for name in names):
            prefix, suffix, middle = (known[name] for name in names)
            return [prefix, suffix, *tokenizer.encode(raw(fim[1])).tolist(), middle]
    raise UserError(
        f"tokenizer {tokenizer.name} has no tokens such as <|fim_prefix|>: the model cannot fill in"
    )


def show(arguments: argparse.Namespace, results) -> dict:
    def readable(data: bytes) -> str:
        return data.decode("utf-8", "replace")

    for result in results:
        print(readable(result.prompt + result.text))
        print("-" * 80)
    return {
        "samples": [
            {
                "prompt": readable(result.prompt), "text": readable(result.text),
                "prompt_hex": result.prompt.hex(), "text_hex": result.text.hex(),
                "nats": -result.logprob, "ended": result.stopped,
            }
            for result in results
        ],
    }  # fmt: skip
