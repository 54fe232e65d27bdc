"""A service's metrics in the forms that others read: JSON, Prometheus' text, and the records that ChromeOS's metrics daemon takes.

Sources: Prometheus, exposition formats (text 0.0.4); chromiumos/platform2 metrics/serialization/metric_sample.cc and
serialization_utils.cc (u32 length of the whole record, then the message).
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any

from auditor.inference import metrics
from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult, LoadModelResult

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator

    from auditor.inference.metrics import Metrics

FORMATS = ("json", "prometheus", "uma")

_RESULTS: dict[str, type[enum.Enum]] = {
    metrics.LOAD: LoadModelResult,
    metrics.CREATE: CreateGraphExecutorResult,
    metrics.EXECUTE: ExecuteResult,
}
MAX_RECORDS = 1 << 18
"""Records that are written at one time: a result each."""
_OWN = 100
"""Results from here on are not of the ML service; UMA's own have one more than the greatest as their bound (request_metrics.h)."""


def document(kept: Metrics) -> dict[str, Any]:
    """What was counted and kept, as JSON."""
    samples = kept.samples()
    return {
        "schema": "crosml-audit/service-metrics/1",
        "events": kept.events(),
        "samples": {
            name: {"count": each.count, "total": each.total, "min": each.least, "max": each.greatest} for name, each in samples.items()
        },
    }


def prometheus(kept: Metrics) -> str:
    """The same in Prometheus' text format."""
    lines: list[str] = []
    events = kept.events()
    if events:
        lines += [
            "# HELP crosml_events_total Results and ends, by the ML service's name of the histogram.",
            "# TYPE crosml_events_total counter",
        ]
        lines += [
            f'crosml_events_total{{name="{_escaped(name)}",event="{_escaped(event)}"}} {count}'
            for name, counted in sorted(events.items())
            for event, count in sorted(counted.items())
        ]
    samples = kept.samples()
    if samples:
        lines += ["# HELP crosml_samples Figures, by the ML service's name of the histogram.", "# TYPE crosml_samples summary"]
    for name, each in sorted(samples.items()):
        label = f'{{name="{_escaped(name)}"}}'
        lines += [f"crosml_samples_sum{label} {each.total!r}", f"crosml_samples_count{label} {each.count}"]
    for kind, key in (("min", "least"), ("max", "greatest")):
        if samples:
            lines += [f"# HELP crosml_samples_{kind} The {kind} of each figure.", f"# TYPE crosml_samples_{kind} gauge"]
        lines += [f'crosml_samples_{kind}{{name="{_escaped(name)}"}} {getattr(each, key)!r}' for name, each in sorted(samples.items())]
    return "".join(f"{line}\n" for line in lines)


def uma(kept: Metrics) -> bytes:
    """Results as the records that the ML service itself would have written to uma-events; codes that it does not have are left out."""
    return b"".join(_record(message) for message in itertools.islice(_messages(kept), MAX_RECORDS))


def _messages(kept: Metrics) -> Iterator[bytes]:
    for name, counted in sorted(kept.events().items()):
        kinds = [kind for request, kind in _RESULTS.items() if name.endswith(f".{request}.Event")]
        for kind in kinds:
            codes = [each for each in kind if each.value < _OWN]
            for code in codes:
                sample = f"{_uma_name(name)} {code.value} {len(codes)}"
                yield from itertools.repeat(b"linearhistogram\0" + sample.encode() + b"\0", counted.get(code.name, 0))


def _record(message: bytes) -> bytes:
    return struct.pack("<I", 4 + len(message)) + message


def _uma_name(name: str) -> str:
    """A histogram's name has no blank: fields are divided by them."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
