"""A bounded reader of DER (ITU-T X.690), for the few structures that firmware formats need. Certificates are read by `auditor.verify`."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CHILDREN = 1024

INTEGER, OCTETS, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
CONTEXT_0 = 0xA0


class BadDer(ValueError):  # noqa: N818  # the one refusal of this module
    """Not DER, or not the element that was expected."""


@dataclass(frozen=True, slots=True)
class Element:
    """A tag with its content; `whole` holds the tag and the length too."""

    tag: int
    content: bytes
    whole: bytes


def first(data: bytes) -> Element:
    """The element that `data` begins with. Raises BadDer."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise BadDer("no tag")
    size, start = data[1], 2
    if size & 0x80:
        start += size & 0x7F
        if not 2 < start <= 6 or len(data) < start:
            raise BadDer("a length that is indefinite, too long or cut short")
        size = int.from_bytes(data[2:start], "big")
    if len(data) < start + size:
        raise BadDer("cut short")
    return Element(data[0], data[start : start + size], data[: start + size])


def children(element: Element) -> tuple[Element, ...]:
    """The elements in a constructed one. Raises BadDer."""
    found: list[Element] = []
    rest = element.content
    while rest:
        if len(found) == MAX_CHILDREN:
            raise BadDer(f"more than {MAX_CHILDREN} elements")
        found.append(first(rest))
        rest = rest[len(found[-1].whole) :]
    return tuple(found)


def expect(element: Element, tag: int) -> Element:
    """The element, where its tag is the one expected. Raises BadDer."""
    if element.tag != tag:
        raise BadDer(f"expected tag {tag:#x}, found {element.tag:#x}")
    return element
