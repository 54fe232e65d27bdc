"""A seccomp filter for a worker: the system calls that a delegate has no business with fail, on x86-64 and aarch64.

It is a list of what is refused: what a vendor's user-space driver needs cannot be known. So that the list does not grow holes, every
call that is newer than the tables is answered with ENOSYS, which libraries take for an older kernel. Numbers are those of
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_Call = tuple["int | None", "int | None"]

REFUSED: dict[str, _Call] = {
    # other programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "ioprio_set": (251, 30),
    # whom to talk to
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # what Landlock does not see: changes of metadata, and of a file by its path alone
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "truncate": (76, 45),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # what happens to files that it may not even open
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    # large surfaces of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "memfd_secret": (447, 447),
    "modify_ldt": (154, None),
    # identity
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "capset": (126, 91),
    # the machine
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
}
"""Calls that are refused whatever their arguments are: numbers on x86-64 and on aarch64, None where there is no such call."""

CONDITIONAL: dict[str, _Call] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "exit_group": (231, 94),
    "close_range": (436, 436),
}
"""Calls for which their arguments decide, or whose absence every library puts up with."""

NEWEST = 450
"""The last call of Linux 6.1 (set_mempolicy_home_node); what came later is not in the tables."""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""By machine: AUDIT_ARCH_* (include/uapi/linux/audit.h), and the column of the tables."""

