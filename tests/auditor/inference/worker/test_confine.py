from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.inference import executor, process, refusals
from auditor.inference.confinement import KernelState, not_refused
from auditor.inference.executor import Access
from auditor.inference.process import Worker
from auditor.inference.refusals import Refusals
from auditor.inference.watch import Limits
from auditor.inference.wire import AUTO, Outcome, WorkerFailure
from auditor.inference.worker.confine import LIMITS, Policy, landlock_abi
from auditor.inference.worker.escapes import REFUSALS

QUICK = {"inputs": 2, "min_runs": 2, "min_seconds": 0, "warmup_seconds": 0}

pytestmark = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined")

DELEGATE = """
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
static void *idle(void *tid) { *(pid_t *)tid = syscall(SYS_gettid); for (;;) pause(); }
void *tflite_plugin_create_delegate(char **k, char **v, size_t n, void (*report)(const char *)) {
  (void)k; (void)v; (void)n;
  char said[256] = "";
%s
  report(said);
  return NULL;
}
void tflite_plugin_destroy_delegate(void *d) { (void)d; }
"""


@pytest.fixture
def said(compiled, model):
    """What a delegate says that does this in create and then fails, and the run."""

    def measured(body, **job):
        run = measure(Job("chain", model, delegate=compiled(DELEGATE % body), **QUICK, **job))
        assert run["status"]["outcome"] == "delegate-create-failed", run["status"]
        return run["status"]["message"], run

    return measured


STARTING = """
  /* libdrm (drmGetDevices2, drmParsePciDeviceInfo), Mesa's loader, Level Zero's NPU driver */
  struct stat node;
  if (stat("NODE", &node)) strcat(said, "stat ");
  char path[128];
  snprintf(path, sizeof path, "/sys/dev/char/%u:%u/uevent", major(node.st_rdev), minor(node.st_rdev));
  int file = open(path, O_RDONLY | O_CLOEXEC);
  char text[64] = "";
  if (file < 0 || read(file, text, 63) <= 0) strcat(said, "uevent ");
  snprintf(path, sizeof path, "/sys/dev/char/%u:%u/subsystem", major(node.st_rdev), minor(node.st_rdev));
  if (readlink(path, text, 63) < 0) strcat(said, "subsystem ");
  DIR *folder = opendir("/sys/dev/char");
  if (!folder || !readdir(folder)) strcat(said, "list ");
  if (open("NODE", O_RDWR | O_CLOEXEC) < 0) strcat(said, "open ");
  /* and what is not its own */
  if (open("/sys/devices/virtual/mem/zero/uevent", O_RDONLY) >= 0) strcat(said, "another's ");
  if (open("/sys/kernel/uevent_seqnum", O_RDONLY) >= 0) strcat(said, "the kernel's ");
  strcat(said, "end");
"""


def test_what_libdrm_and_mesa_read_of_their_own_node_may_be_read(said):
    """And nothing of another's, though its name may be listed."""
    message, run = said(STARTING.replace("NODE", "/dev/null"), access=Access(device_nodes=("/dev/null",)))
    assert message.split()[-1:] == ["end"]
    assert {"stat", "uevent", "subsystem", "list", "open", "another's", "kernel's"}.isdisjoint(message.split())
    assert {each[1] for each in refused(run)} == {"/sys/devices/virtual/mem/zero/uevent", "/sys/kernel/uevent_seqnum"}
    message, _ = said(STARTING.replace("NODE", "/dev/null"))
    assert "uevent list" in message.replace("subsystem ", "")


def test_only_the_folders_of_devices_are_opened(tmp_path):
    assert executor.described(["/dev/null", "/none", str(tmp_path)]) == ("/sys/devices/virtual/mem/null",)


def refused(run):
    return [(each["call"], each["path"], each["errno"]) for each in run["conditions"]["refused"]]


def confined(model, *, required=False):
    with Worker("test", model, Limits(request_seconds=10)) as worker:
        worker.hello(AUTO)
        return worker.confine(Policy(), required=required)


def altered(monkeypatch, body):
    """Have workers run `body` before they start."""
    real = process.BOOTSTRAP
    code = real.replace("from auditor.inference.worker.main import main\n", f"from auditor.inference.worker.main import main\n{body}\n")
    assert code != real
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], code))


