"""How findings put lists into words. Holds no check."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 8


def some(texts: Iterable[str], separator: str = ", ") -> str:
    """The first few of some texts, and how many more there are: what a device can make long is not."""
    every = [*texts]
    more = [f"{len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return separator.join([*every[:SHOWN], *more])
