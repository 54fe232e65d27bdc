"""The HTML report: one file that loads and runs nothing, says first what to do, escapes everything and stays small."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings

from auditor.model import (
    ClosureFile,
    ClosureSummary,
    Details,
    Evidence,
    FirmwareSummary,
    GroupDevice,
    IommuGroupSummary,
    ModelSummary,
    Outcome,
    Span,
    Status,
)
from fixtures.hostile import reports
from fixtures.report import NPU, SELFIE, finding, report, result, run, sample
from reports import svg
from reports.html import render

ALLOWED = {
    "html", "head", "meta", "link", "title", "style", "body", "a", "header", "main", "footer", "section", "nav", "p", "h1", "h2", "h3",
    "span", "strong", "code", "pre", "ol", "ul", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "div",
    "details", "summary", "blockquote", "figure", "figcaption", "svg", "desc", "g", "rect", "line", "circle", "path", "text",
}  # fmt: skip


class Page(HTMLParser):
    """A page that was read: it nests as it must and has nothing but the template's own elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in ALLOWED
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in {"src", "srcset", "style", "action", "formaction"}
            if name == "href":
                assert value.startswith(("#", "data:,"))
                self.targets += [value[1:]] if value.startswith("#") else []
            if name == "id":
                self.ids.append(value)
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in {"meta", "link"}:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def with_pictures(**changes):
    mates = (GroupDevice(NPU, "npu", accelerator=True), GroupDevice("pci:0000:00:01.0", "pcieport", accelerator=False, bridge=True))
    details = Details(
        closure=ClosureSummary(
            (
                ClosureFile("/usr/lib64/libnpu.so", 50_000_000, counted=True, certain=True, why="the driver"),
                ClosureFile("/usr/lib64/libnpu_compiler.so", 21_000_000, counted=True, certain=False, why="string of libnpu.so"),
                ClosureFile("/lib64/libc.so.6", 2_000_000, counted=False, certain=True, why="the system's C or C++ run time"),
            ),
            64_000_000,
            ("libgone.so",),
        ),
        iommu_groups=(IommuGroupSummary("identity", mates, ("msi 0xfee00000-0xfeefffff",)),),
        firmware=(FirmwareSummary(NPU, "npu.bin", "/lib/firmware/npu.bin", 1440, "ab" * 32, "elf", "unsigned", remarks=("no signature",)),),
        models=(ModelSummary(SELFIE, Span(4455.0, 4300.0, 4600.0, 2), None),),
    )
    conditions = {
        "before": {"governor": {"cpu0": "performance"}, "load_average": [0.5, 0.4, 0.3]},
        "confinement": {"state": "confined"},
        "escapes": [{"attempt": "open /etc/passwd", "refused": "EACCES"}, {"attempt": "ptrace", "refused": None}],
        "refused": [{"call": "socket", "path": None, "errno": "EPERM", "times": 3}],
    }
    return sample(details=details, model_runs=(run(SELFIE, conditions=conditions), run(SELFIE, conditions=conditions)), **changes)


def test_it_says_first_what_blocks_and_whose_move_it_is():
    text = Page(render(sample())).text
    head = text[: text.index("Requirements, by what became of them")]
    for words in (
        "NON-COMPLIANT",
        "2 of 12 mandatory requirements fail; 8 are undecided.",
        "Vendor : 1 to fix; Firmware : 1 to fix; Lab : 6 to decide.",
        "Put the accelerator behind an IOMMU",
    ):
        assert words in head


def test_the_page_has_everything_that_the_report_has():
    shown = with_pictures()
    clause = dataclasses.replace(
        shown.requirements[0], text="The clause's own text.", source="The page, 1", interpretation="As we read it."
    )
    page = Page(render(dataclasses.replace(shown, requirements=(clause, *shown.requirements[1:]))))
    for words in (
        "The clause's own text.", "The page, 1", "As we read it.", "fail , waived", "A. Reviewer, until 2026-12-31",
        "up to 71.00 MB may be; the limit is 64 MB", "libgone.so", "IOMMU passes through (identity)", "unsigned", "ab" * 32,
        "1 of 2 attempts to escape were not refused.", "socket", "performance", "interval 4.3 to 4.6 ms",
        "crosml-audit device --snapshot FILE",
    ):  # fmt: skip
        assert words.replace(" , ", ", ") in page.text.replace(" , ", ", "), words
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)


def test_it_needs_no_script_and_loads_nothing():
    text = render(with_pictures())
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40, deadline=None)
@given(reports())
def test_whatever_a_device_says_is_escaped(hostile):
    text = render(hostile)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert not set(text) & {"\x1b", "\u202e", "\x07", "\x00"}


def test_ten_thousand_findings_stay_within_ten_megabytes():
    evidence = (Evidence("/sys/" + "x" * 60, Status.OK, "ab" * 32, "y" * 160),)
    many = [
        finding(f"security-{n % 9}.check@file:/usr/lib/{n}", Outcome.FAIL if n % 3 else Outcome.PASS, evidence=evidence)
        for n in range(10_000)
    ]
    results = [result(f"security-{number}", *(each for each in many if each.check == f"security-{number}.check")) for number in range(9)]
    text = render(report(*results))
    assert len(text.encode()) <= 10_000_000
    page = Page(text)
    assert "more findings are in the JSON report" in page.text or page.text.count("security-1.check") > 1000


@pytest.mark.parametrize("text", ["<>&\"'" * 5000, "a" * 1_000_000, "😀" * 100_000])
def test_long_texts_are_cut(text):
    wide = [
        finding(f"misc-1.c@{n}", Outcome.FAIL, observed=text, reason=text, evidence=(Evidence(text, Status.OK, None, text),) * 9)
        for n in range(40)
    ]
    assert len(render(report(result("misc-1", *wide))).encode()) <= 10_000_000


def test_a_partial_report_says_so():
    text = Page(render(dataclasses.replace(sample(), partial=True, selection=("security-3",)))).text
    assert "NON-COMPLIANT (partial" in text
    assert "only security-3 was judged" in text


@pytest.mark.parametrize("sizes", [[1.0], [5.0, 3.0, 2.0], [1.0] * 30, [100.0, 1e-3]])
def test_a_treemap_covers_its_area_without_overlap(sizes):
    area = 300 * 200
    tiles = list(svg.squarified([area * size / sum(sizes) for size in sizes], 0, 0, 300, 200))
    assert len(tiles) == len(sizes)
    for tile, size in zip(tiles, sizes, strict=True):
        assert tile.width * tile.height == pytest.approx(area * size / sum(sizes), rel=1e-6)
        assert -1e-6 <= tile.x <= tile.x + tile.width <= 300 + 1e-6
        assert -1e-6 <= tile.y <= tile.y + tile.height <= 200 + 1e-6
