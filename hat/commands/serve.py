"""Serves a trained model by the OpenAI completions interface.

    curl http://127.0.0.1:8000/v1/completions -d '{"prompt": "def ", "max_tokens": 100}'

POST /v1/completions (stream, logprobs, echo, stop, n, seed), GET /v1/models, /health and /metrics
(for Prometheus), and /tokenizer_info, /tokenize and /detokenize, by which lm-evaluation-harness's
local-completions works without a tokenizer of its own. A token is a byte of a HAT. Many requests are continued at once. The server listens
on this machine alone unless --host says otherwise; where others can reach it, give it a token: a
file with --token-file, or HAT_SERVE_TOKEN. SIGTERM and interrupts let what runs come to its end.

Needs the extra: pip install -e '.[serve]'.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

CONNECTIONS = 1_000  # beside four for every place in the queue; then 503


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="(default: 127.0.0.1)")
    parser.add_argument("--port", metavar="N", type=int, default=8000,
                        help="0 takes a free one (default: 8000)")
    parser.add_argument("--name", metavar="NAME", help="of the model (default: that of the run)")
    parser.add_argument("--token-file", metavar="FILE", type=Path,
                        help="clients must send this token (default: $HAT_SERVE_TOKEN)")
    parser.add_argument("--rows", metavar="N", type=positive_int, default=16,
                        help="continuations at once; others wait (default: 16)")
    parser.add_argument("--prefixes", metavar="N", type=int, default=32,
                        help="rows kept for prompts that begin alike (default: 32)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--prompt-bytes", metavar="N", type=positive_int, default=65_536,
                        help="the longest prompt (default: 65536)")
    limits.add_argument("--words", metavar="N", type=positive_int, default=8_192,
                        help="the most words of a text (tokens of a subword model), its prompt "
                        "included: what bounds the memory of a row (default: 8192)")
    limits.add_argument("--output-bytes", metavar="N", type=positive_int, default=4_096,
                        help="the largest max_tokens (default: 4096)")
    limits.add_argument("--choices", metavar="N", type=positive_int, default=128,
                        help="the most of n times prompts in a request (default: 128)")
    limits.add_argument("--queue", metavar="N", type=positive_int, default=256,
                        help="continuations running and waiting; then 429 (default: 256)")
    limits.add_argument("--seconds", metavar="S", type=float, default=300.0,
                        help="the longest time of a request (default: 300)")
    limits.add_argument("--body-bytes", metavar="N", type=positive_int, default=1_048_576,
                        help="the longest body of a request (default: 1048576)")
    limits.add_argument("--drain-seconds", metavar="S", type=positive_int, default=30,
                        help="what a stop waits for (default: 30)")


def run(arguments: argparse.Namespace) -> dict:
    token = read_token(arguments.token_file)
    try:
        import uvicorn

        from hat.serving.app import make_app
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; pip install -e '.[serve]'") from None
    from hat.inference.engine import Engine
    from hat.inference.run import load_run
    from hat.serving.completions import Limits
    from hat.serving.warm_up import ROOM, warm_up

    listening = listen(arguments.host, arguments.port)
    loaded = load_run(arguments.run)
    engine = Engine(loaded.model, loaded.params, loaded.rule, max_rows=arguments.rows,
                    prefixes=max(arguments.prefixes, 0), max_words=arguments.words,
                    room=ROOM)  # fmt: skip
    name = arguments.name or loaded.experiment.name
    del loaded  # the engine has the parameters in the form that it needs
    began = time.monotonic()
    warm_up(engine, lambda text: print(text, file=sys.stderr, flush=True))
    app = make_app(
        engine,
        name,
        limits=Limits(
            prompt_bytes=arguments.prompt_bytes,
            output_bytes=arguments.output_bytes,
            choices=arguments.choices,
            waiting=arguments.queue,
            seconds=arguments.seconds,
            body_bytes=arguments.body_bytes,
        ),
        token=token,
    )
    listening.listen(1024)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"ready after {time.monotonic() - began:.0f} s: {address}/v1/completions",
          file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30,
        limit_concurrency=CONNECTIONS + 4 * arguments.queue,
        timeout_graceful_shutdown=arguments.drain_seconds, h11_max_incomplete_event_size=65_536,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # uvicorn drains, and then sends itself the signal that stopped it: an end like any other.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listening])
    return {"address": address}


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. UserError: the address is taken, or none of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host} port {port}: {reason}") from None
    return listening


def read_token(path: Path | None) -> str:
    """The token of clients; empty for none."""
    if path is None:
        return os.environ.get("HAT_SERVE_TOKEN", "").strip()
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file {path}: {getattr(error, 'strerror', None) or error}") from None
    if not token:
        raise UserError(f"--token-file {path} is empty; write a token into it")
    return token
