"""What the controller and a worker say to each other, and the words for how a run ends.

A frame is a header (a JSON object) and a payload (raw tensor bytes), after their lengths: `<IQ`, little-endian. Each request
carries an `id` that its one reply repeats. The worker shares its process with the vendor's code, so the controller takes nothing
in a reply on trust: sizes are bounded here, values are checked where they are used.
"""

from __future__ import annotations

import enum
import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNTIMES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
"""Distribution and package of each TFLite runtime, the preferred one first."""
PILLOW = "pillow"
"""What is imported in a runtime's place by a worker that decodes an image."""
AUTO = "auto"
"""The first runtime that is installed and works."""

LENGTHS = struct.Struct("<IQ")
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 1 << 28
MAX_MESSAGE = 2000
"""Characters kept of any message that comes from a runtime, a model or a vendor."""


class Outcome(str, enum.Enum):
    """How a run ended. All but COMPLETED name what went wrong; the stage says when."""

    COMPLETED = "completed"
    RUNTIME_MISSING = "runtime-missing"
    """The TFLite runtime is not installed, or does not work here."""
    UNCONFINABLE = "unconfinable"
    """The kernel cannot confine the worker, and nobody allowed it to run unconfined."""
    LOAD_FAILED = "load-failed"
    """The runtime refused the model (malformed, an operator it does not have, tensors of a kind that cannot be fed)."""
    OPERATOR_MISSING = "operator-missing"
    """The model needs an operator, or a version of one, that the runtime does not have."""
    DELEGATE_MISSING = "delegate-missing"
    DELEGATE_NOT_LOADABLE = "delegate-not-loadable"
    """The dynamic loader refused the file: not a library for this machine, or one of its own libraries is absent."""
    DELEGATE_NOT_A_DELEGATE = "delegate-not-a-delegate"
    DELEGATE_UNSUPPORTED = "delegate-unsupported"
    """A delegate of a kind that this runner cannot use: a stable or an opaque one."""
    DELEGATE_CREATE_FAILED = "delegate-create-failed"
    DELEGATE_NOT_APPLIED = "delegate-not-applied"
    """A native tool went on without the delegate, on the CPU."""
    TOOL_UNUSABLE = "tool-unusable"
    """A native tool cannot be run, or does not know a flag that it is needed for."""
    OUTPUT_UNREADABLE = "output-unreadable"
    """A native tool does not print what it must, or prints what contradicts itself."""
    PREPARE_FAILED = "prepare-failed"
    INVOKE_FAILED = "invoke-failed"
    DIED = "died"
    """Ended by a signal that was not ours."""
    EXITED = "exited"
    """Ended by itself, with whatever code, while it was expected to answer."""
    TIMED_OUT = "timed-out"
    CPU_EXCEEDED = "cpu-exceeded"
    """Used more processor time than one request may."""
    OUT_OF_MEMORY = "out-of-memory"
    PROTOCOL_ERROR = "protocol-error"
    """Answered something that an honest worker cannot answer."""
    OUTPUT_SHAPE_MISMATCH = "output-shape-mismatch"
    """Output tensors differ from the reference's in number, type or shape."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run ended. `process` is reference, test, memory or accuracy; None and an empty message where they do not apply."""

    outcome: Outcome
    process: str | None = None
    stage: str | None = None
    signal: int | None = None
    exit: int | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the `status` of a run document."""
        return asdict(self) | {"outcome": self.outcome.value}


class WorkerFailure(Exception):  # noqa: N818 - it is what the auditor looks for, not an error of its own
    """The worker failed; it is of no further use. `output` is what its process printed."""

    def __init__(self, status: Status, output: str = "") -> None:
        super().__init__(status.message)
        self.status, self.output = status, output


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of one subgraph that the delegate took: its kernel's name, and the operators' indexes in the file."""

    subgraph: int
    name: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claims:
    """Operators of each subgraph before the delegate, and what it took of them."""

    operators: tuple[int, ...]
    partitions: tuple[Partition, ...]


class ProtocolError(ValueError):
    """A frame that is not one. The message says what is wrong with it."""


class RequestError(Exception):
    """The worker could not do what it was asked; it lives on and says so."""

    def __init__(self, outcome: Outcome, stage: str, message: str) -> None:
        super().__init__(message)
        self.outcome, self.stage, self.message = outcome, stage, bounded(message)


def bounded(text: str, limit: int = MAX_MESSAGE) -> str:
    """Cut a stranger's text to a length, with control characters (but newline and tab) made visible as '?'."""
    kept = "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text[:limit])
    return kept if len(text) <= limit else kept + "…"


def not_imported(problem: ImportError | OSError) -> str:
    """Why an import failed, in a line: numpy says a page, and names the cause behind it."""
    cause = problem.__cause__ if isinstance(problem.__cause__, ImportError | OSError) else problem
    return bounded(" ".join(str(cause).split()), 400)


def shown(text: str) -> str:
    """Return a file name or an argument as text that any JSON reader takes: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(text).decode(errors="replace")


def pack(header: Mapping[str, Any], payload: bytes = b"") -> bytes:
    """Return a frame."""
    return start(header, len(payload)) + payload


def start(header: Mapping[str, Any], size: int) -> bytes:
    """Return a frame but for its payload of `size` bytes."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), size) + text


def lengths(start: bytes | bytearray, max_payload: int = MAX_PAYLOAD) -> tuple[int, int]:
    """Return the sizes of header and payload, from the first bytes of a frame. Raises ProtocolError."""
    header, payload = LENGTHS.unpack_from(start)
    if not 0 < header <= MAX_HEADER or payload > max_payload:
        raise ProtocolError(f"a frame of {header} + {payload} bytes, expected at most {MAX_HEADER} + {max_payload}")
    return header, payload


def parse_header(text: bytes | bytearray) -> dict[str, Any]:
    """Return a frame's header. Raises ProtocolError."""
    try:
        header = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("a frame's header is not JSON") from None
    if not isinstance(header, dict):
        raise ProtocolError("a frame's header is not a JSON object")
    return header


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
