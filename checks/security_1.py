"""security-1: sandboxing must be supported for isolating untrusted workloads and any binary-only driver components."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from auditor.facts.types import Missing, Ok
from auditor.families import FAMILIES
from auditor.model import Answer, Level, Outcome, Owner, Remedy, check, visible
from checks.confinement import filter_in_doubt, is_restrained, lets_every_ioctl_through, restrained, shows_all_devices
from checks.wording import some
from checks.zoo_runs import DELEGATED_SHARE, TIMED, cited

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Accelerator, Facts, Holder, Listing, SandboxDefinition
    from auditor.model import ModelRun

T = TypeVar("T")


REFUSALS = frozenset({"EACCES", "EPERM", "ENOSYS"})
"""How a confinement refuses: Landlock, seccomp, and calls that it takes for unknown."""

OTHERS_READ, OTHERS_WRITE = 0o004, 0o002
"""The mode bits that let everyone read and write."""

DEVICES = tuple(sorted({
    "/dev/accel", "/dev/dri", "/dev/vfio", *(f"/dev/{node.begins}" for family in FAMILIES.families for node in family.nodes),
}))  # fmt: skip
"""Where accelerators' nodes are, as paths begin."""


@check(
    "security-1.confined-run",
    needs=("models",),
    expected="every model run through the delegate on the accelerator, confined, and every attempt to leave the confinement refused",
    passes="The delegate does its work on the accelerator inside a confinement that it cannot leave.",
    fails="From inside the confinement that the delegate was run in, something was reached that must not be.",
    unknown="No run of the delegate on an accelerator recorded how it was confined and what it was refused.",
    remediation="Make the delegate work with only its device node and its own files, without network, and without new privileges.",
    owner=Owner.VENDOR,
)
def confined_run(facts: Facts) -> Iterator[Answer]:
    """The zoo's models were run through the delegate inside the auditor's confinement, and attempts to get out of it were refused.

    A driver supports sandboxing if it works in a sandbox. A run's conditions record under `confinement` the `state` it was in
    (`confined`: no new privileges, no capabilities, Landlock, seccomp, limits), and under `escapes` what became of each attempt to get
    out (network, files, other devices, other processes): the errno it was `refused` with, null where it succeeded. It passes where every
    run ended well and was confined, each attempt was refused as a confinement refuses, and in a run, of which the delegate claims 95 % of
    the multiply-accumulates, the kernel counted the accelerator's work: a delegate that computes on the CPU shows nothing about the
    accelerator's driver. An attempt that succeeded in a confined run fails; one that ended otherwise, or was made without confinement,
    decides nothing.
    Runs of a demonstration are not the device's.

    The confinement is applied, and the attempts are made, before the first byte of the vendor's is loaded, so neither can be faked by
    it. Source: seccomp(2), landlock(7).
    """
    results = facts.models.open()
    runs = [run.open() for each in results for run in each.runs]
    evidence = tuple(item for each in results for item in cited(each))
    delegated = [run for run in runs if run.delegate is not None]
    if facts.plan.demonstration or not delegated or not facts.accelerators.open().items:
        observed = "no model was run through a delegate on an accelerator of this device"
        named = delegated and not facts.plan.demonstration  # to name it again would not help
        yield Answer(Outcome.UNKNOWN, observed, evidence, remedy=Remedy.DRIVER if named else Remedy.DELEGATE)
        return
    attempts = [_attempts(run) for run in delegated]
    held = [_attempts(run) for run in delegated if _is_confined(run)]
    escaped = sorted({name for each in held for name, refusal in each if refusal is None})
    confined = all(map(_is_confined, delegated)) and all(each and REFUSALS.issuperset(how for _, how in each) for each in attempts)
    if escaped:
        yield Answer(Outcome.FAIL, visible(f"not refused: {some(escaped)}"), evidence)
    elif confined and any(map(_worked, delegated)):
        tried = sorted({name for each in attempts for name, _ in each})
        yield Answer(Outcome.PASS, visible(f"{len(delegated)} confined runs; refused: {some(tried)}"), evidence)
    else:
        because = "Nothing shows that the delegate worked on the accelerator." if confined else "Not every run ended well, and confined."
        observed, advice = f"{len(delegated)} runs through the delegate", confined_run.remediation
        yield Answer(Outcome.UNKNOWN, observed, evidence, because, remedy=Remedy.VENDOR, remediation=advice)


def _worked(run: ModelRun) -> bool:
    return (run.delegated_macs or 0) >= DELEGATED_SHARE and run.conditions.get(TIMED) is True


