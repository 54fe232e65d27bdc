"""What a delegate may use of the machine that it is run on. This code goes to the device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from auditor.errors import UsageError
from auditor.facts.accelerators import read_accelerators
from auditor.facts.kernel import read_kernel
from auditor.facts.reading import Device
from auditor.facts.types import Ok
from auditor.inference.executor import Access
from auditor.inference.witness import Watched
from auditor.model import printable
from auditor.sources.live import Live

if TYPE_CHECKING:
    from auditor.bench.options import ZooOptions


def access(options: ZooOptions, accelerators: tuple[str, ...] = ()) -> Access:
    """What a delegate may use on this machine. Raises UsageError for a path to allow that is not there."""
    for path in options.allow_paths:
        if not os.path.exists(path):
            raise UsageError(f"--allow-path: {printable(path)}: expected a file or a folder that is there")
    device = Device(Live())
    found = read_accelerators(device, read_kernel(device), accelerators)
    items = found.value.items if isinstance(found, Ok) else ()
    watched = tuple(
        Watched(each.family, tuple(node.path for node in each.nodes), tuple(core.sysfs for core in each.cores or (each,))) for each in items
    )
    nodes = {node for each in watched for node in each.nodes}
    if any(path.startswith("/dev/vfio/") for path in nodes):
        nodes.add("/dev/vfio/vfio")  # the container that a group is put into
    return Access(tuple(sorted(nodes)), tuple(map(os.path.abspath, options.allow_paths)), options.allow_unconfined, watched)
