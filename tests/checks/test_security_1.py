"""security-1: confined runs, holders of the node, definitions of sandboxes, modes of nodes."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from auditor.facts.minijail import LIMIT
from auditor.facts.types import Listing, Missing, ModelResult, Ok
from auditor.model import Evidence, ModelRun, Outcome, Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from checks import security_1
from fixtures import chromebook as cros
from fixtures.chromebook import CONFINED, DAEMON, FREE, NODE, Process, chromebook, jobs, running
from fixtures.devices import ABSENT, DENIED, UNASKED, absent, answered, denied, names, recorded
from fixtures.judging import collected, judged

if TYPE_CHECKING:
    from auditor.facts.types import Facts
    from auditor.sources.recording import Record

NPU = "pci:0000:00:05.0"
EXE = f"exe:{DAEMON}"
JOB = "file:/etc/init/npud.conf"


# --- confined runs ---------------------------------------------------------------------------------------------------------------------


def measured(
    delegate: str | None = "/usr/lib64/libnpu.so", status: str = "completed", macs: float | None = 1.0, **conditions: Any
) -> ModelRun:
    return ModelRun(
        model="m", sha256="", origin="device", runner="embedded", runtime="", delegate=delegate, status=status, message="",
        delegated_nodes=None, total_nodes=None, partitions=None, delegated_macs=macs, latency_us=None, bracket_us=None, samples=0,
        init_us=None, first_us=None, cpu_us=None, accuracy=None, memory=None, conditions=conditions,
    )  # fmt: skip


STATE = {"state": "confined"}


def tried(**attempts: str | None) -> list[dict[str, str | None]]:
    return [{"attempt": name, "refused": refused} for name, refused in attempts.items()]


IDLE = {"confinement": STATE, "escapes": tried(network="EPERM", files="EACCES")}
CONDITIONS = {**IDLE, "accelerator_busy": True}


def with_runs(*runs: ModelRun | Missing, **changes: Any) -> Facts:
    facts = collected(recorded())
    evidence = (Evidence("run:m", Status.OK),)
    answers = tuple(run if isinstance(run, Missing) else Ok(run, evidence) for run in runs)
    nothing = Missing(Status.UNASKED)
    return replace(facts, models=Ok((ModelResult("m", "", answers, nothing, nothing),)), **changes)


def confined(facts: Facts):
    return judged(facts, security_1.confined_run)["device"]


def test_confined_runs_with_refused_escapes_pass() -> None:
    found = confined(with_runs(measured(**CONDITIONS), measured(macs=0.5, **CONDITIONS)))
    assert (found.outcome, found.observed) == (Outcome.PASS, "2 confined runs; refused: files, network")
    assert [item.path for item in found.evidence] == ["run:m"]


def test_an_escape_fails() -> None:
    escaped = measured(confinement=STATE, escapes=tried(network=None, files="EACCES"))
    found = confined(with_runs(measured(**CONDITIONS), escaped))
    assert (found.outcome, found.observed) == (Outcome.FAIL, "not refused: network")
    twice = measured(confinement=STATE, escapes=[*tried(network=None), *tried(network="EPERM")])
    assert confined(with_runs(twice)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "run",
    [
        measured(),
        measured(confinement=STATE),
        measured(confinement=STATE, escapes=[]),
        measured(confinement=STATE, escapes=tried(network="EINVAL")),
        measured(confinement=STATE, escapes=["refused"]),
        measured(confinement=STATE, escapes=[{"attempt": "network"}]),
        measured(confinement=STATE, escapes={"network": "EPERM"}),
        measured(confinement={"state": "unconfined"}, escapes=tried(network="EPERM")),
        measured(confinement="confined", escapes=tried(network="EPERM")),
        measured(status="died", **CONDITIONS),
        measured(**IDLE),  # nothing shows that the accelerator worked
        measured(confinement={"state": "unconfined"}, escapes=tried(network=None)),  # nothing was there to refuse it
        measured(macs=0.5, **CONDITIONS),
        measured(macs=None, **CONDITIONS),
        measured(delegate=None, **CONDITIONS),
    ],
)
def test_runs_that_show_nothing_are_unknown(run: ModelRun) -> None:
    found = confined(with_runs(run))
    assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR if run.delegate else Remedy.DELEGATE)


def test_a_delegate_that_was_named_is_not_asked_for_again_where_no_accelerator_was_found() -> None:
    facts = with_runs(measured(**CONDITIONS))
    found = confined(replace(facts, accelerators=Ok(replace(facts.accelerators.open(), items=()))))
    assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.DRIVER)


def test_one_run_that_was_not_confined_takes_the_pass_away() -> None:
    assert confined(with_runs(measured(**CONDITIONS), measured())).outcome is Outcome.UNKNOWN
    assert confined(with_runs(measured(**CONDITIONS), Missing(Status.DENIED))).outcome is Outcome.UNKNOWN


def test_runs_of_a_demonstration_or_without_an_accelerator_are_not_the_devices() -> None:
    plan = replace(collected(recorded()).plan, demonstration=True)
    assert confined(with_runs(measured(**CONDITIONS), plan=plan)).outcome is Outcome.UNKNOWN
    assert confined(with_runs(measured(**CONDITIONS), accelerators=Ok(Listing(())))).outcome is Outcome.UNKNOWN
    assert confined(collected(recorded())).outcome is Outcome.UNKNOWN


# --- holders ---------------------------------------------------------------------------------------------------------------------------


def held(*threads: str, **changes: Any) -> Record:
    return running(recorded(), Process(8120, DAEMON, (), (NODE,), threads, **changes))


def test_a_confined_holder_passes_and_says_how() -> None:
    found = judged(chromebook(), security_1.holders)[EXE]
    assert found.outcome is Outcome.PASS
    assert found.observed == (
        "holds /dev/accel/accel0; user 20131, no new privileges, seccomp filter, no capabilities, own namespaces: mnt net"
    )


@pytest.mark.parametrize(
    "status",
    [
        FREE,
        CONFINED.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
        CONFINED.replace("Seccomp:\t2", "Seccomp:\t0"),
        CONFINED.replace("Seccomp:\t2", "Seccomp:\t1"),
        CONFINED.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
    ],
)
def test_a_holder_that_is_not_confined_fails_also_by_one_thread(status: str) -> None:
    for threads in ((status,), (CONFINED, status), (status, CONFINED)):
        assert judged(held(*threads), security_1.holders)[EXE].outcome is Outcome.FAIL


def test_harmless_capabilities_and_root_without_any_pass() -> None:
    for status in (CONFINED.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000000400"), CONFINED.replace("20131", "0")):
        assert judged(held(status), security_1.holders)[EXE].outcome is Outcome.PASS


@pytest.mark.parametrize("line", ["Uid", "CapEff", "NoNewPrivs", "Seccomp"])
def test_a_status_without_what_decides_is_unknown(line: str) -> None:
    without = "\n".join(each for each in CONFINED.splitlines() if not each.startswith(line))
    assert judged(held(without), security_1.holders)[EXE].outcome is Outcome.UNKNOWN


def test_no_number_of_a_process_is_in_a_finding() -> None:
    for record in (chromebook(), held(FREE), denied(held(FREE), "/proc/8120/task/8120/status"), denied(held(FREE), "/proc/8120/fd")):
        for found in judged(record, security_1.holders, security_1.definition).values():
            shown = [found.id, found.observed, found.reason, *(each.path + each.excerpt for each in found.evidence)]
            assert not any("8120" in each for each in shown)


def test_a_root_below_another_is_seen_and_other_files_are_not() -> None:
    for target, seen in ((f"/mnt/empty{NODE}", True), (f"{NODE} (deleted)", True), ("/dev/accel/accel01", False), ("/dev/accel", False)):
        record = running(recorded(), Process(8120, DAEMON, (), (target,)))
        assert (EXE in judged(record, security_1.holders)) is seen


def test_nobody_holds_the_node_only_where_all_could_be_looked_at() -> None:
    assert judged(recorded(), security_1.holders)[NPU].outcome is Outcome.NOT_APPLICABLE
    assert judged(recorded(), security_1.definition)[NPU].outcome is Outcome.NOT_APPLICABLE
    for record in (
        denied(recorded(), "/proc"),
        denied(recorded(), "/proc/1/fd"),
        denied(recorded(), "/proc/1/fd/0"),
        names(recorded(), "/proc"),  # an unpacked image
        names(recorded(), "/proc", "self", "8120"),  # hidepid
        denied(recorded(), "/proc/2/status"),
        absent(recorded(), "/proc/2/status"),
        cros.file(recorded(), "/proc/2/status", "Name:\tbash\n", base.READ_LIMIT),  # a namespace of processes
        answered(recorded(), {base.udev("drm"): DENIED}),
    ):
        for check in (security_1.holders, security_1.definition):
            found = judged(record, check)[NPU]
            assert (found.outcome, found.remedy) in {(Outcome.UNKNOWN, Remedy.ROOT), (Outcome.UNKNOWN, Remedy.LIVE)}


def test_processes_that_end_meanwhile_are_no_holders() -> None:
    gone = held(CONFINED)
    failed = Reply(Status.FAILED, errno=3)  # ESRCH
    for record in (
        absent(gone, "/proc/8120/fd"),
        absent(gone, "/proc/8120/fd/1"),
        absent(gone, "/proc/8120/exe"),
        absent(gone, "/proc/8120/task"),
        absent(gone, "/proc/8120/task/8120/status"),
        answered(absent(names(gone, "/proc/8120", "fd"), "/proc/8120"), {
            base.read("/proc/8120/task/8120/status"): failed,
            base.stat("/proc/8120"): Reply(Status.ABSENT, errno=2),
        }),
    ):  # fmt: skip
        assert judged(record, security_1.holders)[NPU].outcome is Outcome.NOT_APPLICABLE
    still = answered(gone, {base.read("/proc/8120/task/8120/status"): failed})
    assert judged(still, security_1.holders)[EXE].outcome is Outcome.UNKNOWN


def test_a_confined_holder_does_not_pass_while_others_are_out_of_sight() -> None:
    assert judged(denied(chromebook(), "/proc/1/fd"), security_1.holders)[EXE].outcome is Outcome.UNKNOWN
    assert judged(denied(held(FREE), "/proc/1/fd"), security_1.holders)[EXE].outcome is Outcome.FAIL


def test_an_accelerator_without_nodes_is_unknown() -> None:
    record = answered(recorded(), {base.udev("accel"): DENIED, base.udev("drm"): DENIED})
    for check in (security_1.holders, security_1.definition, security_1.node_mode):
        assert Outcome.UNKNOWN in {each.outcome for each in judged(record, check).values()}
        assert Outcome.PASS not in {each.outcome for each in judged(record, check).values()}


def test_an_accelerator_without_a_node_says_that_its_driver_is_missing() -> None:
    facts = collected(recorded())
    (npu, *_) = facts.accelerators.open().items
    listing = Ok(Listing((replace(npu, nodes=()),)))
    without = replace(facts, accelerators=listing, sandbox=replace(facts.sandbox, holders=Ok(Listing(()))))
    for check in (security_1.holders, security_1.node_mode):
        found = judged(without, check)[NPU]
        assert (found.outcome, found.remedy) == (Outcome.UNKNOWN, Remedy.DRIVER)
    assert judged(without, security_1.definition)[NPU].outcome is Outcome.UNKNOWN


# --- definitions -----------------------------------------------------------------------------------------------------------------------


def defined(job: str = cros.JOB, configuration: str = cros.CONFIGURATION, policy: str = cros.POLICY) -> Record:
    record = jobs(chromebook(), npud=job)
    record = cros.file(record, "/usr/share/minijail/npud.conf", configuration)
    return cros.file(record, "/usr/share/policy/npud.policy", policy)


def definition(record: Record):
    return judged(record, security_1.definition)[EXE]


def test_a_definition_that_filters_ioctl_passes() -> None:
    found = definition(chromebook())
    assert found.outcome is Outcome.PASS
    assert found.observed == (
        "/etc/init/npud.conf: ioctl filtered by /usr/share/policy/npud.policy; devices: /dev/accel, /dev/apusys, /dev/dri"
    )


@pytest.mark.parametrize(
    "rule",
    [
        "ioctl: 1", "ioctl: allow", "ioctl: log", "{read, ioctl}: 1", "ioctl[arch=x86_64]: 1", "ioctl: arg1 == 1\nioctl: 1",
        "ioctl: arg0 == 3", "ioctl: arg1 != 5", "ioctl: arg1 == 5 || arg1 != 5", "ioctl: { arg1 == 5; return EPERM; allow }",
        "ioctl: {\n arg1 == 5;\n 1\n}", "@default allow", "@denylist\nioctl: arg1 == 5; return EPERM", "ioctl : 1",
    ],
)  # fmt: skip
def test_an_ioctl_without_a_condition_on_its_request_fails(rule: str) -> None:
    assert definition(defined(policy=f"{rule}\n")).outcome is Outcome.FAIL
    included = cros.file(chromebook(), "/usr/share/policy/common.policy", f"{rule}\n")
    assert definition(included).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "rule",
    [
        "read: 1", "ioctl: arg1 == 5", "ioctl: arg0 == 3 && arg1 == 5", "ioctl: arg1 & 0x6400", "ioctl: arg1 in 0xffff",
        "ioctl: return EPERM", "ioctl: kill", "ioctl: arg1 == 5; return EPERM", "@default kill\nioctl: { arg1 == 5; arg1 == 6 }",
        "ioctl: arg1 == 5 # 1",
    ],
)  # fmt: skip
def test_conditions_on_the_request_pass(rule: str) -> None:
    assert definition(defined(policy=f"{rule}\n")).outcome is Outcome.PASS


@pytest.mark.parametrize("bind", ["bind-mount = /dev", "b = /dev,/dev,1", "b = /dev/", "k = /dev,/dev,none,MS_BIND|MS_REC"])
def test_the_whole_of_dev_fails(bind: str) -> None:
    found = definition(defined(configuration=f"{cros.CONFIGURATION}{bind}\n"))
    assert (found.outcome, "shows all of /dev" in found.observed) == (Outcome.FAIL, True)
    assert definition(defined(configuration="% minijail-config-file v0\nn\n")).outcome is Outcome.FAIL  # no root of its own


@pytest.mark.parametrize(
    "record",
    [
        defined(job=cros.JOB.replace('-S "${POLICY}"', "")),
        defined(job=cros.JOB.replace('"${POLICY}"', '"${OTHER}"')),
        defined(job=cros.JOB.replace("-S", "${OPTIONS} -S")),
        defined(job=cros.JOB.replace("-S", "-S $(cat policy) -S")),
        defined(job=cros.JOB.replace("-S", "--unheard-of -S")),
        defined(job=cros.JOB.replace('"$@" \\', '"$@" " \\')),
        defined(job=cros.JOB.replace("-S", "-L -S")),
        defined(job=cros.JOB.replace("-S", "-nL -S")),
        defined(job=cros.JOB.replace("-S", "--seccomp-bpf-binary=/usr/share/policy/npud.bpf -S")),
        defined(configuration=f"{cros.CONFIGURATION}L\n"),
        defined(job="exec minijail0 -S x -- /usr/sbin/other\n"),
        defined(policy="ioctl arg1 == 5\n"),
        defined(policy="16: 1\n"),
        defined(policy="ioctl: {\n"),
        defined(policy="@include /usr/share/policy/none.policy\n"),
        defined(configuration="n\nprofile = minimalistic-mountns\n"),
        denied(chromebook(), "/usr/share/policy/common.policy"),
        denied(chromebook(), "/usr/share/policy/npud.policy"),
        denied(chromebook(), "/usr/share/minijail/npud.conf"),
        denied(chromebook(), "/etc/init/npud.conf"),
        denied(chromebook(), "/etc/init/ml-service.conf"),
        denied(chromebook(), "/etc/init"),
        denied(chromebook(), "/usr/share/minijail"),
        denied(chromebook(), DAEMON),
    ],
)
def test_what_cannot_be_read_or_understood_is_unknown(record: Record) -> None:
    assert definition(record).outcome is Outcome.UNKNOWN


def odd_job(path: str, reply: Reply) -> Record:
    """The Chromebook with one more job, or configuration, of somebody else's."""
    folder, _, name = path.rpartition("/")
    listed = [each.decode() for each in chromebook().answers[base.names(folder)].data.split(b"\0")[:-1]]
    return answered(names(chromebook(), folder, *listed, name), {base.read(path, 0, LIMIT): reply})


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        ("/etc/init/camera.conf", Reply(Status.OK, "# r\xe9glages\nexec /usr/bin/camera\n".encode("latin-1"))),
        ("/etc/init/camera.conf", Reply(Status.OK, b"exec minijail0 -n ${X} \xff\xfe /usr/bin/camera\n")),
        ("/etc/init/camera.conf", ABSENT),  # a link that dangles
        ("/etc/init/camera.conf", Reply(Status.FAILED, errno=errno.ELOOP)),
        ("/etc/init/camera.conf", Reply(Status.OK, b"exec minijail0 -n /usr/bin/camera\n" * 65)),
        ("/etc/init/camera.conf", Reply(Status.OK, b"exec minijail0 --of-tomorrow /usr/bin/camera\n")),
        ("/etc/init/camera.conf", Reply(Status.OK, b"exec minijail0 -S $(policy) /usr/bin/camera\n")),
        ("/usr/share/minijail/camera.conf", DENIED),
        ("/usr/share/minijail/camera.conf", ABSENT),
        ("/usr/share/minijail/camera.conf", Reply(Status.FAILED, errno=errno.ELOOP)),
        ("/usr/share/minijail/camera.conf", Reply(Status.OK, "% minijail-config-file v1\n# \xe9\n".encode("latin-1"))),
        ("/usr/share/minijail/camera.conf", Reply(Status.OK, bytes(LIMIT))),
    ],
)
def test_what_cannot_be_read_of_another_job_decides_nothing_about_this_one(path: str, reply: Reply) -> None:
    record = odd_job(path, reply)
    found = definition(record)
    assert (found.outcome, found.subject) == (Outcome.PASS, f"exe:{DAEMON}")
    assert judged(record, security_1.holders)[f"exe:{DAEMON}"].outcome is Outcome.PASS


