"""Have golden images decoded to what a model takes.

An image decoder is native code that is fed a stranger's bytes. So each file gets a worker of its own, which confines itself before it sees
the first of them (decoding.py), and gives back pixels, or a line that says why not. Only there Pillow is imported; without it, nothing is
decoded and nothing fails.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from auditor.inference.process import Worker
from auditor.inference.watch import Limits
from auditor.inference.wire import PILLOW, Outcome, Status, WorkerFailure, shown
from auditor.inference.worker.confine import Policy
from auditor.tflite.graph import BadModel, read_graph
from auditor.zoo.golden import GoldenSet, Picture, frame_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from auditor.zoo.find import FoundImage
    from auditor.zoo.golden import Frame
    from auditor.zoo.models import ModelFile

LIMITS = Limits(request_seconds=20.0, memory_bytes=1 << 30)


def golden_sets(
    files: Sequence[ModelFile], import_path: tuple[str, ...], progress: Callable[[str], None], *, allow_unconfined: bool
) -> dict[str, GoldenSet]:
    """The golden images of each model that has any, decoded once for all runs."""
    frames = {file.model.name: frame for file in files if file.images and (frame := _frame(file))}
    wanted = tuple(dict.fromkeys(frames.values()))
    images = {image.sha256: image for file in files if file.model.name in frames for image in file.images}
    if not images:
        return {}
    progress(f"zoo: golden images ({len(images)})")
    pictures, problems = decode_all(tuple(images.values()), wanted, allow_unconfined=allow_unconfined, import_path=import_path)
    return {
        file.model.name: _golden_set(file, frames[file.model.name], pictures, "; ".join(problems))
        for file in files
        if file.model.name in frames
    }


def _frame(file: ModelFile) -> Frame | None:
    try:
        return frame_of(file.model.golden, read_graph(file.content)) if file.model.golden else None
    except BadModel:
        return None


def _golden_set(file: ModelFile, frame: Frame, pictures: Sequence[Picture], note: str) -> GoldenSet:
    assert file.model.golden is not None
    own = {image.sha256 for image in file.images}
    outputs = read_graph(file.content).outputs
    scale, zero_point = (outputs[0].scale, outputs[0].zero_point) if outputs else (0.0, 0)
    chosen = tuple(each for each in pictures if each.frame == frame and each.sha256 in own)
    return GoldenSet(file.model.golden, chosen, note, scale if math.isfinite(scale) else 0.0, zero_point)


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
