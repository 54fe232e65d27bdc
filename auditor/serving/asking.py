"""One question to a service that runs, by HTTP; the standard library is enough for that."""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.model import visible

if TYPE_CHECKING:
    from auditor.serving.listen import Place

MAX_ANSWER = 64 << 20
_SECONDS = 10.0


class _Connection(http.client.HTTPConnection):
    """A connection to a place of this machine."""

    def __init__(self, place: Place) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._place = place

    def connect(self) -> None:
        place = self._place
        if place.path is None:
            self.sock = socket.create_connection((place.host.strip("[]"), place.port), _SECONDS)
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(place.path)


def ask(place: Place, path: str) -> bytes:
    """The body of the answer. Raises AuditError."""
    connection = _Connection(place)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as problem:
        where = place.path or f"{place.host}:{place.port}"
        raise AuditError(visible(f"--connect: {where}: {getattr(problem, 'strerror', None) or problem}")) from None
    finally:
        connection.close()
    if answer.status != 200 or len(body) > MAX_ANSWER:
        raise AuditError(f"--connect: the service answered {answer.status}, with {len(body)} bytes")
    return body
