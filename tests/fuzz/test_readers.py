"""Every reader takes ten thousand damaged files without a crash, a hang, an exception that it does not name, or 200 MB of memory.

Each runs in a process of its own, so that what one needs is not another's, and nothing that breaks can end the tests. `make fuzz`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.mutation import mutated
from tests.fuzz.readers import ALARM, COUNT, READERS, SLOWER, Reader, fuzz

ROOT = Path(__file__).parents[2]
MEMORY = 200 * 10**6


@pytest.mark.fuzz
@pytest.mark.parametrize("name", READERS)
def test_a_reader_survives_damaged_files(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.readers", name], cwd=ROOT, capture_output=True, text=True, timeout=15 * ALARM, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["broken"], found["broken"]
    assert found["read"] == COUNT
    assert found["slowest"] <= SLOWER * found["good"], found
    assert found["grown"] < MEMORY, found


def test_damage_is_the_same_for_the_same_number() -> None:
    files = (b"one good file" * 40, b"another")
    first = [mutated(files, number) for number in range(200)]
    assert first == [mutated(files, number) for number in range(200)]
    assert len(set(first)) > 150


@pytest.fixture
def alarm():
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_another_exception_is_found_with_the_file_that_raised_it() -> None:
    def read(data: bytes) -> None:
        if len(data) < 10:
            raise ValueError("short")
        if 0xFF in data:
            raise KeyError(data[-1])

    found = fuzz(Reader(read, ValueError, lambda: (b"a good file" * 10,)), 500)
    assert "KeyError" in found.broken
    number = int(found.broken.split()[1].rstrip(":"))
    assert found.read == number
    assert 0xFF in mutated((b"a good file" * 10,), number)


@pytest.mark.usefixtures("alarm")
def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        while data != b"good":
            pass

    monkeypatch.setattr("tests.fuzz.readers.ALARM", 0.1)
    assert "Hang" in fuzz(Reader(read, ValueError, lambda: (b"good",)), 100).broken


@pytest.mark.usefixtures("alarm")
def test_memory_is_what_was_needed_at_most() -> None:
    def read(data: bytes) -> None:
        assert data == b"good" or len(b"x" * (64 << 20)) > len(data)

    assert fuzz(Reader(read, ValueError, lambda: (b"good",)), 2).grown > 60 << 20
