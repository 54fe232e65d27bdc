"""Drawings for the HTML report, as text: a lane with a limit, stacked bars, a treemap, IOMMU groups. Colours are CSS classes of the page.

Every drawing has a title and a description for those who do not see it; all text is escaped here. Lengths are in units of the view box,
of which the narrowest screen shows one as about one pixel.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.wording import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from auditor.model import GroupDevice, IommuGroupSummary

WIDTH = 320
"""Of a drawing that fits the narrowest screen."""
MAP_WIDTH, MAP_HEIGHT = 560, 260

_CHARACTER = 0.56
"""Width of a character, as a share of the font's size."""


class Svg(str):
    """Markup that is escaped already; the templates take it as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        """The markup."""
        return str(self)


def tag(name: str, *children: str, **attributes: object) -> Svg:
    """An element. Children that are not Svg are text; `class_` is `class`, and other underscores are hyphens."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(_number(value))}"' for key, value in attributes.items())
    inner = "".join(child if isinstance(child, Svg) else html.escape(child, quote=False) for child in children)
    return Svg(f"<{name}{pairs}>{inner}</{name}>" if inner else f"<{name}{pairs}/>")


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def drawing(width: int, height: float, title: str, description: str, *children: Svg, class_: str = "") -> Svg:
    """A whole drawing with its name; it is as wide as its place, but not wider than the class allows."""
    box = f"0 0 {width} {height:g}"
    return tag("svg", tag("title", title), tag("desc", description), *children, viewBox=box, role="img", class_=f"drawing {class_}".strip())


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from zero on, as places in a drawing."""

    top: float
    start: float = 4
    end: float = WIDTH - 4

    def __call__(self, value: float) -> float:
        """The place of a value; what lies beyond the top is at the end."""
        return self.start + (self.end - self.start) * (min(max(value, 0), self.top) / self.top if self.top else 0)


def scale(*values: float | None) -> Scale:
    """From zero to a little more than the largest of some values."""
    return Scale(max((value for value in values if value is not None), default=0) * 1.12 or 1)


def lane(
    title: str,
    points: Sequence[float],
    *,
    limit: float | None,
    limit_text: str,
    interval: tuple[float, float, float] | None = None,
    met: bool | None = None,
    description: str = "",
) -> Svg:
    """Values as dots on a line from zero, with a limit and an interval (low, mean, high); `met` colours them."""
    place = scale(*points, limit, *(interval or ()))
    verdict = {True: "good", False: "bad", None: "plain"}[met]
    parts = [tag("line", x1=place.start, x2=place.end, y1=22, y2=22, class_="axis")]
    if limit is not None:
        parts += _limit(place(limit), 4, 38, limit_text, place)
    if interval:
        low, mean, high = map(place, interval)
        parts += [
            tag("rect", x=low, y=16, width=max(high - low, 1), height=12, class_=f"span {verdict}"),
            tag("line", x1=mean, x2=mean, y1=13, y2=31, class_=f"mean {verdict}"),
        ]
    parts += [tag("circle", cx=place(value), cy=22, r=3, class_=f"dot {verdict}") for value in points]
    return drawing(WIDTH, 56, title, description, *parts)


def _limit(x: float, top: float, bottom: float, text: str, place: Scale) -> list[Svg]:
    """A line at a limit, and its name below, on the side where there is room."""
    room = len(text) * 11 * _CHARACTER
    anchor = "start" if x + room < place.end else "end"
    return [
        tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="limit"),
        tag("text", text, x=x, y=bottom + 13, text_anchor=anchor, class_="label"),
    ]


def bars(title: str, parts: Sequence[tuple[str, float]], *, limit: float | None, limit_text: str, description: str) -> Svg:
    """Amounts in a row on one bar, each with its own pattern of the page's, against a limit."""
    total = sum(amount for _, amount in parts)
    place = scale(total, limit)
    drawn, at = [tag("line", x1=place.start, x2=place.end, y1=30, y2=30, class_="axis")], 0.0
    for number, (name, amount) in enumerate(parts):
        left, right = place(at), place(at + amount)
        drawn.append(tag("rect", tag("title", name), x=left, y=10, width=max(right - left, 0.5), height=20, class_=f"part part-{number}"))
        at += amount
    if limit is not None:
        drawn += _limit(place(limit), 4, 38, limit_text, place)
    return drawing(WIDTH, 56, title, description, *drawn)


def share(title: str, value: float, least: float) -> Svg:
    """A share from 0 to 1 on a bar, with the least that is asked for."""
    place = Scale(1)
    verdict = "good" if value >= least else "bad"
    return drawing(
        WIDTH,
        40,
        title,
        f"{value:.1%}; at least {least:.0%} is needed.",
        tag("rect", x=place.start, y=6, width=place.end - place.start, height=14, class_="track"),
        tag("rect", x=place.start, y=6, width=place(value) - place.start, height=14, class_=f"span {verdict}"),
        tag("line", x1=place(least), x2=place(least), y1=2, y2=24, class_="limit"),
        tag("text", f"{least:.0%}", x=place(least), y=37, text_anchor="end", class_="label"),
    )


@dataclass(frozen=True, slots=True)
class Tile:
    """A place in a treemap."""

    x: float
    y: float
    width: float
    height: float


def squarified(sizes: Sequence[float], x: float, y: float, width: float, height: float) -> Iterator[Tile]:
    """Tiles of the given areas (descending, of a sum that is the rectangle's), as square as rows of them can be (Bruls et al., 2000)."""
    left = list(sizes)
    while left:
        side = min(width, height)
        row = [left.pop(0)]
        while left and _worst([*row, left[0]], side) <= _worst(row, side):
            row.append(left.pop(0))
        depth = sum(row) / side if side else 0
        at = 0.0
        for size in row:
            length = size / depth if depth else 0
            yield Tile(x, y + at, depth, length) if width >= height else Tile(x + at, y, length, depth)
            at += length
        if width >= height:
            x, width = x + depth, width - depth
        else:
            y, height = y + depth, height - depth


