"""What one may say of a zoo's measurement: one document of options, from the command line to the worker, also over ssh."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from auditor.errors import UsageError
from auditor.inference.wire import AUTO, RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shown:
    """How a command line shows a field: its flag, the name of its value, one sentence, and the values it may have."""

    help: str
    metavar: str | None = None
    flag: str | None = None
    """None for the field's own name."""
    choices: tuple[str, ...] = ()
    negated: bool = False
    """Whether the flag makes the field false."""


def option(default: T, text: str, metavar: str | None = None, **shown: Any) -> T:
    """A field of a dataclass that is also an option of commands (`auditor/cli/options.py`)."""
    made: T = field(default=default, metadata={"shown": Shown(text, metavar, **shown)})
    return made


class BenchTime(enum.Enum):
    """How long to measure in each process: the page's own 20 s (`--min_secs=20`), a part of it, or a glance."""

    PAGE = "page"
    ADAPTIVE = "adaptive"
    QUICK = "quick"


@dataclass(frozen=True, kw_only=True)
class ZooOptions:
    """With what, and how, the zoo is measured. Over ssh, paths are the device's; those led by `local:`, and `runtime`, the controller's."""

    delegate: str | None = option(None, "External TFLite delegate of the accelerator; with --host on the device, or local:LIB.", "LIB")
    delegate_options: tuple[tuple[str, str], ...] = option((), "Option of the delegate; may repeat.", "K=V", flag="--delegate-option")
    stable_delegate: str | None = option(None, "Settings file of the accelerator's stable TFLite delegate.", "SETTINGS")
    zoo: str | None = option(None, "Model files of the zoo; with --host on the device, or local:PATH.", "DIR|ARCHIVE")
    bench_time: str = option(
        BenchTime.ADAPTIVE.value,
        "Time per process (3 to 9 processes): page = 20 s, adaptive = 0.5 s, quick = 0.1 s.",
        choices=tuple(each.value for each in BenchTime),
    )
    tflite: str = option(AUTO, "TFLite runtime that runs the zoo.", choices=(AUTO, *RUNTIMES))
    runtime: str | None = option(None, "TFLite runtime for a Python that has none: what `pip install --target DIR` made.", "DIR")
    device_dir: str | None = option(None, "With --host: folder on the device for temporary files.", "DIR")
    allow_paths: tuple[str, ...] = option(
        (), "Path that the delegate may use in addition to its own folder; may repeat.", "P", flag="--allow-path"
    )
    allow_unconfined: bool = option(False, "Run the delegate even where the kernel cannot confine it; the report says so.")

    def check(self) -> None:
        """Raise UsageError for two delegates, or for an option without one to give it to."""
        if self.delegate is not None and self.stable_delegate is not None:
            raise UsageError("--delegate, --stable-delegate: expected one of them")
        if self.delegate_options and self.delegate is None:
            raise UsageError("--delegate-option: expected a --delegate to give it to")

    def document(self) -> dict[str, Any]:
        """The options as JSON, for the process that measures on a device."""
        return {each.name: getattr(self, each.name) for each in fields(ZooOptions)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> ZooOptions:
        """The options of a document of ours."""
        pairs = tuple((key, value) for key, value in document["delegate_options"])
        return cls(**{**document, "delegate_options": pairs, "allow_paths": tuple(document["allow_paths"])})