OPENING = ("open", "openat", "creat", "mkdir", "mkdirat")
"""Calls that Landlock decides. They are told to the controller where it listens, and go on."""
OWN_THREADS = ("setpriority", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Calls that a process may make about its own threads: the controller decides where it listens. Without it, about the caller alone."""

ALLOW, NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06

_CLONE_THREAD, _CLONE_FILES = 0x00010000, 0x00000400
_CLONE_NEW = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME (include/uapi/linux/sched.h)."""
_CLOSE_RANGE_UNSHARE = 2
_FCNTLS = (8, 10, 15, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: whom the kernel signals, and how. F_SETLEASE, F_NOTIFY: who opens or changes a file or a folder, and to
have others wait for it."""
_IOCTLS = (0x8901, 0x8902, 0x5412, 0x541C)
"""FIOSETOWN, SIOCSPGRP: signals; TIOCSTI, TIOCLINUX: typing on a terminal."""
_IOCTL_TYPES = (*map(ord, "fXvr"), 0x94, 0x97, 0xF5, 0x12)
"""The second byte of ioctls that file systems answer for a file that is open for reading only, and of those of block devices: ext4 and all
(FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, fscrypt, fsverity), XFS and freezing, versions, VFAT; btrfs, Ceph, F2FS; BLK*
(Documentation/userspace-api/ioctl/ioctl-number.rst). No accelerator's driver of the families that we know has one of these."""
_TRUNCATES = os.O_TRUNC | os.O_ACCMODE

_SET_MODE_FILTER = 1
_SPEC_ALLOW, _NEW_LISTENER = 4, 8
"""Without the first, kernels before 5.16 turn speculation off for whoever has a filter, and what is measured would be slower."""
_SECCOMP = {"x86_64": 317, "aarch64": 277}

Instruction = tuple[int, int, int, int]
"""A classic BPF instruction: code, jump if true, jump if false, constant."""


def machine() -> str:
    """This process's machine, as the tables name it; empty for one that has no table."""
    return platform.machine() if platform.machine() in MACHINES and sys.maxsize > 1 << 32 and sys.byteorder == "little" else ""


def program(name: str, pid: int, *, notify: bool, end: bool = False) -> list[Instruction]:
    """The filter of a machine for the process `pid`.

    With `notify`, what is refused and what opens a file waits for the listener's answer; else what is refused fails with EPERM, and
    opening is left to Landlock. With `end` as well, the process waits for it once more before it ends.
    """
    architecture, column = MACHINES[name]
    refuse = NOTIFY if notify else _ERRNO | errno.EPERM
    missing = _ERRNO | errno.ENOSYS
    numbers = {call: each[column] for call, each in (*REFUSED.items(), *CONDITIONAL.items())}

    bodies: dict[str, list[Instruction]] = {call: [_give(refuse)] for call in REFUSED}
    # libc falls back to clone, whose flags a filter can see
    bodies["clone3"] = bodies["openat2"] = [_give(missing)]
    bodies["clone"] = [
        _argument(0),
        (_ANY_BIT, 0, 3, _CLONE_THREAD),
        # a thread with a table of descriptors of its own hides what it holds
        (_ANY_BIT, 0, 2, _CLONE_FILES),
        (_ANY_BIT, 1, 0, _CLONE_NEW),
        _give(ALLOW),
        _give(refuse),
    ]
    bodies["kill"] = bodies["tgkill"] = bodies["prlimit64"] = _only(0, (0, pid), refuse)
    bodies["fcntl"] = _but(1, _FCNTLS, refuse)
    bodies["ioctl"] = [*_but_of_types(1, _IOCTL_TYPES, refuse), *_but(1, _IOCTLS, refuse)]
    # as clone without CLONE_FILES
    bodies["close_range"] = [_argument(2), (_ANY_BIT, 0, 1, _CLOSE_RANGE_UNSHARE), _give(refuse), _give(ALLOW)]
    opening = NOTIFY if notify else ALLOW
    bodies |= {call: [_give(opening)] for call in OPENING}
    # Landlock knows no truncation before Linux 6.2, and this one asks for no right to write
    for call, flags in (("open", 1), ("openat", 2)):
        bodies[call] = [_argument(flags), (_AND, 0, 0, _TRUNCATES), (_EQUAL, 0, 1, os.O_TRUNC), _give(refuse), _give(opening)]
    bodies |= {call: _only(0, (0,), refuse) for call in OWN_THREADS}
    bodies["exit_group"] = [_give(NOTIFY if notify and end else ALLOW)]
    bodies["setpriority"] = [_argument(0), (_EQUAL, 1, 0, os.PRIO_PROCESS), _give(refuse), *_only(1, (0,), refuse)]

    instructions = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        _give(missing),
        (_LOAD, 0, 0, 0),
        # x32, which has other numbers, is 1 << 30 and above
        (_AT_LEAST, 0, 1, NEWEST + 1),
        _give(missing),
    ]
    for call, body in bodies.items():
        number = numbers[call]
        if number is not None:
            instructions += [(_EQUAL, 0, len(body), number), *body]
    return [*instructions, _give(ALLOW)]


def install(*, notify: bool, must_listen: bool = False) -> int | None:
    """Put this process's only thread under the filter, for good. Returns the listener's descriptor, None without one.

    Threads that it starts later inherit it. Raises OSError where the kernel takes no filter or there is no table for
    this machine. One that must be listened to is also looked at before it ends. A process that someone else listens to already gets no
    listener; where it must have one, that is an OSError: only who listens can let one program be executed, and no other.
    """
    name = machine()
    if not name:
        raise OSError(errno.ENOTSUP, f"no table of system calls for {platform.machine() or 'this machine'}")
    if notify:
        try:
            return _install(name, program(name, os.getpid(), notify=True, end=must_listen), _SPEC_ALLOW | _NEW_LISTENER)
        except OSError as problem:
            if must_listen or problem.errno not in {errno.EBUSY, errno.EINVAL}:
                raise
    if must_listen:
        raise OSError(errno.EPERM, "nobody can listen, and so let one program be executed and no other")
    _install(name, program(name, os.getpid(), notify=False), _SPEC_ALLOW)
    return None


def names(name: str) -> dict[int, str]:
    """The names of the calls that the tables hold, by their number."""
    column = MACHINES[name][1]
    found = {each[column]: call for call, each in (*REFUSED.items(), *CONDITIONAL.items())}
    return {number: call for number, call in found.items() if number is not None}


def _install(name: str, instructions: Iterable[Instruction], flags: int) -> int:
    code = b"".join(struct.pack("=HBBI", *each) for each in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_program = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(_SECCOMP[name]), ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags), filter_program)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def _give(result: int) -> Instruction:
    return _RETURN, 0, 0, result


def _argument(index: int) -> Instruction:
    """Load the lower half of an argument: all that the kernel takes of an int."""
    return _LOAD, 0, 0, 16 + 8 * index


def _only(argument: int, values: tuple[int, ...], refuse: int) -> list[Instruction]:
    """Allow the call with these values of an argument only."""
    tests = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_argument(argument), *tests, _give(refuse), _give(ALLOW)]


def _but(argument: int, values: tuple[int, ...], refuse: int) -> list[Instruction]:
    """Allow the call but with these values of an argument."""
    return [*_only(argument, values, ALLOW)[:-1], _give(refuse)]


def _but_of_types(argument: int, types: tuple[int, ...], refuse: int) -> list[Instruction]:
    """Refuse the call where the second byte of an argument is one of these; else go on."""
    tests = [(_EQUAL, len(types) - index, 0, each << 8) for index, each in enumerate(types)]
    # past the refusal where none holds
    return [_argument(argument), (_AND, 0, 0, 0xFF00), *tests, (_EQUAL, 1, 1, 0), _give(refuse)]
