"""service-…: what the design of the ChromeOS ML service asks of itself; not applicable to a device without that service.

The levels are those within a requirement: all of these requirements are `should`, so none of them touches the verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.types import Missing
from auditor.model import Answer, Outcome, Owner, Status, check
from checks.confinement import OWN_ROOT, filter_in_doubt, is_restrained, lets_every_ioctl_through, restrained
from checks.wording import some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts, SandboxDefinition

NO_SERVICE = "The device has no ChromeOS ML service."
NAME = "ml_service"

SIZE = 3 * 10**6
"""What the design estimates for the runtime with the operators that the models need."""


def _has_service(facts: Facts) -> bool:
    """Whether the service is there; raises MissingFact where that could not be seen."""
    executable = facts.ml_service.executable
    if isinstance(executable, Missing) and executable.status is Status.ABSENT:
        return False
    executable.open()
    return True


def _none(facts: Facts) -> Answer:
    return Answer(Outcome.NOT_APPLICABLE, "there is no /usr/bin/ml_service", facts.ml_service.executable.evidence)


def _undecided(facts: Facts, why: str) -> Answer:
    """An honest unknown: the service is there, and what is asked shows only in its own process."""
    return _none(facts) if not _has_service(facts) else Answer(Outcome.UNKNOWN, why, facts.ml_service.executable.evidence)


@check(
    "service-sandbox.definition",
    expected="each minijail of ml_service: no new privileges, a root of its own, and seccomp policies that filter ioctl",
    passes="The ML service and its workers are started in a sandbox.",
    fails="The ML service's sandbox, as it is defined, is open.",
    unknown="How the ML service is sandboxed could not be read.",
    not_applicable=NO_SERVICE,
    remediation="Give every minijail of ml_service -n, --profile and -S, and filter ioctl in every policy of its workers.",
    owner=Owner.CHROMEOS,
)
def definition(facts: Facts) -> Iterator[Answer]:
    """Each upstart job that starts ml_service does so through minijail with -n, a root of its own and a seccomp policy.

    The service starts a worker for each model, which enters a policy of its own, /usr/share/policy/ml_service-*.policy; in all of them
    ioctl must be filtered by request. What the running processes are confined to is security-1.holders where they hold an accelerator.
    Source: chromiumos/platform2, ml/init/ml-service.conf.
    """
    if not _has_service(facts):
        yield _none(facts)
        return
    written, workers = facts.sandbox.definitions.open(), facts.ml_service.policies.open()
    for place in (*written.unread, *workers.unread):
        place.open()
    own = [each for each in written.items if each.command.rpartition("/")[2] == NAME]
    opened = [each.path for each in workers.items if lets_every_ioctl_through(each)]
    faults = [*(f"{path} lets every ioctl through" for path in opened), *(fault for each in own for fault in _faults(facts, each))]
    trouble = [doubt for each in own if (doubt := each.trouble or filter_in_doubt(each))]
    policies = [facts.sandbox.policies[each.policy] for each in own if each.policy]
    evidence = (
        *facts.ml_service.executable.evidence,
        *facts.sandbox.definitions.evidence,
        *workers.evidence,
        *(item for each in (*own, *policies) for item in each.evidence),
    )
    if faults:
        yield Answer(Outcome.FAIL, some(faults, "; "), evidence)
    elif trouble or not own:
        yield Answer(Outcome.UNKNOWN, "; ".join(trouble) or "no job that starts it through minijail", evidence)
    else:
        yield Answer(Outcome.PASS, f"{len(own)} minijails of it, {len(workers.items)} policies of its workers", evidence)


def _faults(facts: Facts, definition: SandboxDefinition) -> Iterator[str]:
    """What is open in one minijail; nothing is said of one that is not understood."""
    if definition.trouble:
        return
    where = definition.subject.removeprefix("file:")
    if "n" not in definition.options:
        yield f"{where}: may gain new privileges (no -n)"
    if OWN_ROOT.isdisjoint(definition.options):
        yield f"{where}: no root of its own"
    if not definition.policy:
        yield f"{where}: no seccomp policy"
    elif lets_every_ioctl_through(facts.sandbox.policies[definition.policy].open()):
        yield f"{definition.policy} lets every ioctl through"


@check(
    "service-sandbox.switches",
    expected="no test switch in the command line of the running service",
    passes="The ML service runs without switches that open its sandbox.",
    fails="The ML service runs with a switch that is meant for tests.",
    not_applicable="The ML service does not exist, or does not run.",
    remediation="Start the service as its job does, without switches for tests.",
    owner=Owner.CHROMEOS,
)
def switches(facts: Facts) -> Iterator[Answer]:
    """The command lines of the service and its workers name no switch such as `--disable-seccomp-for-test`.

    With that switch a worker does not enter its seccomp policy, and everything else looks the same. A process can overwrite its own
    command line; the switch is taken by the service itself, which has no reason to. Source: chromiumos/platform2, ml/process.cc.
    """
    if not _has_service(facts):
        yield _none(facts)
        return
    found = facts.ml_service.switches.open()
    evidence = (*facts.ml_service.executable.evidence, *facts.ml_service.switches.evidence)
    tests = [each for each in found if each.endswith("-for-test") or "disable-seccomp" in each]
    if tests:
        yield Answer(Outcome.FAIL, some(tests, " "), evidence)
    elif found:
        yield Answer(Outcome.PASS, some(found, " "), evidence)
    else:
        yield Answer(Outcome.NOT_APPLICABLE, "the service does not run", evidence)


@check(
    "service-sandbox.running",
    expected="the running daemon and each worker have no new privileges, a seccomp filter, and no capability to escape with",
    passes="The ML service and its workers run confined.",
    fails="The ML service, or a worker of it, runs without confinement.",
    not_applicable="The ML service does not exist, or does not run.",
    remediation="Start the service through its job, and look at which minijail option or policy a worker does not enter.",
    owner=Owner.CHROMEOS,
)
def running(facts: Facts) -> Iterator[Answer]:
    """How the service's processes are confined at the time of the audit, whatever their definition says.

    Of each process, its weakest thread counts. They are known by their command lines; a service that is started on demand may not run
    at all, and a worker runs only while a model is loaded. Capabilities are those within a process's own user namespace: the daemon's
    is one, in which it is not the system's root. Source: proc(5); chromiumos/platform2, ml/init/ml-service.conf.
    """
    if not _has_service(facts):
        yield _none(facts)
        return
    found = facts.ml_service.restraints.open()
    evidence = (*facts.ml_service.executable.evidence, *facts.ml_service.restraints.evidence)
    open_ones = [restrained(each) for each in found if not is_restrained(each)]
    if open_ones:
        yield Answer(Outcome.FAIL, some(open_ones, "; "), evidence)
    elif found:
        yield Answer(Outcome.PASS, some([restrained(each) for each in found], "; "), evidence)
    else:
        yield Answer(Outcome.NOT_APPLICABLE, "the service does not run", evidence)


@check(
    "service-models.verified",
    expected="the models lie on a root that verified boot covers",
    passes="The models are those that the system image was built with.",
    fails="The models can be altered where they lie.",
    not_applicable="The ML service does not exist, or has no models on its root.",
    remediation="Install models on the verified root, and boot with verification on.",
    owner=Owner.CHROMEOS,
)
def models(facts: Facts) -> Iterator[Answer]:
    """Every model in /opt/google/chrome/ml_models lies on the root file system, and verified boot covers that.

    Covered is a root that is dm-verity's, mounted read-only, on a device that is not in developer mode. A link or a mount that leads
    elsewhere is seen by its file system. Models that are downloaded (DLC) are verified by another way and are not looked at.
    Source: ChromeOS ML service, design, ML model publishing.
    """
    if not _has_service(facts):
        yield _none(facts)
        return
    boot, listing = facts.loading.verified_boot, facts.ml_service.models.open()
    elsewhere = [each.path for each in listing.items if not each.on_root.open()]
    evidence = (*facts.ml_service.executable.evidence, *listing.evidence)
    covered = (boot.verity, boot.root_read_only, boot.mode)
    evidence += tuple(item for fact in covered for item in fact.evidence)
    if elsewhere:
        yield Answer(Outcome.FAIL, f"not on the root: {some(elsewhere)}", evidence)
        return
    for place in listing.unread:
        place.open()
    if not listing.items:
        yield Answer(Outcome.NOT_APPLICABLE, "no model in /opt/google/chrome/ml_models", listing.evidence)
        return
    verity, read_only, mode = boot.verity.open(), boot.root_read_only.open(), boot.mode.open()
    state = f"{len(listing.items)} models; dm-verity {_on(verity)}, read-only {_on(read_only)}, {mode or 'no ChromeOS'} mode"
    if verity and read_only and not mode:
        yield Answer(Outcome.UNKNOWN, state, evidence)
        return
    yield Answer(Outcome.PASS if verity and read_only and mode == "normal" else Outcome.FAIL, state, evidence)


def _on(state: bool) -> str:
    return "on" if state else "off"


@check(
    "service-size.executable",
    expected="an executable below the 3 MB that the design estimates for the runtime",
    passes="The service's executable is smaller than the design's estimate of the runtime.",
    fails="The service's executable is larger than the design's estimate of the runtime.",
    not_applicable=NO_SERVICE,
    remediation="Look at which operators and libraries are linked in; the estimate is the design's, and information.",
    owner=Owner.CHROMEOS,
)
def size(facts: Facts) -> Iterator[Answer]:
    """The size of /usr/bin/ml_service against the estimate of 3 MB.

    The estimate is for a runtime with the operators that the published models need. The executable holds more than that, and where the
    runtime is a library it holds less: the figure is information. Source: ChromeOS ML service, design, speed.
    """
    if not _has_service(facts):
        yield _none(facts)
        return
    found = facts.ml_service.executable.open()
    observed = f"{found.size / 10**6:.2f} MB"
    yield Answer(Outcome.PASS if found.size < SIZE else Outcome.FAIL, observed, facts.ml_service.executable.evidence)


@check(
    "service-operators.present",
    expected="the service's runtime has every operator of the published models",
    passes="Every operator is there.",
    fails="An operator is missing.",
    unknown="Which operators the service's own runtime was linked with shows only when it loads a model.",
    not_applicable=NO_SERVICE,
    remediation="Load every published model through the service (ml_cmdline, Tast platform.MLServiceBootstrap) and attach the result.",
    owner=Owner.CHROMEOS,
)
def operators(facts: Facts) -> Iterator[Answer]:
    """Undecided where the service is there: the auditor does not talk to the device's service.

    Source: ChromeOS ML service, design, TensorFlow versioning.
    """
    yield _undecided(facts, "the service was not asked to load models")


@check(
    "service-golden.predictions",
    expected="each published model gives its golden outputs for its golden inputs",
    passes="The models predict right.",
    fails="A model predicts otherwise than its golden outputs.",
    unknown="What the service predicts shows only when it runs its models.",
    not_applicable=NO_SERVICE,
    remediation="Run the golden tests of the published models through the service and attach the result.",
    owner=Owner.CHROMEOS,
)
def predictions(facts: Facts) -> Iterator[Answer]:
    """Undecided where the service is there: the golden inputs and outputs belong to its tests, which are not on the device.

    Source: ChromeOS ML service, design, TensorFlow versioning.
    """
    yield _undecided(facts, "no golden test of the service was recorded")


@check(
    "service-errors.graceful",
    expected="a missing model or a failing evaluation gives an error, and the service goes on",
    passes="The service fails gracefully.",
    fails="The service does not fail gracefully.",
    unknown="How the service takes a missing model or a failing evaluation shows only when that is tried.",
    not_applicable=NO_SERVICE,
    remediation="Run the service's own tests of failures on the device and attach the result.",
    owner=Owner.CHROMEOS,
)
def errors(facts: Facts) -> Iterator[Answer]:
    """Undecided where the service is there: the auditor makes no failing request to the device's service.

    Source: ChromeOS ML service, testing plan.
    """
    yield _undecided(facts, "the service was not asked to fail")


@check(
    "service-metrics.reported",
    expected="events and timers of each model, and its memory, are reported",
    passes="The service reports its metrics.",
    fails="The service reports no metrics.",
    unknown="What the service reports shows only while it works.",
    not_applicable=NO_SERVICE,
    remediation="Look at chrome://histograms/MachineLearningService after a request to each model, and attach what it shows.",
    owner=Owner.CHROMEOS,
)
def metrics(facts: Facts) -> Iterator[Answer]:
    """Undecided where the service is there: its metrics go to Chrome, which the auditor does not ask.

    Source: ChromeOS ML service, metrics.
    """
    yield _undecided(facts, "no metrics of the service were recorded")
