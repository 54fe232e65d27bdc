"""The service over HTTP: the Open Inference Protocol, version 2, on a socket of this machine's own.

Result codes become 400, 404, 408, 413, 429 and 503; each such answer says the ML service's own code and number. A stranger costs what the
limits say: connections, requests at one time, seconds for a header, for a body and for taking an answer, bytes of a body. What is slow is
cut, and others do not wait for it: bodies are read in a thread, models run in workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from aiohttp import web

from auditor import __version__
from auditor.inference.client import Client, PredictionError
from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult, LoadModelResult, ServiceError
from auditor.inference.wire import Outcome
from auditor.model import visible
from auditor.serving import figures, listen, protocol
from auditor.serving.protocol import BadRequest

if TYPE_CHECKING:
    import enum
    from collections.abc import Awaitable, Callable, Mapping

    from auditor.inference.graph_executor import GraphExecutor
    from auditor.inference.service import InferenceService
    from auditor.inference.wire import Status

VERSION = "1"
"""The version of every model: a folder of published models has one of each."""
_JSON = "application/json"
_TEXT = {"json": _JSON, "prometheus": "text/plain; version=0.0.4", "uma": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers may use together, and each of them. `uids` are who may connect to a Unix socket; none: whoever its mode lets."""

    connections: int = 128
    requests: int = 64
    """Requests at one time; more get 429."""
    clients: int = 64
    """Users by whom executors are kept."""
    body_bytes: int = protocol.MAX_BODY
    bodies_bytes: int = 1 << 30
    """Of all bodies at one time."""
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    keep_seconds: float = 60.0
    drain_seconds: float = 30.0
    idle_seconds: float | None = None
    uids: frozenset[int] = field(default_factory=frozenset)