def test_the_controller_sees_it_in_the_kernel(delegate, model, runtime):
    run = measure(Job("chain", model, delegate=delegate, runtime=runtime, **QUICK))
    assert run["status"]["outcome"] == "completed", run["status"]
    found = run["conditions"]["confinement"]
    assert (found["state"], found["problems"]) == ("confined", [])
    assert (found["landlock_abi"], found["no_new_privs"], found["seccomp"], found["capabilities"]) == (landlock_abi(), True, 2, 0)
    assert os.path.dirname(delegate) in found["readable"]
    assert found["devices"] == []
    escapes = run["conditions"]["escapes"]
    assert len(escapes) > 20
    assert {each["refused"] for each in escapes} <= REFUSALS
    assert run["conditions"]["refused"] == [], "a delegate that does its work, and nothing else, is in nobody's way"


def test_what_is_open(said, tmp_path):
    """A folder to write to, which is gone afterwards, and the delegate's own to read."""
    library = tmp_path / "library.so"
    message, run = said(
        f"""
        char here[200]; getcwd(here, sizeof here);
        int made = open("made", O_CREAT | O_RDWR, 0600);
        int own = open("{library}", O_RDONLY), write_own = open("{library}", O_RDWR);
        int beside = open("{tmp_path}/new", O_CREAT | O_RDWR, 0600), null = open("/dev/null", O_RDWR);
        int memory = (int)syscall(SYS_memfd_create, "x", 0), pair[2], pipes = pipe(pair);
        int as_expected = made >= 0 && own >= 0 && write_own < 0 && beside < 0 && null >= 0 && memory >= 0 && pipes == 0;
        snprintf(said, sizeof said, "%d %s", as_expected, here);
        """
    )
    as_expected, scratch = message.split()
    assert as_expected == "1"
    assert scratch.startswith("/")
    assert not os.path.exists(scratch)
    assert not (tmp_path / "new").exists()
    assert refused(run) == [("openat", str(library), "EACCES"), ("openat", f"{tmp_path}/new", "EACCES")]


def test_a_refused_path_is_named_and_can_be_allowed(said, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "vendor.conf").write_text("")
    body = f"""
    int config = open("{elsewhere}/vendor.conf", O_RDONLY), missing = open("/no/such/file", O_RDONLY);
    int folder = mkdir("{elsewhere}/cache", 0700), executed = execl("/bin/true", "true", NULL);
    snprintf(said, sizeof said, "%d%d%d%d", config < 0, missing < 0, folder < 0, executed < 0);
    """
    # the library itself is in a folder that may be read
    monkeypatch.setattr(
        executor, "policy", lambda job: Policy((job.delegate or "/dev/null",), job.access.allow_paths, job.access.allow_paths)
    )
    message, run = said(body)
    assert message == "1111"
    assert refused(run) == [
        ("openat", f"{elsewhere}/vendor.conf", "EACCES"),
        ("mkdir", f"{elsewhere}/cache", "EACCES"),
        ("execve", "/bin/true", "EPERM"),
    ]
    message, run = said(body, access=Access(allow_paths=(str(elsewhere),)))
    assert message == "0101"
    assert refused(run) == [("execve", "/bin/true", "EPERM")]
    assert str(elsewhere) in run["conditions"]["confinement"]["writable"]


def test_refused_calls_are_named_and_counted(said):
    message, run = said(
        """
        int sockets = 0;
        for (int i = 0; i < 3; i++) sockets += socket(AF_INET, SOCK_STREAM, 0) >= 0;
        snprintf(said, sizeof said, "%d %d", sockets, errno == EPERM);
        """
    )
    assert message == "0 1"
    assert run["conditions"]["refused"] == [{"call": "socket", "path": None, "errno": "EPERM", "times": 3}]


def test_a_device_node_may_be_driven(said):
    body = """
    int node = open("/dev/zero", O_RDWR);
    snprintf(said, sizeof said, "%d", node >= 0);
    """
    assert said(body)[0] == "0"
    assert said(body, access=Access(device_nodes=("/dev/zero",)))[0] == "1"


