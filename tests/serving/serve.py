"""A server over real sockets of this machine, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading

import uvicorn

from hat.serving.app import make_app
from hat.text.splitters import make_splitter

WORDS = make_splitter("words")


@contextlib.contextmanager
def serving(engine, **options):
    """Its address; options of `make_app`."""
    config = uvicorn.Config(make_app(engine, "tiny", **options), log_level="error")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield "http://127.0.0.1:%d" % listening.getsockname()[1]
    server.should_exit = True
    thread.join()
