"""How a worker is confined, as the controller sees it: what the kernel says of its threads, and what became of attempts to get out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from auditor.inference.wire import shown
from auditor.inference.worker.confine import Policy
from auditor.inference.worker.escapes import REFUSALS

SECCOMP_FILTER = 2
"""`Seccomp:` of /proc/PID/status: 0 off, 1 strict, 2 filter."""

_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


@dataclass(frozen=True, slots=True)
class KernelState:
    """What /proc/PID/task/*/status says, of the least confined thread. `capabilities` are those of any set that gives some, as a mask."""

    no_new_privs: bool
    seccomp: int
    capabilities: int

    def problems(self) -> tuple[str, ...]:
        """What is missing of a confinement."""
        found = (
            "" if self.no_new_privs else "the kernel does not show NoNewPrivs",
            "" if self.seccomp == SECCOMP_FILTER else "the kernel shows no seccomp filter",
            f"the kernel shows capabilities {self.capabilities:#x}" if self.capabilities else "",
        )
        return tuple(problem for problem in found if problem)


@dataclass(frozen=True, slots=True)
class Confinement:
    """The confinement of a worker before it was given anything of a vendor's. `problems` is empty where it holds.

    `refusals_seen` is whether the controller learns of what is refused from now on.
    """

    landlock_abi: int
    kernel: KernelState
    policy: Policy
    escapes: tuple[tuple[str, str | None], ...]
    """Each attempt to get out, and the name of the errno that it was refused with; None where it was not."""
    refusals_seen: bool
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the `confinement` of a run document's conditions."""
        return {
            "state": "unconfined" if self.problems else "confined",
            "problems": list(self.problems),
            "landlock_abi": self.landlock_abi,
            "no_new_privs": self.kernel.no_new_privs,
            "seccomp": self.kernel.seccomp,
            "capabilities": self.kernel.capabilities,
            "refusals_seen": self.refusals_seen,
            "readable": list(map(shown, self.policy.readable)),
            "writable": list(map(shown, self.policy.writable)),
            "devices": list(map(shown, self.policy.devices)),
            "executable": list(map(shown, self.policy.executable)),
            "listable": list(map(shown, self.policy.listable)),
        }


def read_kernel_state(pid: int) -> KernelState:
    """Read the state of every thread of a process. Raises OSError, and ValueError for what is not understood."""
    folder = f"/proc/{pid}/task"
    threads = [_status(f"{folder}/{name}/status") for name in os.listdir(folder)]
    capabilities = 0
    for thread in threads:
        for name in _SETS:
            capabilities |= int(thread.get(name, "0"), 16)
    return KernelState(
        no_new_privs=all(each.get("NoNewPrivs") == "1" for each in threads),
        seccomp=min(int(each.get("Seccomp", "0")) for each in threads),
        capabilities=capabilities,
    )


def not_refused(escapes: tuple[tuple[str, str | None], ...]) -> tuple[str, ...]:
    """The attempts that a confinement did not refuse."""
    return tuple(f"{attempt}: {error or 'not refused'}" for attempt, error in escapes if error not in REFUSALS)


def _status(path: str) -> dict[str, str]:
    with open(path, "rb") as file:
        text = file.read(1 << 16).decode("ascii", "replace")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