def test_a_delegate_may_pin_its_own_threads_only(said):
    message, run = said(
        """
        pthread_t thread; pid_t tid = 0; cpu_set_t all;
        pthread_create(&thread, NULL, idle, &tid);
        while (__atomic_load_n(&tid, __ATOMIC_SEQ_CST) == 0) sched_yield();
        sched_getaffinity(0, sizeof all, &all);
        int own = sched_setaffinity(tid, sizeof all, &all), parents = sched_setaffinity(getppid(), sizeof all, &all);
        int nice_own = setpriority(PRIO_PROCESS, tid, 1), nice_all = setpriority(PRIO_USER, 0, 1);
        snprintf(said, sizeof said, "%d %d %d %d", own, parents, nice_own, nice_all);
        """
    )
    assert message == "0 -1 0 -1"
    assert [call for call, _path, _error in refused(run)] == ["sched_setaffinity", "setpriority"]


def test_limits_cannot_be_raised(said):
    checks = " ".join(
        f"getrlimit({number}, &limit); low += limit.rlim_max <= {most}; limit.rlim_max++; raised += setrlimit({number}, &limit) == 0;"
        for number, most in LIMITS.items()
    )
    message, _run = said(f'struct rlimit limit; int low = 0, raised = 0; {checks} snprintf(said, sizeof said, "%d %d", low, raised);')
    assert message == f"{len(LIMITS)} 0"


def test_a_kernel_without_landlock_is_refused(delegate, model, monkeypatch):
    altered(monkeypatch, "from auditor.inference.worker import confine\nconfine.landlock_abi = lambda: 0")
    run = measure(Job("chain", model, delegate=delegate, **QUICK))
    assert (run["status"]["outcome"], run["status"]["process"]) == ("unconfinable", "reference")
    assert "Landlock: not in this kernel" in run["status"]["message"]
    assert run["samples_us"] == []


def test_a_kernel_without_landlock_where_that_was_allowed(delegate, model, monkeypatch):
    altered(monkeypatch, "from auditor.inference.worker import confine\nconfine.landlock_abi = lambda: 0")
    run = measure(Job("chain", model, delegate=delegate, access=Access(allow_unconfined=True), **QUICK))
    assert run["status"]["outcome"] == "completed", run["status"]
    found = run["conditions"]["confinement"]
    assert (found["state"], found["landlock_abi"], found["seccomp"]) == ("unconfined", 0, 2)
    assert found["problems"][0].startswith("Landlock:")
    assert {"attempt": "read a file outside", "refused": None} in run["conditions"]["escapes"]
    assert {"attempt": "open a network socket", "refused": "EPERM"} in run["conditions"]["escapes"]


def test_a_confinement_that_the_worker_only_claims(model, monkeypatch):
    """The kernel's word counts, and what the attempts to get out came to."""
    lie = "{'landlock_abi': 7, 'listener': None, 'problems': []}"
    altered(monkeypatch, f"from auditor.inference.worker import confine\nconfine.confine = lambda *_, **__: {lie}")
    found = confined(model)
    assert {"the kernel does not show NoNewPrivs", "the kernel shows no seccomp filter"} <= set(found.problems)
    assert "open a network socket: not refused" in found.problems
    with pytest.raises(WorkerFailure) as caught:
        confined(model, required=True)
    assert caught.value.status.outcome is Outcome.UNCONFINABLE


def test_threads_that_were_there_before(model, monkeypatch):
    altered(monkeypatch, "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()")
    found = confined(model)
    assert "threads: 2 run already, expected one" in found.problems


def test_where_nobody_can_listen(said, monkeypatch):
    """All is refused as ever, and what was refused is not known."""

    def denied(*_arguments):
        raise PermissionError

    monkeypatch.setattr(process, "take_descriptor", denied)
    message, run = said(
        """
        int config = open("/etc/passwd", O_RDONLY), network = socket(AF_INET, SOCK_STREAM, 0);
        snprintf(said, sizeof said, "%d %d %d", config < 0, network < 0, errno == EPERM);
        """
    )
    assert message == "1 1 1"
    assert run["conditions"]["refused"] is None
    found = run["conditions"]["confinement"]
    assert (found["state"], found["refusals_seen"]) == ("confined", False)


