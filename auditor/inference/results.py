"""What the inference service answers: the calls' result codes and documents.

Sources: chromeos/services/machine_learning/public/mojom (machine_learning_service, model, graph_executor). Codes that the ML service does
not have say so.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from auditor.inference.watch import Limits
from auditor.inference.wire import Status
from auditor.zoo.published import Tensor


class LoadModelResult(enum.Enum):
    """How a model was loaded."""

    OK = "OK"
    MODEL_SPEC_ERROR = "MODEL_SPEC_ERROR"
    """No model of that name is published."""
    LOAD_MODEL_ERROR = "LOAD_MODEL_ERROR"
    """The file is not there, is not the one that was published, or is no model."""


class CreateGraphExecutorResult(enum.Enum):
    """How a graph executor was created."""

    OK = "OK"
    MODEL_INTERPRETATION_ERROR = "MODEL_INTERPRETATION_ERROR"
    """The runtime does not have an operator of the model, or refuses its graph."""
    MEMORY_ALLOCATION_ERROR = "MEMORY_ALLOCATION_ERROR"
    DELEGATE_UNAVAILABLE = "DELEGATE_UNAVAILABLE"
    """The delegate's library is absent, or cannot be loaded; the ML service has this for NNAPI and GPU."""
    DELEGATE_USE_ERROR = "DELEGATE_USE_ERROR"
    """The delegate could not be created, or failed on the graph; the ML service has this for NNAPI and GPU."""
    WORKER_ERROR = "WORKER_ERROR"
    """Not of the ML service: the worker could not be started or confined, or ended badly."""


class ExecuteResult(enum.Enum):
    """How a request was executed."""

    OK = "OK"
    INPUT_MISSING_ERROR = "INPUT_MISSING_ERROR"
    UNKNOWN_INPUT_ERROR = "UNKNOWN_INPUT_ERROR"
    INPUT_TYPE_ERROR = "INPUT_TYPE_ERROR"
    INPUT_SHAPE_ERROR = "INPUT_SHAPE_ERROR"
    INPUT_FORMAT_ERROR = "INPUT_FORMAT_ERROR"
    """The values are not as many as the shape has."""
    OUTPUT_MISSING_ERROR = "OUTPUT_MISSING_ERROR"
    UNKNOWN_OUTPUT_ERROR = "UNKNOWN_OUTPUT_ERROR"
    DUPLICATE_OUTPUT_ERROR = "DUPLICATE_OUTPUT_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    BUDGET_ERROR = "BUDGET_ERROR"
    """Not of the ML service, whose design asks for it: more time, processor time, memory or requests than the budget has."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What requests to one executor may use; what is exceeded ends the worker, but for the rate, which only refuses the request."""

    seconds: float = 30.0
    cpu_seconds: float = 60.0
    memory_bytes: int = 1 << 30
    """Resident memory of the worker."""
    requests_per_minute: int = 100_000

    def limits(self) -> Limits:
        """The limits of a worker."""
        return Limits(request_seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_bytes=self.memory_bytes)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was loaded: its file is what it must be, and a model. `name` is what metrics call it."""

    name: str
    sha256: str
    content: bytes = field(repr=False)
    operators: Mapping[str, int] = field(repr=False)
    """What it needs of a runtime (operators.py)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The answer to a request to load a model."""

    result: LoadModelResult
    model: Model | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Executed:
    """The answer to a request to execute. `status` says how the worker failed, where it did."""

    result: ExecuteResult
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    message: str = ""
    status: Status | None = None
