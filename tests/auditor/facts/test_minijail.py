"""What minijail is told: command lines, configurations, policies; and that hostile ones end in one documented error."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auditor.facts.minijail import INCLUDES, LIMIT, parse_command_line, parse_configuration, parse_policy, read_policy
from auditor.facts.reading import Device
from auditor.facts.types import Missing
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Record, Replay


def policies(**files: str | bytes | None) -> Device:
    """A device with policies /p/NAME; None for one that may not be read."""
    answers = {
        base.read(f"/p/{name}", 0, LIMIT): Reply(Status.DENIED, errno=13)
        if content is None
        else Reply(Status.OK, content if isinstance(content, bytes) else content.encode())
        for name, content in files.items()
    }
    return Device(Replay(Record("snapshot", "d", "t", "", answers)))


def test_options_in_every_way_of_writing_them() -> None:
    words = [
        "-npr",
        "-uodml",
        "-g",
        "odml",
        "-Kslave",
        "-K",
        "-t",
        "--uts",
        "--mount=a,b,c",
        "--bind",
        "/x",
        "-b",
        "/dev/dri,,1",
        "-S/p",
        "--",
        "-x",
    ]
    jail, rest = parse_command_line(words)
    assert rest == ["-x"]
    assert jail.frozen() == {
        "n": (), "p": (), "r": (), "u": ("odml",), "g": ("odml",), "K": ("slave",), "t": (), "uts": (), "mount": ("a,b,c",),
        "bind-mount": ("/x", "/dev/dri,,1"), "S": ("/p",),
    }  # fmt: skip
    assert jail.binds() == ("/dev/dri", "/x")


def test_the_command_begins_at_the_first_word_that_is_no_option() -> None:
    assert parse_command_line(["-n", "/bin/x", "-b", "/dev"])[1] == ["/bin/x", "-b", "/dev"]
    jail, rest = parse_command_line(["-n"])
    assert (jail.frozen(), rest) == ({"n": ()}, [])


def test_words_that_only_the_shell_knows_are_kept_as_such() -> None:
    jail, rest = parse_command_line(["$OPTIONS", "-n", "$@", "/bin/x"])
    assert (jail.variables, rest) == (["$OPTIONS", "$@"], ["/bin/x"])


@pytest.mark.parametrize("words", [["-q"], ["--unheard-of"], ["--no"], ["-S"], ["--profile"], ["-nS"], ["-"], ["--="]])
def test_what_minijail_would_refuse_is_refused(words: list[str]) -> None:
    if words == ["-"]:  # a command of that name
        assert parse_command_line(words)[1] == ["-"]
        return
    with pytest.raises(ValueError, match=r"no option|without its value"):
        parse_command_line(words)


def test_a_configuration() -> None:
    jail = parse_configuration(
        "% minijail-config-file v0\n# -b /dev\nn\n u = odml \n\nmount = a,b,none,\\\nMS_BIND|MS_REC\nbind-mount = /dev/dri/\n"
    )
    assert jail.frozen() == {"n": (), "u": ("odml",), "mount": ("a,b,none, MS_BIND|MS_REC",), "bind-mount": ("/dev/dri/",)}
    assert parse_configuration("% minijail-config-file v0\nb=/dev,/mnt/dev").binds() == ("/dev",)


FIRST = "% minijail-config-file v0\n"


@pytest.mark.parametrize("text", ["", "n\n", "% minijail-config-file v1\nn\n", f"{FIRST}u=\n", f"{FIRST}=x\n", f"{FIRST}no option\n"])
def test_a_configuration_that_minijail_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no option"):
        parse_configuration(text)


def mounting(*mounts: str) -> tuple[str, ...]:
    """The sources that mounts bind."""
    return parse_configuration("\n".join(["% minijail-config-file v0", *(f"k = {each}" for each in mounts)])).binds()


def test_mounts_that_bind_count_as_binds() -> None:
    others = ["tmpfs,/run,tmpfs,MS_NOEXEC", "/sys,/sys,none", "/a,/b,none,MS_BINDING", "none,/,none,MS_REC|MS_PRIVATE"]
    assert mounting("/dev,/dev,none,MS_BIND|MS_REC", *others) == ("/dev",)


@pytest.mark.parametrize("flags", ["0x1000", "4096", "010000", "MS_NOSUID|0x5000", "0XFFFF"])
def test_flags_of_a_mount_may_be_numbers(flags: str) -> None:
    assert mounting(f"/a,/b,none,{flags}") == ("/a",)
    assert mounting("/a,/b,none,0xe", "/a,/b,none,09", "/a,/b,none,0") == ()


def test_the_root_with_all_below_it_and_a_devtmpfs_have_all_devices() -> None:
    assert mounting("/,/,none,MS_BIND") == ("/",)
    assert mounting("//,/,none,MS_BIND|MS_REC") == mounting("any,/dev,devtmpfs,0xe") == mounting("any,/dev,devtmpfs") == ("/dev",)


@pytest.mark.parametrize("path", ["//dev", "/dev/.", "/dev/../dev/", "/./dev"])
def test_a_path_written_another_way_is_the_same(path: str) -> None:
    assert parse_configuration(f"% minijail-config-file v0\nb = {path},/x").binds() == ("/dev",)


def test_a_policy() -> None:
    text = (
        "# c\n@include /p/x\n@frequency ./f\nioctl: arg1 == 1 || \\\n  arg1 == 2\n{read, write[arch=arm]}: allow\n"
        "mmap: {\n arg2 == 1; # c\n 1\n}\n"
    )
    assert parse_policy(text) == (
        {
            "@frequency": ["./f"],
            "ioctl": ["arg1 == 1 ||    arg1 == 2"],
            "read": ["allow"],
            "write": ["allow"],
            "mmap": ["{ arg2 == 1; 1 }"],
        },
        ("/p/x",),
    )


@pytest.mark.parametrize(
    "text", ["ioctl 1", "ioctl:", ": 1", "16: 1", "ioctl: {", "{read: 1", "{}: 1", "{read,}: 1", "@include p", "", "# none\n"]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|brace|without a rule"):
        parse_policy(text)


def test_a_policy_holds_what_it_includes() -> None:
    read = read_policy(policies(a="@include /p/b\n@include ./c\nioctl: arg1 == 1\n", b="@include /p/a\nread: 1\n", c="ioctl: 1\n"), "/p/a")
    assert read.open().rules == {"ioctl": ("arg1 == 1", "1"), "read": ("1",)}
    assert [item.path for item in read.evidence] == ["/p/a", "/p/b", "/p/c"]


@pytest.mark.parametrize(
    ("device", "status"),
    [
        (policies(a="@include /p/b\n", b=None), Status.DENIED),
        (policies(a="@include /p/none\n"), Status.UNASKED),
        (policies(a="x" * LIMIT), Status.FAILED),
        (policies(a=b"\xff: 1\n"), Status.FAILED),
        (policies(**{"a" if not at else f"p{at}": f"@include /p/p{at + 1}\n" for at in range(INCLUDES + 2)}), Status.FAILED),
    ],
)
def test_a_policy_of_which_a_part_cannot_be_read_is_missing(device: Device, status: Status) -> None:
    read = read_policy(device, "/p/a")
    assert isinstance(read, Missing)
    assert read.status is status
    assert read.remedy is {Status.DENIED: Remedy.ROOT, Status.UNASKED: Remedy.LIVE, Status.FAILED: Remedy.EVIDENCE}[status]


WORDS = st.text(alphabet="-nbSKP$@={}[](),:;| \\/#\n1aioctlrg&!\ud800é", max_size=60)


@given(st.lists(WORDS, max_size=12))
@example(["--", "--"])
def test_no_command_line_has_another_end(words: list[str]) -> None:
    with contextlib.suppress(ValueError):
        jail, rest = parse_command_line(words)
        assert rest == [] or rest == words[-len(rest) :]
        assert all(path.isprintable() for path in jail.binds())


@given(WORDS)
@example("\\\n" * 100_000)
@example("u=" + "x" * 200_000)
def test_no_configuration_has_another_end(text: str) -> None:
    with contextlib.suppress(ValueError):
        jail = parse_configuration(f"% minijail-config-file v0\n{text}")
        assert all(re.fullmatch(r"[A-Za-z-]+", name) for name in jail.frozen())


@given(WORDS)
@example("{" * 5000)
@example("{\n" * 100_000)
@example("a:" * 100_000)
@example("\n" * 250_000)
def test_no_policy_has_another_end(text: str) -> None:
    with contextlib.suppress(ValueError):
        rules, includes = parse_policy(text)
        assert all(rules.values())
        assert isinstance(includes, tuple)
    assert read_policy(policies(a=text.encode("utf-8", "surrogatepass")), "/p/a").status in {Status.OK, Status.FAILED, Status.UNASKED}