class _Connection(asyncio.Protocol):
    """Stands between a transport and aiohttp's own protocol: counts connections, asks who is there, and cuts who says nothing."""

    def __init__(self, server: Server, inner: asyncio.Protocol) -> None:
        self._server, self._inner = server, inner
        self._timer: asyncio.TimerHandle | None = None
        self.client = "loopback"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        if not self._server.admit(self, stream.get_extra_info("socket")):
            stream.abort()
            return
        self._inner.connection_made(transport)
        self._timer = asyncio.get_running_loop().call_later(self._server.limits.header_seconds, stream.abort)

    def begun(self) -> None:
        """Note that a request's header is there."""
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun()
        if self._server.dismiss(self):
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class Server:
    """A service behind a listening socket. `run` until it is told to stop, or was idle for long enough."""

    def __init__(self, service: InferenceService, listening: socket.socket, limits: Limits) -> None:
        self.limits = limits
        self._service, self._listening = service, listening
        self._is_local = listening.family == socket.AF_UNIX
        self._clients: dict[str, Client] = {}
        self._connections: set[_Connection] = set()
        self._requests = self._bodies = 0
        self._last = time.monotonic()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="bodies")
        self._stopping, self._quiet = asyncio.Event(), asyncio.Event()
        self._quiet.set()

    def admit(self, connection: _Connection, peer: socket.socket) -> bool:
        """Whether a connection may stay."""
        if len(self._connections) >= self.limits.connections or self._stopping.is_set():
            return False
        if self._is_local:
            try:
                uid = listen.peer_uid(peer)
            except OSError:
                return False
            if self.limits.uids and uid not in self.limits.uids:
                return False
            connection.client = f"uid:{uid}"
        self._connections.add(connection)
        return True

    def dismiss(self, connection: _Connection) -> bool:
        """Forget a connection; whether it had been admitted."""
        was = connection in self._connections
        self._connections.discard(connection)
        self._last = time.monotonic()
        return was

    def stop(self) -> None:
        """Take no more connections, finish what is begun, and return from `run`. May be called again."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve. On SIGTERM and SIGINT, drain."""
        loop = asyncio.get_running_loop()
        app = web.Application(middlewares=[self._guard], client_max_size=self.limits.body_bytes)
        app.add_routes(
            [
                web.get("/v2", self._server_metadata),
                web.get("/v2/health/live", self._ready),
                web.get("/v2/health/ready", self._ready),
                web.post("/v2/repository/index", self._index),
                web.get("/metrics", self._metrics),
            ]
        )
        for prefix in ("/v2/models/{model}", f"/v2/models/{{model}}/versions/{VERSION}"):
            app.add_routes(
                [
                    web.get(prefix, self._metadata),
                    web.get(f"{prefix}/ready", self._model_ready),
                    web.post(f"{prefix}/infer", self._infer),
                ]
            )
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=self.limits.keep_seconds,
            lingering_time=2.0,
            auto_decompress=False,
            handle_signals=False,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        inner = runner.server
        assert inner is not None

        def connect() -> asyncio.Protocol:
            return _Connection(self, inner())

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        create = loop.create_unix_server if self._is_local else loop.create_server
        accepting = await create(connect, sock=self._listening)
        try:
            await self._until_told()
            accepting.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self.limits.drain_seconds)
        finally:
            accepting.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await inner.shutdown(1.0)
            await runner.cleanup()
            self._readers.shutdown(wait=False)
            for client in self._clients.values():
                await client.close()

    async def _until_told(self) -> None:
        idle = self.limits.idle_seconds
        while not self._stopping.is_set():
            left = math.inf if idle is None or self._connections else self._last + idle - time.monotonic()
            if left <= 0:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), None if idle is None else max(0.05, min(left, idle)))

    # --- around every request

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """Refuse what is not for this service, answer what is wrong, and cut who does not take the answer."""
        connection = request.transport.get_protocol() if request.transport else None
        if isinstance(connection, _Connection):
            connection.begun()
        self._last = time.monotonic()
        if self._requests >= self.limits.requests:
            response: web.StreamResponse = _refusal(429, ExecuteResult.RATE_ERROR, f"{self.limits.requests} requests run already")
            response.force_close()
        else:
            self._requests += 1
            self._quiet.clear()
            try:
                response = self._misdirected(request) or await self._answered(request, handler)
            finally:
                self._requests -= 1
                self._last = time.monotonic()
                if not self._requests:
                    self._quiet.set()
        if self._stopping.is_set():
            response.force_close()
        try:
            await asyncio.wait_for(_sent(request, response), self.limits.answer_seconds)
        except asyncio.TimeoutError:
            if request.transport:
                request.transport.abort()
        return response

    def _misdirected(self, request: web.Request) -> web.Response | None:
        """A page in a browser on this machine could send requests to a port of it; it cannot hide where it comes from."""
        if self._is_local:
            return None
        name = request.headers.get("Host", "").rpartition(":")[0] or request.headers.get("Host", "")
        if name.lower() not in {"127.0.0.1", "localhost", "[::1]"} or "Origin" in request.headers:
            return _refusal(400, ExecuteResult.INPUT_FORMAT_ERROR, "expected a request to this machine's own address, and from no web page")
        return None

    async def _answered(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        try:
            return await handler(request)
        except BadRequest as problem:
            return _refusal(400, problem.code, str(problem))
        except PredictionError as problem:
            return _refusal(_status(problem.result, problem.status), problem.result, problem.message)
        except ServiceError as problem:  # it is being closed
            return _refusal(503, CreateGraphExecutorResult.WORKER_ERROR, str(problem))
        except web.HTTPException as problem:
            code = LoadModelResult.MODEL_SPEC_ERROR if problem.status == 404 else ExecuteResult.INPUT_FORMAT_ERROR
            return _refusal(problem.status, code, problem.reason)

    # --- what is asked

    async def _server_metadata(self, _request: web.Request) -> web.Response:
        return _document({"name": "crosml-audit", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]})

    async def _ready(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _index(self, _request: web.Request) -> web.Response:
        return _document([{"name": name, "version": VERSION, "state": "READY"} for name in sorted(self._service.published)])

    async def _metrics(self, request: web.Request) -> web.Response:
        form = request.query.get("format", "prometheus")
        if form not in figures.FORMATS:
            raise BadRequest(ExecuteResult.INPUT_FORMAT_ERROR, f"format: expected one of {', '.join(figures.FORMATS)}")
        kept = self._service.metrics
        body = {"json": lambda: json.dumps(figures.document(kept)).encode(), "prometheus": lambda: figures.prometheus(kept).encode()}
        return web.Response(body=body.get(form, lambda: figures.uma(kept))(), headers={"Content-Type": _TEXT[form]})

    async def _metadata(self, request: web.Request) -> web.Response:
        executor, name = await self._executor(request)
        return _document(protocol.metadata(name, VERSION, executor.inputs.values(), executor.outputs.values()))

    async def _model_ready(self, request: web.Request) -> web.Response:
        await self._executor(request)
        return web.Response()

    async def _infer(self, request: web.Request) -> web.Response:
        name = self._name(request)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise BadRequest(ExecuteResult.INPUT_FORMAT_ERROR, "Content-Encoding: expected identity")
        body = bytearray()
        try:
            refused = await self._read(request, body)
            if refused:
                return refused
            in_thread = asyncio.get_running_loop().run_in_executor
            asked = await in_thread(self._readers, protocol.read_request, body, request.headers.get(protocol.BINARY_HEADER))
            # only now: while a body came, the worker may have ended
            executor, _ = await self._executor(request)
            names = tuple(each.name for each in asked.wanted)
            done = await executor.execute(asked.inputs, names + tuple(name for name in executor.outputs if name not in names))
            if done.result is not ExecuteResult.OK:
                return _refusal(_status(done.result, done.status), done.result, done.message)
            answer, json_bytes = await in_thread(self._readers, protocol.answer, name, VERSION, asked, done.outputs)
        finally:
            self._bodies -= len(body)
        headers = {"Content-Type": _JSON if json_bytes is None else "application/octet-stream"}
        if json_bytes is not None:
            headers[protocol.BINARY_HEADER] = str(json_bytes)
        return web.Response(body=answer, headers=headers)

    def _name(self, request: web.Request) -> str:
        """The model that is asked for. Raises PredictionError."""
        name = request.match_info["model"]
        if name not in self._service.published:
            raise PredictionError(LoadModelResult.MODEL_SPEC_ERROR, f"{visible(name)[:100]}: not published")
        return name

    async def _executor(self, request: web.Request) -> tuple[GraphExecutor, str]:
        """The caller's executor of the model that is asked for, and the model's name. Raises PredictionError."""
        name = self._name(request)
        connection = request.transport.get_protocol() if request.transport else None
        user = connection.client if isinstance(connection, _Connection) else ""
        client = self._clients.get(user)
        if client is None:
            if len(self._clients) >= self.limits.clients:
                raise PredictionError(ExecuteResult.RATE_ERROR, f"{self.limits.clients} users have executors already")
            client = self._clients[user] = Client(self._service, user)
        return await client.executor(name), name

    async def _read(self, request: web.Request, body: bytearray) -> web.Response | None:
        """Read a body within the limits; what is wrong with it, where it is."""
        limit, length = self.limits.body_bytes, request.content_length
        response: web.Response | None = None
        if length is not None and length > limit:
            response = _refusal(413, ExecuteResult.INPUT_FORMAT_ERROR, f"a body of {length} bytes, expected {limit} at most")
        else:
            try:
                response = await asyncio.wait_for(self._receive(request, body, limit), self.limits.body_seconds)
            except asyncio.TimeoutError:
                message = f"the body was not there in {self.limits.body_seconds:g} s"
                response = _refusal(408, ExecuteResult.INPUT_FORMAT_ERROR, message)
            except (ConnectionError, web.RequestPayloadError):  # a client that leaves is no line in a log
                response = _refusal(400, ExecuteResult.INPUT_FORMAT_ERROR, "the body was cut short")
        if response:
            response.force_close()
        return response

    async def _receive(self, request: web.Request, body: bytearray, limit: int) -> web.Response | None:
        async for part in request.content.iter_any():
            if len(body) + len(part) > limit:
                return _refusal(413, ExecuteResult.INPUT_FORMAT_ERROR, f"a body of more than {limit} bytes")
            if self._bodies + len(part) > self.limits.bodies_bytes:
                return _refusal(429, ExecuteResult.RATE_ERROR, "too many bytes of requests at one time")
            body += part
            self._bodies += len(part)
        return None


async def _sent(request: web.Request, response: web.StreamResponse) -> None:
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()


_STATUS: Mapping[enum.Enum, int] = {
    LoadModelResult.MODEL_SPEC_ERROR: 404,
    ExecuteResult.RATE_ERROR: 429,
    ExecuteResult.BUDGET_ERROR: 408,
    ExecuteResult.EXECUTION_ERROR: 503,
}


def _status(result: enum.Enum, status: Status | None = None) -> int:
    """The status of HTTP for a result; the clients' own mistakes are 400, and what only the service can mend is 503."""
    if result is ExecuteResult.BUDGET_ERROR and status is not None and status.outcome is Outcome.OUT_OF_MEMORY:
        return 503
    if isinstance(result, ExecuteResult):
        return _STATUS.get(result, 400)
    return _STATUS.get(result, 503) if isinstance(result, LoadModelResult | CreateGraphExecutorResult) else 503


def _refusal(status: int, code: enum.Enum, message: str) -> web.Response:
    """The protocol's error object, with the ML service's code."""
    document = {"error": message, "call": type(code).__name__, "code": code.name, "number": code.value}
    return web.Response(status=status, body=json.dumps(document).encode(), headers={"Content-Type": _JSON})


def _document(content: object) -> web.Response:
    return web.Response(body=json.dumps(content).encode(), headers={"Content-Type": _JSON})


async def serve(service: InferenceService, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM, SIGINT, or so many idle seconds; then every worker is ended."""
    async with service:
        await Server(service, listening, limits).run()


def own_uids() -> frozenset[int]:
    """Who may connect by default: this user, and root."""
    return frozenset({0, os.geteuid()})
