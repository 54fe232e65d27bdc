"""Have golden images decoded to what a model takes.

An image decoder is native code that is fed a stranger's bytes. So each file gets a worker of its own, which confines itself before it sees
the first of them (decoding.py), and gives back pixels, or a line that says why not. Only there Pillow is imported; without it, nothing is
decoded and nothing fails.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from auditor.inference.confine import Policy
from auditor.inference.process import Limits, Status, Worker, WorkerFailure
from auditor.inference.wire import PILLOW, Outcome, shown
from auditor.zoo.golden import Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from auditor.zoo.find import FoundImage
    from auditor.zoo.golden import Frame

LIMITS = Limits(request_seconds=20.0, memory_bytes=1 << 30)


def decode_all(
    images: Sequence[FoundImage], frames: Sequence[Frame], *, allow_unconfined: bool = False, import_path: Sequence[str] = ()
) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Return each image at each size, and a line for each image that could not be decoded; without Pillow one line for all."""
    pictures: list[Picture] = []
    problems: list[str] = []
    for image in images:
        decoded = _decode(image, frames, import_path, allow_unconfined=allow_unconfined)
        if not isinstance(decoded, Status):
            pictures += decoded
        elif decoded.outcome is Outcome.RUNTIME_MISSING:
            return (), ("Pillow is not installed: pip install 'crosml-audit[images]'",)
        else:
            problems.append(f"{_name(image)}: {decoded.message}")
    return tuple(pictures), tuple(problems)


def _decode(image: FoundImage, frames: Sequence[Frame], import_path: Sequence[str], *, allow_unconfined: bool) -> list[Picture] | Status:
    try:
        with Worker("picture", image.content, LIMITS, import_path=import_path) as worker:
            worker.hello(PILLOW)
            worker.confine(Policy(), required=not allow_unconfined)
            pixels = [worker.picture(frame.width, frame.height, crop=frame.crop) for frame in frames]
            worker.quit()
    except WorkerFailure as failure:
        return failure.status
    return [Picture(_name(image), image.sha256, frame, data) for frame, data in zip(frames, pixels, strict=True)]


def _name(image: FoundImage) -> str:
    return shown(os.path.basename(image.path))
