"""Who holds the nodes, and the definitions in upstart jobs; checks/test_security_1.py has what is made of them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditor.facts import processes, sandbox
from auditor.facts.plan import plan_document, read_plan
from auditor.facts.reading import Device
from auditor.facts.sandbox import read_sandbox
from auditor.facts.types import Listing, Missing, Ok, Restraint
from auditor.model import Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Recorder, Replay
from fixtures import chromebook as cros
from fixtures.chromebook import CONFINED, DAEMON, FREE, NODE, Process, chromebook, jobs, running
from fixtures.devices import absent, answered, denied, names, recorded
from fixtures.judging import collected

if TYPE_CHECKING:
    from auditor.facts.types import Holder, SandboxDefinition
    from auditor.sources.recording import Record


def holders(record: Record) -> Listing[Holder]:
    return collected(record).sandbox.holders.open()


def definitions(job: str) -> tuple[SandboxDefinition, ...]:
    """What a job defines; its commands need not be there."""
    record = jobs(names(recorded(), "/usr/share/minijail"), x=job)
    record = cros.file(record, "/usr/share/minijail/npud.conf", cros.CONFIGURATION)
    for path in ("/usr/sbin/npud", "/usr/bin/ml_service", "/usr/bin/gdbus", "/usr/bin/x"):
        record = cros.found(record, path)
    return collected(record).sandbox.definitions.open().items


def test_a_holder_is_as_free_as_its_weakest_thread() -> None:
    other = CONFINED.replace("20131\t20131\t20131\t20131", "20131\t20140\t20131\t20131").replace("Seccomp:\t2", "Seccomp:\t1")
    record = running(recorded(), Process(8120, DAEMON, (), (NODE,), (CONFINED, other, CONFINED.replace("CapEff:\t00", "CapEff:\t0f"))))
    (holder,) = holders(record).items
    assert (holder.subject, holder.node, holder.accelerator) == (f"exe:{DAEMON}", NODE, "pci:0000:00:05.0")
    assert holder.restraint.open() == Restraint(uid=20131, capabilities=0x0F00_0000_0000_0000, no_new_privs=True, seccomp=1)
    assert holder.namespaces.open() == {"mnt", "net"}


@pytest.mark.parametrize("uids", ["0 1 1 1", "1 0 1 1", "1 1 0 1", "1 1 1 0"])
def test_a_user_that_can_become_root_is_root(uids: str) -> None:
    record = running(recorded(), Process(8120, DAEMON, (), (NODE,), (CONFINED.replace("20131\t20131\t20131\t20131", uids),)))
    assert holders(record).items[0].restraint.open().uid == 0


def test_each_process_of_an_executable_is_a_holder_and_each_node() -> None:
    record = running(recorded(), Process(8120, DAEMON, (), (NODE, NODE, "/dev/dri/renderD128")))
    whole = replace(read_plan(Device(Replay(record))).open(), accelerators=())  # the graphics device too
    record = answered(record, {base.plan(): Reply(Status.OK, plan_document(whole))})
    record = running(record, Process(8121, DAEMON, (), (NODE,), (FREE,)))
    found = holders(record)
    assert [(each.node, each.restraint.open().seccomp) for each in found.items] == [(NODE, 2), (NODE, 0), ("/dev/dri/renderD128", 2)]
    assert not found.unread


def test_an_executable_that_was_replaced_keeps_its_name() -> None:
    record = running(recorded(), Process(8120, f"{DAEMON} (deleted)", (), (NODE,)))
    assert holders(record).items[0].subject == f"exe:{DAEMON}"


def test_what_was_out_of_sight_is_said_once() -> None:
    record = recorded()
    for number in ("1", "2", "3"):
        record = denied(record, f"/proc/{number}/fd")
    (closed,) = holders(record).unread
    assert (closed.status, [item.path for item in closed.evidence]) == (Status.DENIED, ["/proc/[pid]/fd"])


def test_too_many_descriptors_are_not_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "DESCRIPTORS", 3)
    assert Status.FAILED in {each.status for each in holders(recorded()).unread}


def test_too_many_jobs_are_not_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "FILES", 1)
    found = collected(chromebook()).sandbox.definitions.open()
    assert [each.note for each in found.unread] == ["more than 1 files"]
    assert {each.subject for each in found.items} == {"file:/etc/init/ml-service.conf", "file:/usr/share/minijail/npud.conf"}


def test_too_many_threads_are_not_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(processes, "THREADS", 1)
    record = running(recorded(), Process(8120, DAEMON, (), (NODE,), (CONFINED, CONFINED)))
    assert holders(record).items[0].restraint.status is Status.FAILED


def test_nothing_is_asked_of_processes_where_there_is_no_node() -> None:
    source = Recorder(Replay(chromebook()))
    found = read_sandbox(Device(source), Ok(Listing(())))
    assert found.holders.open() == Listing(())
    assert not any(question.path.startswith("/proc") for question in source.record("t", "").answers)
    missing = Missing(Status.DENIED)
    assert read_sandbox(Device(source), missing).holders is missing


def test_a_job_is_read_with_its_configuration_variables_and_optional_words() -> None:
    (found,) = definitions(cros.JOB)
    assert (found.subject, found.command, found.trouble) == ("file:/etc/init/x.conf", DAEMON, "")
    assert found.policy == "/usr/share/policy/npud.policy"
    assert found.binds == ("/dev/accel", "/dev/apusys", "/dev/dri")
    assert found.options["profile"] == ("minimalistic-mountns",)
    assert found.options["n"] == ()


def test_nested_minijails_are_one_definition_and_each_call_is_one() -> None:
    service, wait = definitions(cros.SERVICE_JOB)
    assert (service.command, wait.command) == ("/usr/bin/ml_service", "/usr/bin/gdbus")
    assert {"n", "p", "l", "uts", "K", "profile", "bind-mount", "U", "M", "S"} == set(service.options)
    assert (wait.options, wait.trouble) == ({"u": ("ml-service",), "g": ("ml-service",)}, "")


@pytest.mark.parametrize(
    ("job", "trouble"),
    [
        ("exec minijail0 ${A} /usr/bin/x\n", "${A} is known to the shell only"),
        ("exec minijail0 -S $A /usr/bin/x\n", "$A is known to the shell only"),
        ('exec minijail0 "$@" /usr/bin/x\n', ""),
        ('set -- "$@" "it\nexec minijail0 "$@" /usr/bin/x\n', "$@ is known to the shell only"),
        ("exec minijail0 --config=/none.conf /usr/bin/x\n", "/none.conf could not be read"),
        ("exec minijail0 --config=/a --config /b /usr/bin/x\n", "/a could not be read; /b could not be read"),
        ("exec minijail0 -n '/usr/bin/x\n", "no option of minijail0: --exec minijail0 -n '/usr/bin/x"),
        ("exec minijail0 -q /usr/bin/x\n", "no option of minijail0: -q"),
        ("env A=/p # c\nexec minijail0 -S ${A}/x /usr/bin/x & wait\n", ""),
        ("if true; then exec /sbin/minijail0 -n /usr/bin/x; fi\n", ""),
    ],
)
def test_what_is_not_understood_is_said(job: str, trouble: str) -> None:
    (found,) = definitions(job)
    assert (found.command, found.trouble) == ("/usr/bin/x", trouble)


def test_set_without_the_words_before_forgets_them() -> None:
    (found,) = definitions('set -- -b /dev\nset -- -n\nset -- "$@" -p\nexec minijail0 "$@" /usr/bin/x\n')
    assert set(found.options) == {"n", "p"}


def test_jobs_and_comments_without_minijail_define_nothing() -> None:
    assert definitions("# minijail0 /usr/bin/x\nexec /usr/bin/x\nset -- -b /dev\n") == ()


def test_a_missing_folder_is_one_without_definitions_only_where_its_parent_says_so() -> None:
    found = collected(recorded()).sandbox.definitions.open()
    assert (found.items, found.unread) == ((), ())
    assert {"/etc", "/usr/share"} <= {item.path for item in found.evidence}
    for record in (
        denied(recorded(), "/etc"),
        names(recorded(), "/etc", "init"),
        absent(recorded(), "/usr/share"),
        denied(recorded(), "/etc/init"),
    ):
        assert len(collected(record).sandbox.definitions.open().unread) == 1


@pytest.mark.parametrize("job", ["minijail0 x\n" * 100, 'set -- "$@" a\n' * 100, "x" * sandbox.LIMIT])
def test_a_job_with_too_much_in_it_is_not_read(job: str) -> None:
    found = collected(jobs(chromebook(), x=job)).sandbox.definitions.open()
    assert [item.path for each in found.unread for item in each.evidence] == ["/etc/init/x.conf"]


PIECES = (
    "minijail0", "exec", "set --", '"$@"', "-b", "/dev", "-S", "$A", "${A}", "'", '"', "\\\n", "\n", ";", "#", "--", "env A=b\n",
    "\x1b", "é",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40))
@example(["minijail0"] * 40)
@example(["\n"] * 100_000)
@example(["set --", '"$@"', "x", "\n"] * 20_000)
@example([f"env A={'x' * 300}\n", "minijail0", *["$A"] * 50_000])
def test_no_job_has_another_end(pieces: list[str]) -> None:
    text = " ".join(pieces)
    with contextlib.suppress(ValueError):
        for words in sandbox._calls(text):
            assert len(words) < 200_000
    device = Device(Replay(cros.file(recorded(), "/etc/init/x.conf", text)))
    content = device.data("/etc/init/x.conf", length=sandbox.LIMIT)
    if isinstance(content, Ok) and len(text) < sandbox.LIMIT:
        found = sandbox._job(device, "/etc/init/x.conf", Ok(text, content.evidence))
        assert isinstance(found, Missing) or all(each.subject == "file:/etc/init/x.conf" for each in found)


@given(st.binary(max_size=200) | st.sampled_from([CONFINED.encode(), b"Uid:\t1 2 3\n", b"Uid:\t" + b"9" * 5000 + b" 1 1 1\nCapEff: 0\n"]))
def test_no_status_has_another_end(status: bytes) -> None:
    record = running(recorded(), Process(8120, DAEMON, (), (NODE,)))
    record = cros.answered(record, {base.read("/proc/8120/task/8120/status"): cros.Reply(Status.OK, status)})
    (holder,) = read_sandbox(Device(Replay(record)), collected(recorded()).accelerators).holders.open().items
    assert holder.restraint.status in {Status.OK, Status.FAILED}
