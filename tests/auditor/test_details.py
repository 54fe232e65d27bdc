"""What a report shows of a device in addition to its findings is what the facts hold, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auditor.details import CLOSURE_LIMIT, details
from auditor.facts.collect import collect
from auditor.facts.types import (
    Accelerator,
    Closure,
    ElfObject,
    GroupMate,
    IommuGroup,
    Listing,
    Missing,
    MissingLibrary,
    ModelResult,
    Ok,
    ReservedRegion,
    Settings,
)
from auditor.model import Details, GroupDevice, Span, Status
from auditor.sources.recording import Replay
from auditor.statistics import Interval
from checks import misc_1
from fixtures.devices import DEVICES
from fixtures.facts import facts

GONE = Missing(Status.ABSENT)


def elf(path: str, size: int = 10, **changes: object) -> ElfObject:
    return ElfObject(path, path.rpartition("/")[2], size, size, size, (1, 1), 62, 64, "", "root", system=False, certain=True, **changes)


def accelerator(subject: str, group: IommuGroup) -> Accelerator:
    return Accelerator(subject, "pci", "", (), {}, "", (), Ok("npu"), GONE, Ok(group))


def test_the_limit_is_that_of_the_check():
    assert CLOSURE_LIMIT == misc_1.LIMIT


def test_nothing_known_shows_nothing():
    assert details(facts()) == Details()


def test_the_closure_says_what_counts_and_why_not():
    listed = elf("/usr/lib64/libbase.so")
    libc = replace(elf("/lib64/libc.so.6"), edge="DT_NEEDED", system=True, needed_by="/opt/libnpu.so")
    needed = replace(elf("/opt/libx.so", 20), edge="DT_NEEDED", needed_by="/opt/libnpu.so", certain=False)
    missing = (MissingLibrary("liby.so\x1b", "/opt/libx.so", "DT_NEEDED", (), False), MissingLibrary("o.so", "", "string", (), True))
    closure = Closure(("/opt/libnpu.so",), (elf("/opt/libnpu.so"), needed, libc, listed), missing, (), (Missing(Status.DENIED, note="n"),))
    found = details(facts(closure=Ok(closure), settings=Settings(base_image=frozenset({listed.path})))).closure
    assert found is not None
    assert [(each.path, each.size, each.counted, each.certain, each.why) for each in found.files] == [
        ("/opt/libnpu.so", 10, True, True, "the driver"),
        ("/opt/libx.so", 20, True, False, "DT_NEEDED of libnpu.so"),
        ("/lib64/libc.so.6", 10, False, True, "the system's C or C++ run time"),
        ("/usr/lib64/libbase.so", 10, False, True, "listed by --base-image"),
    ]
    assert (found.missing, found.unread) == (("liby.so\x1b",), ("n",))


def test_a_group_is_shown_once_with_all_its_devices():
    mates = (GroupMate("pci:b", Ok("npu"), Ok(False)), GroupMate("pci:c", GONE, Ok(True)))
    group = IommuGroup("7", Ok(False), Ok("DMA"), Ok((ReservedRegion(0xFEE00000, 0xFEEFFFFF, "msi"),)), Ok(mates))
    other = IommuGroup("8", GONE, GONE, GONE, GONE)
    items = (accelerator("pci:a", group), accelerator("pci:b", group), accelerator("pci:d", other))
    first, second = details(facts(accelerators=Ok(Listing(items)))).iommu_groups
    assert first.devices == (
        GroupDevice("pci:a", "npu", accelerator=True),
        GroupDevice("pci:b", "npu", accelerator=True),
        GroupDevice("pci:c", None, accelerator=False, bridge=True),
    )
    assert (first.domain, first.reserved, first.no_iommu, first.complete) == ("DMA", ("msi 0xfee00000-0xfeefffff",), False, True)
    assert (second.domain, second.complete) == ("", False)


@pytest.mark.parametrize(("half", "ends"), [(1.5, (8.5, 11.5)), (float("inf"), (None, None))])
def test_latencies_have_their_interval(half, ends):
    model = ModelResult("m", "", (), GONE, Ok(Interval(10.0, half, 3)))
    (found,) = details(facts(models=Ok((model,)))).models
    assert (found.own, found.wall) == (None, Span(10.0, *ends, 3))


@pytest.mark.parametrize("device", sorted(DEVICES))
def test_every_recorded_device_has_its_pictures(device):
    record = DEVICES[device]()
    found = details(collect(Replay(record)))
    assert found.iommu_groups
    assert all(any(each.accelerator for each in group.devices) for group in found.iommu_groups)
    for image in found.firmware:
        assert image.path == "" or (len(image.sha256) == 64 and image.state)
