"""A TFLite delegate, made with ctypes, that wraps a vendor's and sees exactly what it took of the graph.

Only the worker imports this: loading the library runs its constructors. The layouts are those of tflite-runtime 2.14 and
ai-edge-litert 2.x (tensorflow/lite/core/c/common.h); only the leading fields in use are declared.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from auditor.inference.wire import Claims, Outcome, Partition, RequestError, bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

CREATE = "tflite_plugin_create_delegate"
DESTROY = "tflite_plugin_destroy_delegate"
STABLE = "TFL_TheStableDelegate"

_OK, _ERROR = 0, 1
_MAX_REPORTS = 16

_PrepareFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ReportFunction = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_GetPlanFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
_GetNodeFunction = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_void_p)
)


_FIRST_CALLBACK = _ReportFunction(lambda _message: None)
"""libffi looks around the system when it makes its first one; a confined process may not."""


class _Delegate(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("prepare", ctypes.c_void_p),
        ("copy_from_buffer_handle", ctypes.c_void_p),
        ("copy_to_buffer_handle", ctypes.c_void_p),
        ("free_buffer_handle", ctypes.c_void_p),
        ("flags", ctypes.c_int64),
        ("opaque_delegate_builder", ctypes.c_void_p),
    )


class _Context(ctypes.Structure):
    _fields_ = (
        ("tensors_size", ctypes.c_size_t),
        ("get_execution_plan", _GetPlanFunction),
        ("tensors", ctypes.c_void_p),
        ("impl", ctypes.c_void_p),
        ("resize_tensor", ctypes.c_void_p),
        ("report_error", ctypes.c_void_p),
        ("add_tensors", ctypes.c_void_p),
        ("get_node_and_registration", _GetNodeFunction),
    )


class _Node(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("intermediates", ctypes.c_void_p),
        ("temporaries", ctypes.c_void_p),
        ("user_data", ctypes.c_void_p),
        ("builtin_data", ctypes.c_void_p),
        ("custom_initial_data", ctypes.c_void_p),
        ("custom_initial_data_size", ctypes.c_int),
        ("delegate", ctypes.c_void_p),
    )


class _Registration(ctypes.Structure):
    _fields_ = (
        ("init", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
        ("prepare", ctypes.c_void_p),
        ("invoke", ctypes.c_void_p),
        ("profiling_string", ctypes.c_void_p),
        ("builtin_code", ctypes.c_int32),
        ("custom_name", ctypes.c_char_p),
    )


class _DelegateParams(ctypes.Structure):
    """What the runtime hangs on a node that stands for a delegated partition (as its builtin_data)."""

    _fields_ = (("delegate", ctypes.c_void_p), ("nodes_to_replace", ctypes.c_void_p))


class WrappedDelegate:
    """A vendor's external delegate, loaded and created; hand it to an interpreter among `experimental_delegates`.

    Its native delegate is a copy of the vendor's with Prepare replaced, so the vendor's other callbacks find their own data.
    `claims` grows while the runtime applies it, one Prepare call a subgraph; `failed` tells whether one of them failed.
    Raises RequestError: library that cannot be loaded, is no delegate, or refuses to create one.
    """

    def __init__(self, library: str, options: Mapping[str, str]) -> None:
        self.claims = Claims((), ())
        self.failed = False
        self.reports: list[str] = []
        self._library = _load(library)
        self._vendor = self._create(options)
        theirs = _Delegate.from_address(self._vendor)
        if theirs.opaque_delegate_builder:
            raise RequestError(Outcome.DELEGATE_UNSUPPORTED, "create", "the delegate is an opaque one")
        if not theirs.prepare:
            raise RequestError(Outcome.DELEGATE_CREATE_FAILED, "create", "the delegate has no Prepare function")
        self._vendor_prepare = _PrepareFunction(theirs.prepare)
        self._prepare_function = _PrepareFunction(self._prepare)
        self._native = _Delegate.from_buffer_copy(theirs)
        self._native.prepare = ctypes.cast(self._prepare_function, ctypes.c_void_p).value

    def _get_native_delegate_pointer(self) -> int:
        """Return the address of our TfLiteDelegate; the name is the one both runtimes call."""
        return ctypes.addressof(self._native)

    def destroy(self) -> None:
        """Give the delegate back to its library. No interpreter may use it any more."""
        destroy = self._library[DESTROY]
        destroy.argtypes, destroy.restype = [ctypes.c_void_p], None
        destroy(self._vendor)

    def _create(self, options: Mapping[str, str]) -> int:
        def report(message: bytes | None) -> None:
            if len(self.reports) < _MAX_REPORTS:
                self.reports.append(bounded((message or b"").decode(errors="replace")))

        self._report_function = _ReportFunction(report)
        count = len(options)
        keys = (ctypes.c_char_p * count)(*map(os.fsencode, options))
        values = (ctypes.c_char_p * count)(*map(os.fsencode, options.values()))
        create = self._library[CREATE]
        create.restype = ctypes.c_void_p
        create.argtypes = [
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_size_t,
            _ReportFunction,
        ]
        address = create(keys, values, count, self._report_function)
        if not address:
            message = "; ".join(self.reports) or "the library created no delegate and gave no reason"
            raise RequestError(Outcome.DELEGATE_CREATE_FAILED, "create", message)
        return int(address)

    def _prepare(self, context: int, _delegate: int) -> int:
        # an exception in a callback would be printed, dropped and read as success
        try:
            before = _plan(context)
            status = int(self._vendor_prepare(context, self._vendor))
            operators, partitions = self.claims.operators, self.claims.partitions
            if status == _OK:
                partitions += _new_partitions(context, len(operators), frozenset(before))
            self.claims = Claims((*operators, len(before)), partitions)
            self.failed = self.failed or status != _OK
        except Exception as problem:  # noqa: BLE001 - the ABI has no exceptions
            self.failed = True
            self.reports.append(bounded(f"the graph could not be read after Prepare: {problem}"))
            return _ERROR
        return status


def _load(path: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(path)
    except OSError as problem:
        raise RequestError(Outcome.DELEGATE_NOT_LOADABLE, "load", str(problem)) from problem
    if hasattr(library, CREATE) and hasattr(library, DESTROY):
        return library
    if hasattr(library, STABLE):
        message = f"the library exports {STABLE}: a stable delegate, which only the native tools can run (--stable-delegate SETTINGS)"
        raise RequestError(Outcome.DELEGATE_UNSUPPORTED, "load", message)
    raise RequestError(Outcome.DELEGATE_NOT_A_DELEGATE, "load", f"the library does not export {CREATE} and {DESTROY}")


def _ints(address: int | None) -> tuple[int, ...]:
    """Read a TfLiteIntArray: an int, the count, then as many ints."""
    if not address:
        return ()
    count = ctypes.c_int.from_address(address).value
    return tuple((ctypes.c_int * max(count, 0)).from_address(address + ctypes.sizeof(ctypes.c_int)))


def _plan(context: int) -> tuple[int, ...]:
    plan = ctypes.c_void_p()
    if _Context.from_address(context).get_execution_plan(context, ctypes.byref(plan)) != _OK:
        raise RuntimeError("GetExecutionPlan failed")
    return _ints(plan.value)


def _new_partitions(context: int, subgraph: int, before: frozenset[int]) -> tuple[Partition, ...]:
    """List the partitions in the plan that were not there before, in the order in which they run."""
    partitions = []
    get_node: Any = _Context.from_address(context).get_node_and_registration
    for index in _plan(context):
        node_at, registration_at = ctypes.c_void_p(), ctypes.c_void_p()
        if index in before:
            continue
        if get_node(context, index, ctypes.byref(node_at), ctypes.byref(registration_at)) != _OK:
            raise RuntimeError(f"GetNodeAndRegistration failed for node {index}")
        if not node_at.value or not registration_at.value:
            raise RuntimeError(f"node {index} is null")
        node = _Node.from_address(node_at.value)
        if node.delegate and node.builtin_data:
            replaced = _ints(_DelegateParams.from_address(node.builtin_data).nodes_to_replace)
            name = _Registration.from_address(registration_at.value).custom_name or b""
            partitions.append(Partition(subgraph, bounded(name.decode(errors="replace"), 200), replaced))
    return tuple(partitions)