def _is_confined(run: ModelRun) -> bool:
    confinement = run.conditions.get("confinement")
    return run.status == "completed" and isinstance(confinement, dict) and confinement.get("state") == "confined"


def _attempts(run: ModelRun) -> list[tuple[str, str | None]]:
    """What each attempt to get out was refused with; nothing where that was not recorded, or not in this shape."""
    escapes = run.conditions.get("escapes")
    if not isinstance(escapes, list) or not all(isinstance(each, dict) and {"attempt", "refused"} <= each.keys() for each in escapes):
        return []
    return [(str(each["attempt"]), None if each["refused"] is None else str(each["refused"])) for each in escapes]


@check(
    "security-1.holders",
    each="accelerators",
    expected="every process that holds the accelerator's node has no new privileges, a seccomp filter, and no capability to escape with",
    passes="The process that holds the accelerator's node is confined.",
    fails="A process that is not confined holds the accelerator's node.",
    not_applicable="No process holds the accelerator's node.",
    remediation="Start the service through minijail with -n, -S and without capabilities (or with -c 0), under a user of its own.",
    owner=Owner.CHROMEOS,
)
def holders(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """Who has the accelerator's node open on the running system, and how each of them is confined.

    Read from every process's descriptors; of each that holds the node, its weakest thread counts (seccomp, capabilities and user are a
    thread's own). It must have `NoNewPrivs`, a seccomp filter, and none of the capabilities that lead out of any sandbox. Its user and
    the namespaces that it does not share with PID 1 are shown. What the filter lets through is security-1.definition's question.

    Only processes that run while the audit does are seen, and only root sees those of others: unless all could be looked at, it is
    unknown, and not 'nobody'. A node under another name (a bind mount of one file, a node made by hand) is not recognised.
    Source: proc(5); chromiumos/docs, sandboxing.md; Tast security.SandboxedServices.
    """
    listing = facts.sandbox.holders.open()
    held = [each for each in listing.items if each.accelerator == accelerator.subject]
    yield from (_holder(each, alone=not listing.unread) for each in held)
    if not accelerator.nodes:
        yield Answer(Outcome.UNKNOWN, "no node of it is known", accelerator.driver.evidence, remedy=Remedy.DRIVER)
    elif listing.unread:
        yield _unread(listing)
    elif not held:
        observed = f"nobody holds {', '.join(node.path for node in accelerator.nodes)}"
        yield Answer(Outcome.NOT_APPLICABLE, observed, facts.sandbox.holders.evidence)


def _holder(holder: Holder, *, alone: bool) -> Answer:
    """What is to be said of one process; it passes only where no other of the same executable may be out of sight."""
    found, observed = holder.restraint, _described(holder)
    evidence = (*holder.evidence, *found.evidence)
    if isinstance(found, Missing):
        return Answer(Outcome.UNKNOWN, observed, evidence, subject=holder.subject, remedy=found.remedy)
    confined = is_restrained(found.value)
    if confined and not alone:
        because = "It is confined, but not every process could be looked at."
        return Answer(Outcome.UNKNOWN, observed, evidence, because, subject=holder.subject, remedy=Remedy.ROOT)
    return Answer(Outcome.PASS if confined else Outcome.FAIL, observed, evidence, subject=holder.subject)


def _places(listing: Listing[Any]) -> str:
    """Where there is more that could not be looked at."""
    return some((f"{item.path}: {item.status.value}" for each in listing.unread for item in each.evidence), "; ")


def _described(holder: Holder) -> str:
    """A process's confinement in words; what could not be read is named so."""
    found, own = holder.restraint, holder.namespaces
    restraint = restrained(found.value) if isinstance(found, Ok) else "confinement not readable"
    spaces = f"own namespaces: {' '.join(sorted(own.value)) or 'none'}" if isinstance(own, Ok) else "namespaces not readable"
    return f"holds {holder.node}; {restraint}, {spaces}"


def _unread(listing: Listing[Any]) -> Answer:
    """There is more that could not be looked at."""
    first = listing.unread[0]
    observed = f"not all could be looked at: {_places(listing) or first.note}"
    return Answer(Outcome.UNKNOWN, observed, tuple(item for each in listing.unread for item in each.evidence), remedy=first.remedy)


@check(
    "security-1.definition",
    each="accelerators",
    expected="of each service that holds the node: a seccomp policy that filters ioctl, and a root of its own without the whole of /dev",
    passes="The service that holds the node is started in a sandbox that filters ioctl and shows it only the devices it needs.",
    fails="The service that holds the node may make any ioctl, or sees every device.",
    unknown="How the service that holds the node is sandboxed, and what its filter lets through, could not be read.",
    not_applicable="No process holds the accelerator's node.",
    remediation="Filter ioctl by request in the service's seccomp policy, and bind the nodes it needs into a root of its own.",
    owner=Owner.CHROMEOS,
)
def definition(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """Of every process that holds the node: the minijail call in its upstart job, with its configuration and seccomp policy.

    An `ioctl: 1` lets any request reach every driver whose node the service can open, and the whole of /dev lets it open them; both
    fail. So does a minijail without a root of its own (-P, -C, --profile): it leaves all of /dev in sight. A policy filters ioctl where
    each alternative of each of its rules, with those of included files, has a condition on the request (`arg1 ==`, `arg1 in`, `arg1 &`);
    how wide the condition is, is for people to judge. A job is matched to a process by its executable.

    A process that no job starts through minijail is not concerned where it put itself in a sandbox, as Chrome's GPU process does: a user
    other than root, no capability, no new privileges, a filter, and a namespace of its own for processes or the network; what its filter
    lets through nobody can read. Any other such process is unknown, and so are a definition with options that only the shell knows, a
    filter that is compiled, and one with -L, which may only log what it should refuse.
    Source: google/minijail (minijail0.1, minijail0.5); chromiumos/docs, sandboxing.md.
    """
    listing, written = facts.sandbox.holders.open(), facts.sandbox.definitions.open()
    held = sorted({each.subject for each in listing.items if each.accelerator == accelerator.subject})
    for subject in held:
        own = [each for each in written.items if f"exe:{each.command}" == subject]
        if written.unread:
            observed = f"{len(own) or 'no'} minijail definition of it was found; what could not be read may define it: {_places(written)}"
            evidence = tuple(item for each in written.unread for item in each.evidence)
            yield Answer(Outcome.UNKNOWN, observed, evidence, subject=subject, remedy=written.unread[0].remedy)
        elif not own:
            yield _undefined(facts, [each for each in listing.items if each.subject == subject], subject)
        for each in own:
            answer = _definition(facts, each)
            yield replace(answer, subject=subject, evidence=(*facts.sandbox.definitions.evidence, *answer.evidence))
    if listing.unread:
        yield _unread(listing)
    elif not held:
        outcome = Outcome.NOT_APPLICABLE if accelerator.nodes else Outcome.UNKNOWN
        yield Answer(outcome, "nobody is known to hold its node", facts.sandbox.holders.evidence)


def _undefined(facts: Facts, processes: list[Holder], subject: str) -> Answer:
    """Of a process that no minijail starts: it is what /proc says that it is, and only that is judged, where that is a sandbox."""
    evidence = (
        *facts.sandbox.definitions.evidence,
        *(item for each in processes for item in (*each.restraint.evidence, *each.namespaces.evidence)),
    )
    if all(_sandboxes_itself(each) for each in processes):
        observed = "no minijail starts it; by its own confinement, which security-1.holders judges, it is in a sandbox"
        return Answer(Outcome.NOT_APPLICABLE, observed, evidence, subject=subject)
    return Answer(Outcome.UNKNOWN, "no minijail definition of it was found", evidence, subject=subject, remedy=Remedy.VENDOR)


def _sandboxes_itself(holder: Holder) -> bool:
    """Whether a process is in a sandbox of its own making: filtered, without rights, and apart from other processes or the network."""
    restraint, own = holder.restraint.open(), holder.namespaces.open()
    return is_restrained(restraint) and restraint.uid != 0 and not restraint.capabilities and not own.isdisjoint({"pid", "net"})


def _definition(facts: Facts, definition: SandboxDefinition) -> Answer:
    """What one definition lets through."""
    policy = facts.sandbox.policies.get(definition.policy)
    evidence = (*definition.evidence, *(policy.evidence if policy else ()))
    where = definition.subject.removeprefix("file:")
    faults = ["shows all of /dev"] if shows_all_devices(definition) and not definition.trouble else []
    if isinstance(policy, Ok) and lets_every_ioctl_through(policy.value):
        faults.append(f"{definition.policy} lets every ioctl through")
    if faults:
        return Answer(Outcome.FAIL, f"{where}: {', '.join(faults)}", evidence)
    if definition.trouble:
        return Answer(Outcome.UNKNOWN, f"{where}: {definition.trouble}", evidence, remedy=Remedy.EVIDENCE)
    if doubt := filter_in_doubt(definition):
        return Answer(Outcome.UNKNOWN, f"{where}: {doubt}", evidence, remedy=Remedy.VENDOR)
    if policy is None:
        return Answer(Outcome.UNKNOWN, f"{where}: no seccomp policy that can be read", evidence, remedy=Remedy.VENDOR)
    if isinstance(policy, Missing):
        return Answer(Outcome.UNKNOWN, f"{where}: {definition.policy} ({policy.status.value})", evidence, remedy=policy.remedy)
    devices = some(path for path in definition.binds if path.startswith("/dev")) or "none bound"
    return Answer(Outcome.PASS, f"{where}: ioctl filtered by {definition.policy}; devices: {devices}", evidence)


@check(
    "security-1.reaching-definitions",
    level=Level.SHOULD,
    expected="of each sandbox that an accelerator's node is bound into: a seccomp policy that filters ioctl, and not the whole of /dev",
    passes="The sandbox filters ioctl and shows only the devices that its service needs.",
    fails="The sandbox lets its service make any ioctl, or shows it every device.",
    unknown="What the sandbox lets through could not be read.",
    not_applicable="No sandbox is defined that accelerators' nodes are bound into.",
    remediation="Filter ioctl by request in the service's seccomp policy, and bind only the nodes it needs.",
    owner=Owner.CHROMEOS,
)
def reaching_definitions(facts: Facts) -> Iterator[Answer]:
    """Every minijail definition that binds /dev, or a folder or node of accelerators in it, whether its service runs or not.

    What security-1.definition decides of services that hold a node, for those that could: a camera service that is given the whole of
    /dev, a cache that is started on demand. Services that leave their root as it is are not named here, they are too many.
    A configuration that leaves the policy to the job that names it is judged with that job.
    Source: as for security-1.definition.
    """
    written = facts.sandbox.definitions.open()
    reaching = [each for each in written.items if any(path == "/dev" or path.startswith(DEVICES) for path in each.binds)]
    complete = [each for each in reaching if each.command or each.policy or "/dev" in each.binds]
    for each in complete:
        yield replace(_definition(facts, each), subject=each.subject)
    vague = [each for each in written.items if each.trouble and each not in reaching]
    if written.unread:
        yield _unread(written)
    elif vague:
        observed = f"not understood: {some(sorted({each.subject for each in vague}))}"
        yield Answer(Outcome.UNKNOWN, observed, facts.sandbox.definitions.evidence, remedy=Remedy.EVIDENCE)
    elif not complete:
        yield Answer(Outcome.NOT_APPLICABLE, f"none of {len(written.items)} definitions", facts.sandbox.definitions.evidence)


@check(
    "security-1.node-mode",
    each="accelerators",
    expected="device nodes that only their owner and group may write",
    passes="Only the owner and the group of the accelerator's nodes may use them.",
    fails="Everyone on the system may use the accelerator.",
    remediation='Set the node\'s mode in a udev rule: MODE="0660", with a group of the services that need it.',
    owner=Owner.CHROMEOS,
)
def node_mode(facts: Facts, accelerator: Accelerator) -> Iterator[Answer]:
    """The mode of each of the accelerator's nodes does not let others write.

    A node that everyone may open (0666, a common workaround) is open to every process, sandboxed or not. Others who may only read it
    (0664) do not fail it; the finding says so, since many drivers take the same requests through a descriptor that was opened for
    reading. Access that a list adds to the mode (setfacl, as logind does for the user at the seat) is not seen. An accelerator without
    nodes is unknown: they are there once its driver is. Source: chmod(1); udev(7).
    """
    modes = [(node.path, node.mode) for node in accelerator.nodes]
    evidence = tuple(item for _, mode in modes for item in mode.evidence)
    shown = ", ".join(f"{path} {mode.value:04o}" for path, mode in modes if isinstance(mode, Ok))
    if any(isinstance(mode, Ok) and mode.value & OTHERS_WRITE for _, mode in modes):
        yield Answer(Outcome.FAIL, shown, evidence)
        return
    for _, mode in modes:
        mode.open()
    for place in facts.accelerators.open().unread:
        place.open()
    if modes:
        readable = any(mode.open() & OTHERS_READ for _, mode in modes)
        yield Answer(Outcome.PASS, f"{shown}; others may open it for reading" if readable else shown, evidence)
    else:
        yield Answer(Outcome.UNKNOWN, "no node of it is known", accelerator.driver.evidence, remedy=Remedy.DRIVER)
