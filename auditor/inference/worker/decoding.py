"""The worker's half of decoding an image (pictures.py): native code that is fed a stranger's bytes, in a confined process."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from auditor.inference.wire import Outcome, RequestError

FORMATS = ("BMP", "JPEG", "PNG")
MAX_PIXELS = 1 << 25
"""Of one image, before it is made smaller."""


def import_pillow() -> Any:
    """Import all that decoding needs: once the process is confined, nothing more can be imported. Raises RequestError."""
    try:
        for name in FORMATS:
            import_module(f"PIL.{name.capitalize()}ImagePlugin")
        return import_module("PIL.Image")
    except (ImportError, OSError) as problem:
        raise RequestError(Outcome.RUNTIME_MISSING, "hello", str(problem)) from problem


def decode(library: Any, descriptor: int, width: int, height: int, *, crop: bool) -> bytes:
    """Return the image's pixels at the size asked for: RGB, a byte each, row by row. Raises RequestError for what is no such image.

    With `crop`, the largest part that has the proportions asked for: the top, and of a wider image the middle.
    """
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, library.open(file, formats=FORMATS) as image:
            size = _bounded(image.width, image.height)
            box = _part(*size, width, height) if crop else None
            return bytes(image.convert("RGB").resize((width, height), library.Resampling.BILINEAR, box).tobytes())
    except Exception as problem:  # decoders raise many kinds on hostile bytes
        raise RequestError(Outcome.LOAD_FAILED, "picture", f"{type(problem).__name__}: {problem}") from problem


def _bounded(width: int, height: int) -> tuple[int, int]:
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, expected at most {MAX_PIXELS}")
    return width, height


def _part(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int, int, int]:
    if width * to_height > height * to_width:
        part = max(1, height * to_width // to_height)
        left = (width - part) // 2
        return left, 0, left + part, height
    return 0, 0, width, max(1, width * to_height // to_width)
