"""The worker: a fresh process that holds one model, one runtime and at most one vendor's delegate, and does as it is told.

It is started by `auditor.inference.process`, reads requests from one descriptor and writes replies to another (`wire`); what the
runtime or the vendor prints goes to the standard descriptors and never mixes with them. Requests, in their order:

    hello     {runtime}                   -> {python, runtime: {name, version}, folders: of the code that runs here}
    confine   {policy, notify}            -> {landlock_abi, listener, problems}
    operators                             -> {operators: {name: greatest version}} of the runtime
    escape    {scratch}                   -> {escapes: [{attempt, refused}]}
    delegate  {library, options}          -> {}
    model     {descriptor, threads, xnnpack} -> {inputs, outputs: [{name, shape, dtype}], claims: {operators, partitions} | null}
    input     payload: all inputs         -> {}
    invoke                                -> {ns}
    output                                -> {outputs: [{shape, dtype}]}, payload: all outputs
    run       payload: all inputs         -> {ns, outputs: [{shape, dtype}]}, payload: all outputs; input, invoke and output at once
    drop                                  -> {}
    picture   {descriptor, width, height, crop} -> {}, payload: pixels; after a hello for Pillow (decoding.py)
    quit                                  -> {}

A worker that is to become one of TFLite's own tools has, after confine and escape, this alone; its supervisor tells its end:

    become    {arguments}                 -> only an error, where that cannot be

From delegate on, a request may have the number of an `executor`, 0 without: each has a delegate and an interpreter of its own, and what
one of them remembers from inference to inference, no other sees.
With a `count`, input, invoke and output are of a batch of so many inferences: `ns` and `outputs` are then lists of what one has. The
inputs are then covered, and invoke has the `key` to them and gives `digests` of the outputs (sealing.py).
A request that fails is answered with {error: {outcome, stage, message}}.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict
from importlib import import_module, metadata
from typing import Any, NoReturn

from auditor.inference import sealing, wire
from auditor.inference.wire import AUTO, PILLOW, RUNTIMES, Outcome, RequestError
from auditor.inference.worker import confine, decoding, escapes
from auditor.inference.worker.delegate import WrappedDelegate
from auditor.tflite import operators
from auditor.tflite.tensors import TensorSpec


class _Executor:
    """One interpreter and its delegate."""

    def __init__(self) -> None:
        self.interpreter: Any = None
        self.delegate: WrappedDelegate | None = None
        self.batch: list[bytes] = []
        self.answers: list[tuple[list[dict[str, Any]], bytes]] = []

    def destroy(self) -> None:
        """Give everything back, in the order that the ABI asks for: the interpreter, then the delegate."""
        self.interpreter = None
        if self.delegate:
            self.delegate.destroy()
            self.delegate = None


class Session:
    """The state of one worker: what is loaded so far."""

    def __init__(self, channel: tuple[int, ...] = ()) -> None:
        """Answer what comes through a channel; what this process becomes does not get it."""
        self._channel = channel
        self._policy = confine.Policy()
        self._listener: int | None = None
        self._runtime: Any = None
        self._executors: dict[int, _Executor] = {}
        self._executor = _Executor()

    def answer(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Do one request and return its reply; a failure becomes an `error` reply."""
        action = header["do"]
        self._executor = self._executors.setdefault(header.get("executor", 0), _Executor())
        try:
            return getattr(self, "do_" + action)(header, payload)  # type: ignore[no-any-return]
        except RequestError as problem:
            error = problem
        except MemoryError:
            error = RequestError(Outcome.OUT_OF_MEMORY, action, "the process could not get more memory")
        except (ValueError, RuntimeError) as problem:
            error = RequestError(Outcome.INVOKE_FAILED, action, str(problem))
        return {"error": {"outcome": error.outcome.value, "stage": error.stage, "message": error.message}}, b""

    def do_hello(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Import the runtime."""
        name, self._runtime = _import_runtime(header["runtime"])
        runtime = {"name": name, "version": metadata.version(name)}
        modules = [os, self._runtime, *([] if name == PILLOW else [import_module("numpy"), import_module("numpy.random")])]
        folders = [os.path.dirname(str(module.__file__)) for module in modules]
        return {"python": platform.python_version(), "runtime": runtime, "folders": folders}, b""

    def do_confine(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Confine this process, while it still has one thread."""
        self._policy = confine.Policy(**{name: tuple(paths) for name, paths in header["policy"].items()})
        done = confine.confine(self._policy, notify=header["notify"])
        self._listener = done["listener"]
        return done, b""

    def do_escape(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Try to get out, now that the controller listens."""
        if self._listener is not None:
            # whoever holds it could answer for the controller
            os.close(self._listener)
        return {"escapes": escapes.attempts(header["scratch"], self._policy)}, b""

    def do_operators(self, _header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """List the runtime's operators."""
        resolver = self._runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

        def accepts(model: bytes) -> bool:
            try:
                self._runtime.Interpreter(model_content=model, experimental_op_resolver_type=resolver)
            except (ValueError, RuntimeError):
                return False
            return True

        return {"operators": operators.present(accepts)}, b""

    def do_become(self, header: dict[str, Any], _payload: bytes) -> NoReturn:
        """Be another program from now on."""
        for descriptor in self._channel:
            os.set_inheritable(descriptor, False)
        try:
            os.execve(header["arguments"][0], header["arguments"], os.environ)  # noqa: S606 - Landlock and the controller say which, and once
        except (OSError, ValueError) as problem:
            raise RequestError(Outcome.TOOL_UNUSABLE, "become", str(problem)) from problem

    def do_delegate(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Load the vendor's library and create its delegate."""
        self._executor.delegate = WrappedDelegate(header["library"], header["options"])
        return {}, b""

    def do_model(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Load the model, apply the delegate, allocate the tensors."""
        resolvers = self._runtime.OpResolverType
        try:
            interpreter = self._runtime.Interpreter(
                model_path=f"/proc/self/fd/{header['descriptor']}",
                num_threads=header["threads"],
                experimental_delegates=[self._executor.delegate] if self._executor.delegate else None,
                experimental_op_resolver_type=(resolvers.AUTO if header["xnnpack"] else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES),
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError, SystemError) as problem:
            raise self._load_error(str(problem)) from problem
        self._executor.interpreter = interpreter
        return {
            "inputs": [_described(tensor) for tensor in interpreter.get_input_details()],
            "outputs": [_described(tensor) for tensor in interpreter.get_output_details()],
            "claims": self._claims(),
        }, b""

    def do_input(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Set all inputs from their bytes, one after the other; keep those of a batch."""
        if "count" in header:
            size = len(payload) // header["count"]
            self._executor.batch = [payload[size * number : size * (number + 1)] for number in range(header["count"])]
        else:
            self._set_inputs(payload)
        return {}, b""

    def do_invoke(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Run one inference, timed as benchmark_model does: Invoke alone; or a batch."""
        if "count" in header:
            return self._run_batch(bytes.fromhex(header["key"])), b""
        invoke = self._executor.interpreter.invoke
        started = time.perf_counter_ns()
        invoke()
        return {"ns": time.perf_counter_ns() - started}, b""

    def do_output(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Read all outputs, or those of a batch."""
        if "count" in header:
            answers = self._executor.answers
            return {"outputs": [described for described, _ in answers]}, b"".join(payload for _, payload in answers)
        described, payload = self._outputs()
        return {"outputs": described}, payload

    def do_run(self, _header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Run one inference from its inputs to its outputs."""
        self._set_inputs(payload)
        reply, _ = self.do_invoke({}, b"")
        described, outputs = self._outputs()
        return reply | {"outputs": described}, outputs

    def _run_batch(self, key: bytes) -> dict[str, Any]:
        """Run the batch: each inference right after its inputs are set, timed by itself as benchmark_model does it."""
        invoke = self._executor.interpreter.invoke
        times, self._executor.answers = [], []
        # all of them first: that would leave cold caches to each inference
        uncovered = [sealing.covered(payload, key, number) for number, payload in enumerate(self._executor.batch)]
        for payload in uncovered:
            self._set_inputs(payload)
            started = time.perf_counter_ns()
            invoke()
            times.append(time.perf_counter_ns() - started)
            self._executor.answers.append(self._outputs())
        return {"ns": times, "digests": [sealing.digest(payload) for _, payload in self._executor.answers]}

    def _set_inputs(self, payload: bytes) -> None:
        import numpy as np  # noqa: PLC0415 - the runtime has imported it

        offset = 0
        for tensor in self._executor.interpreter.get_input_details():
            shape, dtype = tensor["shape"], np.dtype(tensor["dtype"])
            count = int(np.prod(shape, dtype=np.int64))
            value = np.frombuffer(payload, dtype, count, offset).reshape(shape)
            self._executor.interpreter.set_tensor(tensor["index"], value)
            offset += value.nbytes

    def _outputs(self) -> tuple[list[dict[str, Any]], bytes]:
        interpreter = self._executor.interpreter
        values = [interpreter.get_tensor(tensor["index"]) for tensor in interpreter.get_output_details()]
        return [{"shape": list(value.shape), "dtype": value.dtype.name} for value in values], b"".join(value.tobytes() for value in values)

    def do_picture(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Decode an image file."""
        return {}, decoding.decode(self._runtime, header["descriptor"], header["width"], header["height"], crop=header["crop"])

    def do_quit(self, _header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Give everything back."""
        for executor in self._executors.values():
            executor.destroy()
        return {}, b""

    def do_drop(self, header: dict[str, Any], _payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Give one executor back."""
        self._executors.pop(header.get("executor", 0)).destroy()
        return {}, b""

    def _load_error(self, message: str) -> RequestError:
        if self._executor.delegate is None or not self._executor.delegate.claims.operators:
            return RequestError(Outcome.LOAD_FAILED, "model", message)
        stage = "prepare" if self._executor.delegate.failed else "kernel-prepare"
        return RequestError(Outcome.PREPARE_FAILED, stage, "; ".join([*self._executor.delegate.reports, message]))

    def _claims(self) -> dict[str, Any] | None:
        if self._executor.delegate is None:
            return None
        claims = self._executor.delegate.claims
        return {"operators": claims.operators, "partitions": [asdict(part) for part in claims.partitions]}


def _described(tensor: dict[str, Any]) -> dict[str, Any]:
    import numpy as np  # noqa: PLC0415 - the runtime has imported it

    name, shape = wire.bounded(str(tensor["name"]), 200), tuple(map(int, tensor["shape"]))
    try:
        return asdict(TensorSpec(name, shape, np.dtype(tensor["dtype"]).name))
    except ValueError as problem:
        raise RequestError(Outcome.LOAD_FAILED, "tensors", f"{name}: {problem}") from problem


def _import_runtime(choice: str) -> tuple[str, Any]:
    if choice == PILLOW:
        return choice, decoding.import_pillow()
    wanted = RUNTIMES if choice == AUTO else {choice: RUNTIMES[choice]}
    problems = []
    # one thread, because what confines a process confines one; nobody here computes with numpy
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name, package in wanted.items():
        try:
            module = import_module(f"{package}.interpreter")
            numpy = metadata.version("numpy")
        except (ImportError, OSError) as problem:
            problems.append(f"{name}: {wire.not_imported(problem)}")
            continue
        if name == "tflite-runtime" and not numpy.startswith("1."):
            # it imports, and then every Interpreter() ends in a SystemError
            problems.append(f"{name} needs numpy < 2, found {numpy}")
            continue
        del os.environ["OPENBLAS_NUM_THREADS"]
        return name, module
    raise RequestError(Outcome.RUNTIME_MISSING, "hello", "; ".join(problems))


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(descriptor: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(descriptor, view) :]


def main(requests: int, replies: int) -> NoReturn:
    """Answer the requests that arrive on one descriptor, on the other, until told to quit."""
    session = Session((requests, replies))
    done = False
    while not done:
        header_size, payload_size = wire.lengths(_read(requests, wire.LENGTHS.size))
        header = wire.parse_header(_read(requests, header_size))
        reply, payload = session.answer(header, _read(requests, payload_size))
        done = header["do"] == "quit"
        _write(replies, wire.pack({"id": header["id"], **reply}, payload))
    raise SystemExit(0)
