from __future__ import annotations

import errno
import os
import re

import pytest

from auditor.inference.worker import seccomp

HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}
EPERM, ENOSYS = (0x50000 | number for number in (errno.EPERM, errno.ENOSYS))
PID = 4321
O_TRUNC, O_CREAT = os.O_TRUNC, os.O_CREAT
# each call with arguments, and whether a filter lets it through
CASES = [
    ("clone", (0x3D0F00,), True),
    ("clone", (0x11,), False),
    ("clone", (0x3D0F00 | 0x10000000,), False),
    ("clone", (0x3D0F00 | 0x80,), False),
    ("kill", (0, 9), True),
    ("kill", (PID, 9), True),
    ("kill", (PID + 1, 9), False),
    ("kill", (2**64 - 1, 9), False),
    ("tgkill", (PID, PID + 1, 6), True),
    ("tgkill", (1, 1, 6), False),
    ("fcntl", (0, 1, 0), True),
    ("fcntl", (0, 8, 1), False),
    ("fcntl", (0, 10, 9), False),
    ("fcntl", (0, 15, 0), False),
    ("ioctl", (3, 0xC0106409), True),
    ("ioctl", (0, 0x5412), False),
    ("ioctl", (3, 0x40086602), False),
    ("ioctl", (3, 0x401C5820), False),
    ("ioctl", (3, 0x40049409), False),
    ("ioctl", (3, 0xC0045877), False),
    ("ioctl", (3, 0x80087601), False),
    ("ioctl", (3, 0x40047211), False),
    ("ioctl", (3, 0x1277), False),
    ("ioctl", (3, 0x4004F50C), False),
    ("ioctl", (3, 0x80049700), False),
    ("ioctl", (3, 0x541B), True),
    ("ioctl", (3, 0x5401), True),
    ("ioctl", (3, 0xC0185201), True),
    ("ioctl", (3, 0xC0184800), True),
    ("ioctl", (3, 0x40046200), True),
    ("ioctl", (3, 0xC0D05600), True),
    ("ioctl", (3, 0x3B64), True),
    ("fcntl", (0, 1024, 0), False),
    ("fcntl", (0, 1026, 0), False),
    ("fcntl", (0, 1033, 0), True),
    ("close_range", (3, 9, 0), True),
    ("close_range", (3, 9, 4), True),
    ("close_range", (3, 9, 2), False),
    ("close_range", (3, 9, 6), False),
    ("prlimit64", (0, 7, 0, 0), True),
    ("prlimit64", (PID, 7, 0, 0), True),
    ("prlimit64", (1, 7, 0, 0), False),
    ("sched_setaffinity", (0, 8, 0), True),
    ("sched_setaffinity", (1, 8, 0), False),
    ("setpriority", (0, 0, 5), True),
    ("setpriority", (0, 1, 5), False),
    ("setpriority", (2, 0, 5), False),
    ("open", (0, 0), True),
    ("open", (0, O_TRUNC | os.O_RDWR), True),
    ("open", (0, O_TRUNC), False),
    ("openat", (0, 0, O_CREAT | O_TRUNC | os.O_WRONLY), True),
    ("openat", (0, 0, O_CREAT | O_TRUNC), False),
]


def run(program, architecture, number, arguments=()):
    """What a filter answers (Documentation/networking/filter.rst; only what ours uses)."""
    data = {0: number, 4: architecture}
    for index, value in enumerate(arguments):
        data[16 + 8 * index] = value & 0xFFFFFFFF
    accumulator, counter = 0, 0
    while True:
        code, if_true, if_false, constant = program[counter]
        assert 0 <= if_true < 256
        assert 0 <= if_false < 256
        counter += 1
        if code == 0x06:
            return constant
        if code == 0x20:
            accumulator = data.get(constant, 0)
        elif code == 0x54:
            accumulator &= constant
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}[code]
            counter += if_true if holds else if_false


@pytest.fixture(params=seccomp.MACHINES)
def machine(request):
    return request.param


@pytest.fixture
def ask(machine):
    """Ask a machine's filter about a call by its name."""
    architecture, column = seccomp.MACHINES[machine]
    numbers = {call: each[column] for call, each in (*seccomp.REFUSED.items(), *seccomp.CONDITIONAL.items())}

    def answer(call, arguments=(), *, notify=False):
        number = numbers[call]
        return None if number is None else run(seccomp.program(machine, PID, notify=notify), architecture, number, arguments)

    return answer


def test_the_numbers_are_the_kernels(machine):
    if not os.path.exists(HEADERS[machine]):
        pytest.skip(f"{HEADERS[machine]}: the kernel's headers (linux-libc-dev) are not installed")
    with open(HEADERS[machine]) as file:
        defined = dict(re.findall(r"^#define\s+__NR(?:3264)?_(\w+)\s+(\d+)$", file.read(), re.MULTILINE))
    column = seccomp.MACHINES[machine][1]
    ours = {call: each[column] for call, each in (*seccomp.REFUSED.items(), *seccomp.CONDITIONAL.items())}
    assert {call: number for call, number in ours.items() if number is not None} == {
        call: int(defined[call]) for call in ours if call in defined
    }
    assert int(defined["set_mempolicy_home_node"]) == seccomp.NEWEST


def test_every_call_is_in_some_table():
    assert seccomp.REFUSED.keys().isdisjoint(seccomp.CONDITIONAL)
    for numbers in zip(*seccomp.REFUSED.values(), *seccomp.CONDITIONAL.values(), strict=True):
        known = [number for number in numbers if number is not None]
        assert len(known) == len(set(known))


def test_what_is_refused(ask):
    answers = {ask(call) for call in seccomp.REFUSED}
    assert answers <= {EPERM, None}
    assert {ask(call, notify=True) for call in seccomp.REFUSED} <= {seccomp.NOTIFY, None}
    assert ask("clone3") == ask("openat2") == ENOSYS


@pytest.mark.parametrize(("call", "arguments", "allowed"), CASES)
def test_what_arguments_decide(ask, call, arguments, allowed):
    answer, told = ask(call, arguments), ask(call, arguments, notify=True)
    if answer is None:
        assert call == "open", "only the oldest calls are missing anywhere"
        return
    assert answer == (seccomp.ALLOW if allowed else EPERM)
    goes_on = seccomp.NOTIFY if call in seccomp.OPENING else seccomp.ALLOW
    assert told == (goes_on if allowed else seccomp.NOTIFY)


@pytest.mark.parametrize("notify", [True, False])
def test_everything_else(machine, notify):
    architecture, _column = seccomp.MACHINES[machine]
    program = seccomp.program(machine, PID, notify=notify)
    named = seccomp.names(machine)
    answers = {number: run(program, architecture, number) for number in range(600)}
    assert {answers[number] for number in range(seccomp.NEWEST + 1) if number not in named} == {seccomp.ALLOW}
    assert {answers[number] for number in range(seccomp.NEWEST + 1, 600)} == {ENOSYS}
    assert run(program, architecture, 1 << 30) == ENOSYS, "x32"
    assert run(program, 0x40000003, 0) == ENOSYS, "the calls of another architecture"


def test_a_machine_without_a_table(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        seccomp.install(notify=False)