def test_many_refusals_are_bounded(said):
    _message, run = said('for (int i = 0; i < 500; i++) { char path[64]; snprintf(path, 64, "/etc/x-%d", i); open(path, O_CREAT, 0600); }')
    assert len(run["conditions"]["refused"]) == refusals.MAX_REFUSALS
    assert not os.path.exists("/etc/x-0")


def test_a_deep_tree_left_behind_is_removed(said):
    message, _run = said(
        """
        char here[200]; getcwd(here, sizeof here);
        int depth = 0;
        while (depth < 1500 && mkdir("d", 0700) == 0 && chdir("d") == 0) depth++;
        snprintf(said, sizeof said, "%d %s", depth, here);
        """
    )
    depth, scratch = message.split()
    assert depth == "1500"
    assert not os.path.exists(scratch)


def test_a_delegate_in_an_odd_folder(delegate, model, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"not UTF-8 \xff")
    os.mkdir(folder)
    library = os.path.join(folder, b"library.so")
    shutil.copy(delegate, library)
    run = measure(Job("chain", model, delegate=os.fsdecode(library), **QUICK))
    assert run["status"]["outcome"] == "completed", run["status"]
    assert f"{tmp_path}/not UTF-8 \ufffd" in run["conditions"]["confinement"]["readable"]
    json.dumps(run, ensure_ascii=False).encode()


def test_in_the_root_folder_only_the_library_itself_is_opened(tmp_path):
    assert executor.policy(Job("chain", b"", delegate="/library.so")).readable == ("/library.so",)
    link = tmp_path / "link.so"
    link.symlink_to("/lib/real.so")
    assert executor.policy(Job("chain", b"", delegate=str(link))).readable == (str(tmp_path), os.path.realpath("/lib"))


def test_real_time_is_left():
    """As who may enter it; the class is inherited."""
    code = """
import os, sys
from auditor.inference.worker import confine
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except PermissionError:
    print("may not"); sys.exit()
print(confine.confine(confine.base_policy("/tmp"), notify=False)["problems"], os.sched_getscheduler(0) == os.SCHED_OTHER)
"""
    command = [sys.executable, "-c", code]
    answer = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=os.path.dirname(process.own_import_path()[0] + "/")
    ).stdout
    if answer == "may not\n":
        pytest.skip("this user may not enter the real-time class")
    assert answer == "[] True\n"


def test_states_and_attempts_in_words():
    assert KernelState(no_new_privs=True, seccomp=2, capabilities=0).problems() == ()
    assert KernelState(no_new_privs=True, seccomp=2, capabilities=1 << 21).problems() == ("the kernel shows capabilities 0x200000",)
    assert not_refused((("a", "EPERM"), ("b", "EACCES"), ("c", "ENOSYS"))) == ()
    assert not_refused((("a", None), ("b", "ENOENT"))) == ("a: not refused", "b: ENOENT")


def test_a_worker_that_ends_while_confining(model, monkeypatch):
    altered(monkeypatch, "import os\nfrom auditor.inference.worker import confine\nconfine.confine = lambda *_, **__: os._exit(3)")
    with pytest.raises(WorkerFailure) as caught:
        confined(model)
    assert (caught.value.status.outcome, caught.value.status.stage) == (Outcome.EXITED, "confine")


def test_what_the_listener_cannot_make_sense_of_is_refused_and_it_listens_on(said, monkeypatch):
    real = Refusals._is_outside

    def puzzled(self, call, arguments, path):
        if path == "/etc/hosts":
            raise RuntimeError("something that nobody thought of")
        return real(self, call, arguments, path)

    monkeypatch.setattr(Refusals, "_is_outside", puzzled)
    message, run = said(
        """
        int first = open("/etc/hosts", O_RDONLY), problem = errno, second = open("/etc/passwd", O_RDONLY);
        snprintf(said, sizeof said, "%d %d %d %d", first, problem == EPERM, second, errno == EACCES);
        """
    )
    assert message == "-1 1 -1 1"
    assert ("openat", "/etc/passwd", "EACCES") in refused(run)
