"""What goes between the controller and one worker: a pipe each way, frames (wire.py), and values that are checked as they are read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.inference import wire
from auditor.inference.wire import Claims, Partition, ProtocolError
from auditor.tflite.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from auditor.tflite.tensors import Bytes

PIPE_BYTES = 1 << 20
MAX_PARTS = 64
"""Parts of a payload that are written at one time."""
_SEAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's reply, and the nanoseconds from its request to it."""

    header: dict[str, Any]
    payload: bytes
    ns: int


class Channel:
    """The controller's two ends: requests go out one at a time, and each has one reply.

    `theirs` are the worker's descriptors, for requests and for replies; they are closed on its stack, ours on ours.
    """

    def __init__(self, theirs: contextlib.ExitStack, ours: contextlib.ExitStack) -> None:
        request_read, self.requests = pipe(theirs, ours)
        reply_write, self.replies = pipe(theirs, ours, reverse=True)
        self.theirs = request_read, reply_write
        self.received = bytearray()
        self._pending: list[memoryview] = []
        self._request_id = 0
        self._started = 0

    @property
    def is_pending(self) -> bool:
        """Whether part of the request is still to be written."""
        return bool(self._pending)

    def begin(self, action: str, header: Mapping[str, Any], payload: Sequence[Bytes]) -> None:
        """Start a request; nobody can have answered it in advance. `write` sends what the pipe does not take at once.

        The payload's parts are sent as they lie: a large input is not copied.
        """
        self._request_id = int.from_bytes(os.urandom(6), "little")
        frame = wire.start({"id": self._request_id, "do": action, **header}, sum(map(len, payload)))
        self._started = time.perf_counter_ns()
        self._pending = [memoryview(part) for part in (frame, *payload) if len(part)]
        self.write()

    def write(self) -> None:
        """Write what the pipe takes."""
        with contextlib.suppress(BlockingIOError):
            try:
                written = os.writev(self.requests, self._pending[:MAX_PARTS])
            except BrokenPipeError:
                self._pending = []  # it is ending; the next poll tells how
                return
            while self._pending and written >= len(self._pending[0]):
                written -= len(self._pending.pop(0))
            if written:
                self._pending[0] = self._pending[0][written:]

    def take(self, max_payload: int) -> Reply | None:
        """Return the reply if it is complete. Raises ProtocolError, and ValueError for a reply to another request."""
        start = wire.LENGTHS.size
        if len(self.received) < start:
            return None
        header_size, payload_size = wire.lengths(self.received, max_payload)
        end = start + header_size + payload_size
        if len(self.received) < end:
            return None
        elapsed = time.perf_counter_ns() - self._started
        if len(self.received) > end:
            raise ProtocolError("more than one reply to a request")
        header = wire.parse_header(self.received[start : start + header_size])
        payload = bytes(self.received[start + header_size :])
        self.received.clear()
        if header["id"] != self._request_id:
            raise ValueError("a reply to another request")
        return Reply(header, payload, elapsed)


class Log:
    """The two ends of a stream of any length, each of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head, self._tail, self._total = b"", b"", 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self._total == len(self._head) + len(self._tail)

    def add(self, part: bytes) -> None:
        """Take the next part."""
        self._total += len(part)
        room = self._limit - len(self._head)
        self._head += part[:room]
        self._tail = (self._tail + part[room:])[-self._limit :]

    def text(self) -> str:
        """Both ends, and how much is left out between them."""
        dropped = self._total - len(self._head) - len(self._tail)
        gap = f"\n… {dropped} bytes left out …\n".encode() if dropped else b""
        return wire.bounded((self._head + gap + self._tail).decode(errors="replace"), 3 * self._limit)


def pipe(theirs: contextlib.ExitStack, ours: contextlib.ExitStack, *, reverse: bool = False) -> tuple[int, int]:
    """Open a pipe and return the worker's end and ours, which does not block; the worker reads from it unless reversed."""
    their_end, our_end = reversed(os.pipe()) if reverse else os.pipe()
    theirs.callback(os.close, their_end)
    ours.callback(os.close, our_end)
    os.set_blocking(our_end, False)
    with contextlib.suppress(OSError):  # the system may allow less; it is only speed
        fcntl.fcntl(our_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return their_end, our_end


def _seal(descriptor: int, attempts: int = 50) -> None:
    """Let nobody change a file in memory. While the kernel itself holds one of its pages, it says EBUSY: that passes."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    except OSError as problem:
        if problem.errno != errno.EBUSY or attempts == 1:
            raise
        time.sleep(_SEAL_SECONDS)
        _seal(descriptor, attempts - 1)


def sealed(data: bytes) -> int:
    """Return a descriptor of a file in memory that holds `data` and that nobody can change."""
    descriptor = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        _seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_text(value: object) -> str:
    """A text of a reply, bounded."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return wire.bounded(value)


def read_count(value: object) -> int:
    """A number of a reply, 0 or more."""
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} where a number of 0 or more was expected")
    return value


def read_tensor(item: dict[str, Any]) -> TensorSpec:
    """A tensor of a reply: its shape and type."""
    tensor = TensorSpec(read_text(item.get("name", "")), tuple(map(read_count, item["shape"])), read_text(item["dtype"]))
    if tensor.nbytes > wire.MAX_PAYLOAD:
        raise ValueError(f"a tensor of {tensor.nbytes} bytes, expected at most {wire.MAX_PAYLOAD}")
    return tensor


def read_claims(item: dict[str, Any]) -> Claims:
    """Read what the delegate took; each operator exists and is taken once."""
    operators = tuple(map(read_count, item["operators"]))
    partitions = tuple(
        Partition(read_count(part["subgraph"]), read_text(part["name"]), tuple(map(read_count, part["nodes"])))
        for part in item["partitions"]
    )
    taken = [(part.subgraph, node) for part in partitions for node in part.nodes]
    if len(set(taken)) != len(taken):
        raise ValueError("an operator is in two partitions")
    if any(subgraph >= len(operators) or node >= operators[subgraph] for subgraph, node in taken):
        raise ValueError("a partition holds an operator that the model does not have")
    return Claims(operators, partitions)