@pytest.mark.parametrize(
    "reply", [DENIED, UNASKED, Reply(Status.FAILED, errno=errno.EIO), Reply(Status.OK, b"exec minijail0 --of-tomorrow /usr/sbin/npud\n")]
)
def test_what_may_be_of_this_one_is_said_and_decides_nothing(reply: Reply) -> None:
    record = odd_job("/etc/init/camera.conf", reply)
    found = definition(record)
    assert (found.outcome, "/etc/init/camera.conf" in found.observed) == (Outcome.UNKNOWN, True)


CHROME = "/opt/google/chrome/chrome"


def gpu_process(status: str = CONFINED.replace("20131", "1000"), namespaces: tuple[str, ...] = ("net", "pid", "user")) -> Record:
    """The recorded device with Chrome's GPU process on its node."""
    record = jobs(names(recorded(), "/usr/share/minijail"), ui="exec session_manager\n")
    return running(record, Process(1234, CHROME, ("--type=gpu-process",), (NODE,), (status, status), namespaces))


def test_a_process_that_puts_itself_in_a_sandbox_needs_no_definition() -> None:
    record = gpu_process()
    assert judged(record, security_1.holders)[f"exe:{CHROME}"].outcome is Outcome.PASS
    assert judged(record, security_1.definition)[f"exe:{CHROME}"].outcome is Outcome.NOT_APPLICABLE
    # without upstart, and with the process named by a job that starts it without minijail
    without = judged(absent(record, "/etc/init"), security_1.definition)
    assert without[f"exe:{CHROME}"].outcome is Outcome.NOT_APPLICABLE
    assert definition(defined(job="exec /usr/sbin/npud\n")).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize(
    "record",
    [
        gpu_process(namespaces=("mnt",)),
        gpu_process(CONFINED.replace("20131", "0")),
        gpu_process(CONFINED.replace("CapEff:\t00", "CapEff:\t0f")),
        gpu_process(CONFINED.replace("Seccomp:\t2", "Seccomp:\t0")),
        gpu_process(CONFINED.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0")),
        gpu_process(CONFINED.replace("Seccomp:\t2", "")),
        denied(gpu_process(), "/proc/1234/ns/pid"),
        running(gpu_process(), Process(1235, CHROME, (), (NODE,), (FREE,))),  # and one of the same executable that is free
    ],
)
def test_a_process_that_is_in_no_sandbox_of_its_own_needs_a_definition(record: Record) -> None:
    assert all(each.outcome is Outcome.UNKNOWN for each in judged(record, security_1.definition).values())


def test_the_worst_of_two_definitions_of_a_daemon_counts() -> None:
    other = "exec minijail0 -n -b /dev -P /mnt/empty -S /usr/share/policy/npud.policy /usr/sbin/npud\n"
    assert definition(jobs(chromebook(), npud=cros.JOB, debug=other)).outcome is Outcome.FAIL


def test_a_command_is_matched_through_its_links() -> None:
    record = cros.found(defined(job=cros.JOB.replace("/usr/sbin/npud", "/sbin/npud")), "/sbin/npud", real="/usr/sbin/npud")
    assert definition(record).outcome is Outcome.PASS


def test_definitions_that_reach_accelerators_are_judged_whether_they_run_or_not() -> None:
    image = names(chromebook(), "/proc")
    assert judged(image, security_1.reaching_definitions)[JOB].outcome is Outcome.PASS
    camera = "exec minijail0 -P /mnt/empty -b / -b /dev -S /usr/share/policy/common.policy -- /usr/bin/camera\n"
    found = judged(cros.found(jobs(image, npud=cros.JOB, camera=camera), "/usr/bin/camera"), security_1.reaching_definitions)
    assert {subject: each.outcome for subject, each in found.items()} == {JOB: Outcome.PASS, "file:/etc/init/camera.conf": Outcome.FAIL}
    assert judged(denied(image, "/etc/init"), security_1.reaching_definitions)["device"].outcome is Outcome.UNKNOWN
    vague = jobs(image, other="exec minijail0 ${OPTIONS} other\n")
    assert judged(names(vague, "/usr/share/minijail"), security_1.reaching_definitions)["device"].outcome is Outcome.UNKNOWN
    assert judged(recorded(), security_1.reaching_definitions)["device"].outcome is Outcome.NOT_APPLICABLE


# --- modes of nodes --------------------------------------------------------------------------------------------------------------------


def moded(mode: int, path: str = NODE, kind: str = "character") -> Record:
    stat = json.loads(recorded().answers[base.stat(path)].data)
    return answered(recorded(), {base.stat(path): Reply(Status.OK, json.dumps({**stat, "mode": mode, "kind": kind}).encode())})


@pytest.mark.parametrize(("mode", "expected"), [(0o600, Outcome.PASS), (0o660, Outcome.PASS), (0o664, Outcome.PASS), (0o666, Outcome.FAIL),
                                                (0o602, Outcome.FAIL), (0o1777, Outcome.FAIL)])  # fmt: skip
def test_a_node_that_others_may_write_fails(mode: int, expected: Outcome) -> None:
    found = judged(moded(mode), security_1.node_mode)[NPU]
    readable = "; others may open it for reading" if expected is Outcome.PASS and mode & 4 else ""
    assert (found.outcome, found.observed) == (expected, f"{NODE} {mode:04o}{readable}")


def test_a_mode_that_cannot_be_read_is_unknown() -> None:
    for record in (
        denied(recorded(), NODE),
        absent(recorded(), NODE),
        moded(0o600, kind="file"),
        answered(recorded(), {base.udev("drm"): DENIED}),
    ):
        assert judged(record, security_1.node_mode)[NPU].outcome is Outcome.UNKNOWN
