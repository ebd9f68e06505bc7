"""The web application: `/v1/completions`, `/v1/models`, `/health`, `/metrics`, and the tokenizer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from hat.errors import UserError
from hat.inference.engine import Engine
from hat.serving.completions import (
    BadRequest,
    Choice,
    Completion,
    Limits,
    read_completion,
    requests_of,
    usage,
)
from hat.serving.metrics import Metrics
from hat.serving.tokenizing import detokenize, tokenize, tokenizer_info
from hat.serving.worker import Ticket, Worker, WorkerFailed

CLIENT_LEFT = 499  # no response is sent; what logs and metrics of web servers call it


def make_app(engine: Engine, name: str, *, limits: Limits = Limits(), token: str = "") -> Starlette:
    """name: of the model. token: what clients must send as `Authorization: Bearer TOKEN`; empty:
    nothing."""
    server = Server(engine, name, limits, token)
    return Starlette(
        routes=[
            Route("/v1/completions", server.guarded(server.completions), methods=["POST"]),
            Route("/v1/models", server.guarded(server.models)),
            Route("/v1/models/{name:path}", server.guarded(server.model)),
            Route("/tokenizer_info", server.guarded(server.tokenizer_info)),
            Route("/tokenize", server.guarded(server.tokenize), methods=["POST"]),
            Route("/detokenize", server.guarded(server.detokenize), methods=["POST"]),
            Route("/metrics", server.guarded(server.metrics_text)),
            Route("/health", server.health),
        ],
        exception_handlers={HTTPException: _http_error, BadRequest: _bad_request,
                            ClientDisconnect: _gone},
        lifespan=server.lifespan,
    )


class Server:
    """What the routes share."""

    def __init__(self, engine: Engine, name: str, limits: Limits, token: str):
        self.worker, self.name, self.limits = Worker(engine), name, limits
        self.metrics, self.tokenizer = Metrics(), engine.tokenizer
        self._token, self._began = token.encode(), int(time.time())
        self._numbers = iter(range(10**18))

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.worker.start()
        yield
        self.worker.close()

    def guarded(self, handler: Callable) -> Callable:
        """The handler for those who know the token."""

        async def guard(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("utf-8", "replace")
            if self._token and not hmac.compare_digest(given, b"Bearer " + self._token):
                self.metrics.requests[401] += 1
                return _error("send the header 'Authorization: Bearer TOKEN'", 401,
                              {"WWW-Authenticate": "Bearer"})  # fmt: skip
            return await handler(request)

        return guard

    async def health(self, _: Request) -> Response:
        if self.worker.failed:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    async def metrics_text(self, _: Request) -> Response:
        text = self.metrics.text(self.worker)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return JSONResponse(self._model())

    async def tokenizer_info(self, _: Request) -> Response:
        return JSONResponse(tokenizer_info(self.tokenizer, self.limits))

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request, time.monotonic() + self.limits.seconds)
        return JSONResponse(tokenize(body, self.tokenizer, self.limits))

    async def detokenize(self, request: Request) -> Response:
        body = await self._body(request, time.monotonic() + self.limits.seconds)
        return JSONResponse(detokenize(body, self.tokenizer))

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._began, "owned_by": "hat"}

    def _check_name(self, name: str | None) -> None:
        if name not in (None, self.name):
            raise BadRequest(f"there is no model {name!r} here, only {self.name!r}", 404)

    async def completions(self, request: Request) -> Response:
        try:
            return await self._complete(request)
        except BadRequest as error:
            self.metrics.requests[error.status] += 1
            raise
        except ClientDisconnect:
            self.metrics.requests[CLIENT_LEFT] += 1
            raise

    async def _complete(self, request: Request) -> Response:
        began = time.monotonic()
        deadline = began + self.limits.seconds
        completion = read_completion(await self._body(request, deadline))
        self._check_name(completion.model)
        requests = requests_of(completion, self.tokenizer, self.limits)
        if len(self.worker.tickets) + len(requests) > self.limits.waiting:
            raise BadRequest("the queue is full; try again later", 429)
        try:
            tickets = self.worker.submit(requests)
        except UserError as error:
            raise BadRequest(str(error)) from None
        except WorkerFailed:
            raise BadRequest("the engine has failed", 503) from None
        self.metrics.prompt_tokens += sum(len(r.ids) - 1 for r in requests[:: completion.n])
        answer = Answer(self, completion, tickets, began, deadline)
        if completion.stream:
            return StreamingResponse(answer.events(), media_type="text/event-stream",
                                     headers={"Cache-Control": "no-cache"})  # fmt: skip
        return await answer.whole(request)

    async def _body(self, request: Request, deadline: float) -> Any:
        """The JSON of the body. BadRequest, ClientDisconnect."""
        most, data = self.limits.body_bytes, bytearray()
        too_long = BadRequest(f"the body is longer than {most} bytes", 413)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise too_long
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for piece in request.stream():
                    data += piece
                    if len(data) > most:
                        raise too_long
        except TimeoutError:
            raise BadRequest("the body did not come in time", 408) from None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from None

    def begin_response(self) -> dict[str, Any]:
        return {
            "id": f"cmpl-{next(self._numbers)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
        }


class Answer:
    """The answer to one request, as a whole or as a stream of events."""

    def __init__(
        self,
        server: Server,
        completion: Completion,
        tickets: Sequence[Ticket],
        began: float,
        deadline: float,
    ):
        self._server, self._completion, self._tickets = server, completion, tickets
        self._began, self._deadline = began, deadline
        self._frame = server.begin_response()
        self._first: float | None = None
        self._choices = [
            Choice(index, ticket.continuation, completion, server.tokenizer)
            for index, ticket in enumerate(tickets)
        ]

    async def whole(self, request: Request) -> Response:
        finished = asyncio.create_task(self._finish())
        left = asyncio.create_task(_left(request))
        status = 500
        try:
            await asyncio.wait({finished, left}, return_when=asyncio.FIRST_COMPLETED)
            if not finished.done():
                status = CLIENT_LEFT
                return Response(status_code=CLIENT_LEFT)
            finished.result()
            status = 200
            return JSONResponse({
                **self._frame,
                "choices": [choice.piece() for choice in self._choices],
                "usage": self._usage(),
            })  # fmt: skip
        except TimeoutError:
            status = 504
            return _error(f"not finished in {self._server.limits.seconds:g} seconds", 504)
        except WorkerFailed:
            return _error("the engine has failed", 500)
        finally:
            finished.cancel()
            left.cancel()
            self._close(status)

    async def _finish(self) -> None:
        async with asyncio.timeout(self._deadline - time.monotonic()):
            for ticket in self._tickets:
                while ticket.continuation.finish is None:
                    await self._news(ticket)

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: pieces of the choices as they come, then [DONE]."""
        status, extra = CLIENT_LEFT, (self._completion.stream_options or {})
        with_usage = bool(extra.get("include_usage"))
        arrived: asyncio.Queue[int] = asyncio.Queue()
        watchers = [
            asyncio.create_task(self._watch(number, arrived)) for number in range(len(self._tickets))
        ]
        try:
            going = len(self._tickets)
            async with asyncio.timeout(self._deadline - time.monotonic()):
                while going:
                    number = await arrived.get()
                    if watchers[number].done() and watchers[number].exception():
                        raise watchers[number].exception()
                    piece = self._choices[number].piece()
                    if piece is None:
                        continue
                    going -= piece["finish_reason"] is not None
                    frame = {**self._frame, "choices": [piece]}
                    yield _event({**frame, "usage": None} if with_usage else frame)
            if with_usage:
                yield _event({**self._frame, "choices": [], "usage": self._usage()})
            status = 200
            yield "data: [DONE]\n\n"
        except TimeoutError:
            status = 504
            seconds = self._server.limits.seconds
            yield _event(_error_body(f"not finished in {seconds:g} seconds", 504))
        except WorkerFailed:
            status = 500
            yield _event(_error_body("the engine has failed", 500))
        finally:
            for watcher in watchers:
                watcher.cancel()
            self._close(status)

    async def _watch(self, number: int, arrived: asyncio.Queue[int]) -> None:
        """Says that a choice has something new, until it has ended."""
        ticket = self._tickets[number]
        try:
            while True:
                await self._news(ticket)
                ended = ticket.continuation.finish is not None
                arrived.put_nowait(number)
                if ended:
                    return
        except WorkerFailed:
            asyncio.get_running_loop().call_soon(arrived.put_nowait, number)
            raise

    async def _news(self, ticket: Ticket) -> None:
        await ticket.news()
        if self._first is None:
            self._first = time.monotonic()
        if self._server.worker.failed and ticket.continuation.finish is None:
            raise WorkerFailed

    def _usage(self) -> dict[str, int]:
        return usage([ticket.continuation for ticket in self._tickets], self._completion.n)

    def _close(self, status: int) -> None:
        metrics, now = self._server.metrics, time.monotonic()
        metrics.requests[status] += 1
        metrics.generated_tokens += sum(len(t.continuation.ids) for t in self._tickets)
        if status == 200:
            metrics.completed += 1
            metrics.seconds += now - self._began
            metrics.first_seconds += (self._first or now) - self._began
        self._server.worker.release(self._tickets)


async def _left(request: Request) -> None:
    """Returns once the client has gone."""
    while not (await request.receive())["type"] == "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _error_body(message: str, status: int) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(_error_body(message, status), status, headers)


async def _bad_request(_: Request, error: BadRequest) -> Response:
    headers = {"Retry-After": "1"} if error.status == 429 else {}
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    return _error(str(error), error.status, headers)


async def _gone(_: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _http_error(_: Request, error: HTTPException) -> Response:
    return _error(error.detail, error.status_code)
