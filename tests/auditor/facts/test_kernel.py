"""The running kernel: command line, configuration, release, taint."""

from __future__ import annotations

import contextlib
import gzip
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts import kernel
from auditor.facts.kernel import CONFIG_LIMIT, parse_config, read_kernel, split_command_line
from auditor.facts.reading import Device
from auditor.facts.types import Missing
from auditor.model import Remedy, Status
from auditor.sources.filesystem import Tree


@pytest.fixture
def read(tmp_path):
    """The kernel of a device with these files."""

    def build(**files):
        for name, content in files.items():
            path = tmp_path / PATHS[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return read_kernel(Device(Tree(str(tmp_path))))

    return build


PATHS = {
    "command_line": "proc/cmdline",
    "packed": "proc/config.gz",
    "release": "proc/sys/kernel/osrelease",
    "taint": "proc/sys/kernel/tainted",
    "plain": "boot/config-6.12.0",
}
CONFIG = b'#\n# comment\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D="a = b"\nCONFIG_E=0x10\nCONFIG_F=""\nCONFIG_G="\nother=1\n'
OPTIONS = {"CONFIG_A": "y", "CONFIG_B": "m", "CONFIG_D": "a = b", "CONFIG_E": "0x10", "CONFIG_F": "", "CONFIG_G": '"'}


# --- command line: kernel/params.c, next_arg ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", ()),
        ("  \n", ()),
        ("quiet", ("quiet",)),
        ("a  b\tc\n", ("a", "b", "c")),
        ('dm="1 vroot none ro 1,0 10 verity" ro', ("dm=1 vroot none ro 1,0 10 verity", "ro")),
        ('"a b=c d" e', ("a b=c d", "e")),
        ('a=""', ("a=",)),
        ('""', ("",)),
        ('a="b c', ("a=b c",)),
        ("a=b=c -- root=/dev/dm-0", ("a=b=c",)),
        ('a "--" b', ("a",)),
        ("a --b=-- c", ("a", "--b=--", "c")),
        ('x="intel_iommu=off"', ("x=intel_iommu=off",)),
    ],
)
def test_command_line(text, parameters):
    assert split_command_line(text) == parameters


@given(st.lists(st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), max_size=8)))
def test_quoted_parameters_stay_whole(parameters):
    assert split_command_line(" ".join(f'"{each}"' for each in parameters)) == tuple(parameters)


@given(st.text())
def test_any_command_line_is_split(text):
    assert '"' not in "".join(split_command_line(text))


def test_the_order_of_the_command_line_is_kept(read):
    assert read(command_line=b"cros_secure b a b\n").command_line.open() == ("cros_secure", "b", "a", "b")


# --- configuration -----------------------------------------------------------------------------------------------------------------------


def set_in(config):
    """The options that a configuration sets."""
    return {name: config.get(name) for name in re.findall(r"^(CONFIG_\w+)=", config.text, re.MULTILINE)}


def test_options():
    assert set_in(parse_config(CONFIG.decode())) == OPTIONS


def test_a_configuration_in_proc(read):
    found = read(packed=gzip.compress(CONFIG, mtime=0), release=b"6.12.0\n", plain=b"CONFIG_A=n\n")
    assert set_in(found.config.open()) == OPTIONS
    assert found.config.evidence[0].path == "/proc/config.gz"


def test_a_configuration_beside_the_kernel(read):
    found = read(release=b"6.12.0\n", plain=CONFIG)
    assert set_in(found.config.open()) == OPTIONS
    assert found.config.evidence[0].path == "/boot/config-6.12.0"


BOMB = gzip.compress(b"CONFIG_A=y\n" * (CONFIG_LIMIT // 10))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"not gzip",
        b"\x1f\x8b",
        gzip.compress(CONFIG, mtime=0)[:-1],
        gzip.compress(CONFIG, mtime=0)[:30],
        gzip.compress(b"", mtime=0),
        gzip.compress(b"# CONFIG_A is not set\n", mtime=0),
        gzip.compress(b"\0" * 100, mtime=0),
        BOMB,
        gzip.compress(CONFIG, mtime=0)[:-5] + b"\0\0\0\0\0",
    ],
)
def test_a_configuration_that_is_not_whole_is_none(read, packed):
    found = read(packed=packed, release=b"6.12.0\n", plain=CONFIG)
    assert found.config.status is Status.FAILED
    assert found.config.remedy is Remedy.EVIDENCE


def test_as_much_as_the_limit_is_unpacked_and_no_more():
    line = b"CONFIG_A=y\n"
    whole = line + b"#" * (CONFIG_LIMIT - len(line))
    assert kernel._inflate(gzip.compress(whole, mtime=0)) == whole
    with pytest.raises(ValueError, match="more than"):
        kernel._text(kernel._inflate(gzip.compress(whole + b"#", mtime=0)))
    with pytest.raises(ValueError, match="cut short"):
        kernel._inflate(gzip.compress(whole + b"#" * 2, mtime=0))


@pytest.mark.parametrize("plain", [b"", b"nothing\n", CONFIG + b"#" * CONFIG_LIMIT])
def test_a_plain_configuration_that_is_not_whole_is_none(read, plain):
    assert read(release=b"6.12.0\n", plain=plain).config.status is Status.FAILED


def test_no_configuration_at_all(read):
    found = read(release=b"6.12.0\n")
    assert (found.config.status, found.config.evidence[0].path) == (Status.ABSENT, "/boot/config-6.12.0")


@pytest.mark.parametrize("reader", [kernel._inflate, lambda data: parse_config(kernel._text(data))])
@given(data=st.binary(max_size=100))
def test_any_bytes_for_a_configuration(reader, data):
    with contextlib.suppress(ValueError):
        reader(data)


# --- release and taint -------------------------------------------------------------------------------------------------------------------


def test_the_running_release(read, tmp_path):
    (tmp_path / "lib/modules/6.6.0").mkdir(parents=True)
    assert read(release=b"6.12.0\n").release.open() == "6.12.0"


def test_a_tree_without_proc_has_the_release_of_its_one_kernel(read, tmp_path):
    (tmp_path / "lib/modules/6.12.0").mkdir(parents=True)
    found = read(plain=CONFIG)
    assert found.release.open() == "6.12.0"
    assert set_in(found.config.open()) == OPTIONS
    (tmp_path / "lib/modules/6.6.0").mkdir()
    found = read()
    assert found.release.status is Status.FAILED
    assert "2 kernels are installed" in found.release.note
    assert (found.config.status, found.config.remedy) == (Status.ABSENT, Remedy.LIVE)


def test_a_release_that_cannot_be_read_is_not_guessed(read, tmp_path):
    (tmp_path / "lib/modules/6.12.0").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").mkdir(parents=True)
    assert read(plain=CONFIG).release.status is Status.FAILED


def test_nothing_is_known_of_an_empty_tree(read):
    found = read()
    for fact in (found.release, found.command_line, found.config, found.taint):
        assert isinstance(fact, Missing)
        assert fact.status is Status.ABSENT


@pytest.mark.parametrize(("text", "taint"), [(b"0\n", 0), (b"4096\n", 4096), (b"12289", 12289)])
def test_taint(read, text, taint):
    assert read(taint=text).taint.open() == taint


def test_a_taint_that_is_no_number(read):
    assert read(taint=b"tainted").taint.status is Status.FAILED
