"""What the inference service answers: the calls' result codes and documents.

Codes and their numbers are those of chromeos/services/machine_learning/public/mojom (machine_learning_service, model, graph_executor).
Codes that the ML service does not have say so; their numbers are above all of its own.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from auditor.errors import AuditError
from auditor.inference.watch import Limits
from auditor.inference.wire import Status
from auditor.tflite.graph import Tensor as Stated
from auditor.zoo.published import Tensor


class ServiceError(AuditError):
    """The service was used as it cannot be used: after it was closed, or from a second event loop."""


class LoadModelResult(enum.Enum):
    """How a model was loaded."""

    OK = 0
    MODEL_SPEC_ERROR = 1
    """No model of that name is published, or a model has no name for the metrics."""
    LOAD_MODEL_ERROR = 2
    """The file does not exist, is not the one that was published, or is no model."""
    FEATURE_NOT_SUPPORTED_ERROR = 3
    LANGUAGE_NOT_SUPPORTED_ERROR = 4


class CreateGraphExecutorResult(enum.Enum):
    """How a graph executor was created. An external delegate stands where the ML service has its GPU delegate."""

    OK = 0
    MODEL_INTERPRETATION_ERROR = 1
    """The runtime does not have an operator of the model, or refuses its graph."""
    MEMORY_ALLOCATION_ERROR = 2
    NNAPI_UNAVAILABLE = 3
    """What every request for NNAPI gets: ChromeOS has none."""
    NNAPI_USE_ERROR = 4
    GPU_UNAVAILABLE = 5
    """The delegate's library does not exist, or cannot be loaded."""
    GPU_USE_ERROR = 6
    """The delegate could not be created, or failed on the graph."""
    DELEGATE_CONFIG_ERROR = 7
    """More than one delegate is asked for."""
    NOT_FULLY_DELEGABLE = 8
    """The delegate does not take every operator of the graph."""
    WORKER_ERROR = 100
    """Not of the ML service: the worker could not be started or confined, or ended badly."""


class ExecuteResult(enum.Enum):
    """How a request was executed."""

    OK = 0
    INPUT_MISSING_ERROR = 1
    UNKNOWN_INPUT_ERROR = 2
    INPUT_TYPE_ERROR = 3
    INPUT_SHAPE_ERROR = 4
    INPUT_FORMAT_ERROR = 5
    """The values are not as many as the shape has."""
    OUTPUT_MISSING_ERROR = 6
    UNKNOWN_OUTPUT_ERROR = 7
    DUPLICATE_OUTPUT_ERROR = 8
    EXECUTION_ERROR = 9
    """The runtime or the worker failed, or the model has an input or output that the ML service does not take (see `TYPES`)."""
    BUDGET_ERROR = 100
    """Not of the ML service, whose design asks for it: more time, processor time or memory than the budget has."""
    RATE_ERROR = 101
    """Not of the ML service: more requests than the budget has, or more that wait."""


TYPES = ("float32", "int32", "uint8", "int64", "bool")
"""Types of inputs and outputs that the ML service takes (ml/graph_executor_delegate.cc)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What requests may use. What is exceeded ends the worker; rates and the queue only refuse the request. Raises ValueError.

    Rates are of one client and one model, whatever executors the client makes. `idle_cpu_seconds` is processor time that a worker may use
    after a reply while it is asked for nothing; `idle_seconds` is how long it may wait for the next request before it is ended.
    """

    seconds: float = 30.0
    cpu_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    """Resident memory of the worker."""
    requests_per_minute: int = 100_000
    requests_per_hour: int = 6_000_000
    requests_per_day: int = 144_000_000
    waiting: int = 256
    """Requests to one worker that may wait at one time."""
    idle_cpu_seconds: float = 1.0
    idle_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu_seconds", "idle_cpu_seconds", *(("idle_seconds",) if self.idle_seconds is not None else ())):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
                raise ValueError(f"budget: {name}: {value!r}, expected a number above 0")
        for name in ("memory_bytes", "requests_per_minute", "requests_per_hour", "requests_per_day", "waiting"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"budget: {name}: {value!r}, expected a whole number of 1 or more")

    def limits(self) -> Limits:
        """The limits of a worker."""
        return Limits(request_seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_bytes=self.memory_bytes)


@dataclass(frozen=True, slots=True)
class Source:
    """A model's file: it is what it must be, and a model. `name` is what metrics call it."""

    name: str
    sha256: str
    content: bytes = field(repr=False)
    operators: Mapping[str, int] = field(repr=False)
    """What it needs of a runtime (operators.py)."""
    inputs: tuple[Stated, ...] = field(repr=False)
    outputs: tuple[Stated, ...] = field(repr=False)
    """As the file states them."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a request waited for its turn, and how long the runtime's Invoke took, as the worker has it, in nanoseconds."""

    queue_ns: int
    compute_ns: int


@dataclass(frozen=True, slots=True)
class Executed:
    """The answer to a request to execute. `status` says how the worker failed, where it did."""

    result: ExecuteResult
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    message: str = ""
    status: Status | None = None
    timing: Timing | None = None