def _worst(row: Sequence[float], side: float) -> float:
    """How long the least square tile of a row is for its width."""
    total = sum(row)
    if not total or not side:
        return float("inf")
    return max(max(side * side * size / total**2, total**2 / (side * side * size)) for size in row if size)


def treemap(title: str, files: Sequence[tuple[str, str, int, str]], *, limit: int, limit_text: str, description: str) -> Svg:
    """Files (name, note, bytes, class) as areas; the whole drawing up to the line is the limit, so what is beyond it is too much."""
    total = sum(size for _, _, size, _ in files)
    top = max(total, limit)
    width = MAP_WIDTH * total / top if top else 0
    area = width * MAP_HEIGHT
    ordered = sorted((each for each in files if each[2] > 0), key=lambda each: -each[2])
    tiles = squarified([area * size / total for _, _, size, _ in ordered], 0, 0, width, MAP_HEIGHT)
    parts = [tag("rect", x=0, y=0, width=MAP_WIDTH, height=MAP_HEIGHT, class_="track")]
    for (name, note, size, kind), tile in zip(ordered, tiles, strict=True):
        shape = tag("rect", x=tile.x, y=tile.y, width=tile.width, height=tile.height, class_=f"tile {kind}")
        parts.append(tag("g", tag("title", f"{name}: {note}"), shape, *_named(tile, name, size)))
    line = min(MAP_WIDTH * limit / top if top else 0, MAP_WIDTH - 1.5)
    parts.append(tag("line", x1=line, x2=line, y1=0, y2=MAP_HEIGHT + 6, class_="limit"))
    parts.append(
        tag("text", limit_text, x=line, y=MAP_HEIGHT + 22, text_anchor="end" if line > MAP_WIDTH / 2 else "start", class_="label big")
    )
    return drawing(MAP_WIDTH, MAP_HEIGHT + 28, title, description, *parts, class_="wide")


def _named(tile: Tile, name: str, size: int) -> list[Svg]:
    """The name and the size of a tile, where there is room for them."""
    room = int((tile.width - 10) / (15 * _CHARACTER))
    if room < 6 or tile.height < 24:
        return []
    lines = [tag("text", cut(name, room), x=tile.x + 6, y=tile.y + 19, class_="name")]
    if tile.height >= 46:
        lines.append(tag("text", cut(f"{size / 1e6:.2f} MB", room), x=tile.x + 6, y=tile.y + 38, class_="name"))
    return lines


def iommu(group: IommuGroupSummary, most: int = 12) -> Svg:
    """A group's devices, the IOMMU that stands between them and memory, and whether it translates."""
    shown = group.devices[:most]
    words, verdict = _domain(group)
    rows = [*map(_device, shown)]
    if len(group.devices) > most:
        rows.append((f"and {len(group.devices) - most} more devices", "mate"))
    height = 30 + 30 * len(rows)
    parts = [
        tag("rect", x=1, y=1, width=WIDTH - 2, height=height, rx=6, class_="group"),
        tag("text", "IOMMU group", x=12, y=19, class_="label"),
    ]
    for number, (text, kind) in enumerate(rows):
        y = 28 + 30 * number
        parts.append(tag("rect", x=10, y=y, width=WIDTH - 20, height=24, rx=4, class_=f"device {kind}"))
        parts.append(tag("text", cut(text, 48), x=18, y=y + 16, class_="label"))
    parts += [
        *_arrow(height + 1, height + 25),
        tag("rect", x=30, y=height + 26, width=WIDTH - 60, height=30, rx=4, class_=f"gate {verdict}"),
        tag("text", words, x=WIDTH / 2, y=height + 45, text_anchor="middle", class_="label"),
        *_arrow(height + 56, height + 80),
        tag("rect", x=60, y=height + 81, width=WIDTH - 120, height=26, rx=4, class_="device mate"),
        tag("text", "system memory", x=WIDTH / 2, y=height + 98, text_anchor="middle", class_="label"),
    ]
    names = ", ".join(text for text, _ in rows)
    return drawing(WIDTH, height + 110, f"IOMMU group: {words}", f"Devices: {names}.", *parts, class_="diagram")


def _device(each: GroupDevice) -> tuple[str, str]:
    role = "accelerator " if each.accelerator else "bridge " if each.bridge else ""
    driver = f", driver {each.driver}" if each.driver else ", no driver"
    return f"{role}{each.id}{driver}", "accelerator" if each.accelerator else "mate"


def _domain(group: IommuGroupSummary) -> tuple[str, str]:
    """What the IOMMU does for a group, and how good that is."""
    if group.no_iommu:
        return "no IOMMU", "bad"
    if group.domain.startswith("DMA"):
        return f"IOMMU translates ({cut(group.domain, 12)})", "good"
    if group.domain == "identity":
        return "IOMMU passes through (identity)", "bad"
    return (f"IOMMU domain {cut(group.domain, 20)}" if group.domain else "IOMMU domain not known"), "plain"


def _arrow(top: float, bottom: float) -> list[Svg]:
    x = WIDTH / 2
    return [
        tag("line", x1=x, x2=x, y1=top, y2=bottom - 5, class_="arrow"),
        tag("path", d=f"M{x - 4:g} {bottom - 6:g}h8l-4 6z", class_="head"),
    ]
