"""The words of a fleet's run: how an audit of one device ended, what may be tried again, and what a run comes to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.model import EXIT_CODES, EXIT_FAILED, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from auditor.model import Report


class Failure(enum.Enum):
    """Why an audit was not carried out, or not to its end."""

    UNREACHABLE = "unreachable"
    LOST = "connection lost"
    """A reboot in the middle, a killed agent, a network that went away."""
    KILLED = "audit process killed"
    """On this machine: by the kernel, which had no memory left, or by a person."""
    REFUSED = "refused"
    """A key, a changed host key, an account that may not log in."""
    UNSUITED = "no usable python3"
    WRONG_ANSWER = "wrong answer"
    DEADLINE = "deadline passed"
    USAGE = "wrong option"
    """An option names something that does not exist, here or on the device."""
    DEFECT = "auditor defect"


RETRIED = frozenset({Failure.UNREACHABLE, Failure.LOST, Failure.KILLED})
"""What another try may mend; the rest comes to the same."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One attempt at one device, ended.

    Without a verdict there is no report; with both, the report is of what the device answered until it was lost. `outcomes` has each
    requirement's outcome, with `, waived` where waivers cover it; those that --only left out are not in it.
    """

    device: str
    attempt: int
    verdict: Verdict | None
    failure: Failure | None
    message: str = ""
    seconds: float = 0.0
    kernel: str = ""
    outcomes: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """It as JSON."""
        words = {name: value and value.value for name, value in (("verdict", self.verdict), ("failure", self.failure))}
        return {**asdict(self), **words}

    def again(self, attempts: int) -> bool:
        """Whether another attempt is to be made, of at most `attempts`."""
        return self.failure in RETRIED and self.attempt < attempts

    @property
    def told(self) -> str:
        """The verdict in a word, or why there is none."""
        word = self.verdict.value if self.verdict else "not carried out"
        return f"{word} ({self.failure.value})" if self.failure else word


def outcomes(report: Report) -> dict[str, str]:
    """Each requirement's outcome, as `Ended` keeps it."""
    return {each.id: each.outcome.value + (", waived" if each.waived else "") for each in report.requirements if each.selected}


def exit_code(ended: Iterable[Ended], devices: int) -> int:
    """The worst over `devices` devices: a failure that was shown, then what could not be carried out, then what is not known.

    A device without an end was not audited.
    """
    found = list(ended)
    if any(each.verdict is Verdict.NON_COMPLIANT for each in found):
        return EXIT_CODES[Verdict.NON_COMPLIANT]
    if len(found) < devices or any(each.verdict is None for each in found):
        return EXIT_FAILED
    return max((EXIT_CODES[each.verdict] for each in found if each.verdict), default=EXIT_FAILED)
