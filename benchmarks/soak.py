"""Soak of the service behind a Unix socket: 32 clients, 8 models, workers killed and clients leaving at random. Prints what came of it.

    .venv/bin/python benchmarks/soak.py [SECONDS]

Fails where an answer is wrong, a request that was waited for is not answered, or descriptors and processes are not what they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from auditor.serving.protocol import BINARY_HEADER

ROOT = Path(__file__).parent.parent
CLIENTS, MODELS, VALUES = 32, 8, 8
SHAPE = [2, 4]
LEAVES, KILL_SECONDS = 0.02, 0.5
MAIN = [sys.executable, "-c", "from auditor.cli import main; main()"]


def publish(folder: Path) -> None:
    """Models that compute (x + c) * c + c over eight values, c = n / 4."""
    spec = importlib.util.spec_from_file_location("models", ROOT / "tests" / "auditor" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["models"] = module
    spec.loader.exec_module(module)
    lines = []
    for number in range(MODELS):
        content = module.chain(number / 4)
        (folder / f"m{number}.tflite").write_bytes(content)
        lines.append(f"{hashlib.sha256(content).hexdigest()}  m{number}.tflite\n")
    (folder / "sha256sums").write_text("".join(lines))


def workers(server: int) -> list[int]:
    """The server's children."""
    return [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()] + [
        int(pid)
        for task in os.listdir(f"/proc/{server}/task")
        if task != str(server)
        for pid in Path(f"/proc/{server}/task/{task}/children").read_text().split()
    ]


def held(server: int) -> tuple[int, int, int]:
    """The server's resident kB, descriptors and threads."""
    status = Path(f"/proc/{server}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{server}/fd")), int(fields["Threads"])


async def client(path: str, until: float, seen: Counter[str], times: list[float], chance: random.Random) -> None:
    """Ask one model after the other; leave in the middle of a request now and then."""
    reader = writer = None
    while time.monotonic() < until:
        if writer is None or reader is None:
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except OSError:
                seen["not connected"] += 1
                await asyncio.sleep(0.05)
                continue
        number, x = chance.randrange(MODELS), float(chance.randrange(1000))
        tensor = {"name": "t0", "datatype": "FP32", "shape": SHAPE, "parameters": {"binary_data_size": 4 * VALUES}}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        body = text + struct.pack(f"<{VALUES}f", *[x] * VALUES)
        head = f"POST /v2/models/m{number}/infer HTTP/1.1\r\nHost: x\r\n{BINARY_HEADER}: {len(text)}\r\nContent-Length: {len(body)}\r\n\r\n"
        began = time.perf_counter()
        writer.write(head.encode() + body)
        if chance.random() < LEAVES:
            await asyncio.sleep(chance.random() * 0.01)
            writer.close()
            writer, seen["left"] = None, seen["left"] + 1
            continue
        try:
            lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            answer = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 60)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            seen["lost"] += 1
            writer = None
            continue
        times.append(time.perf_counter() - began)
        if " 200 " not in lines[0]:
            seen[f"{lines[0].split()[1]} {json.loads(answer)['code']}"] += 1
            continue
        constant = number / 4
        right = struct.unpack("<f", struct.pack("<f", (x + constant) * constant + constant))[0]
        values = struct.unpack(f"<{VALUES}f", answer[int(headers[BINARY_HEADER.lower()]) :])
        seen["right" if all(abs(each - right) <= 1e-5 * max(1, abs(right)) for each in values) else "WRONG"] += 1
    if writer is not None:
        writer.close()


async def kill(server: int, until: float, seen: Counter[str], chance: random.Random) -> None:
    """End a worker now and then."""
    while time.monotonic() < until:
        await asyncio.sleep(chance.random() * 2 * KILL_SECONDS)
        with contextlib.suppress(OSError, IndexError):
            os.kill(chance.choice(workers(server)), signal.SIGKILL)
            seen["killed"] += 1


async def soak(path: str, server: int, seconds: float) -> int:
    """Run it; 0 where all held."""
    chance = random.Random(5)  # noqa: S311 - to leave and kill at random
    seen: Counter[str] = Counter()
    times: list[float] = []
    warm = time.monotonic() + min(5, seconds / 4)
    await asyncio.gather(*(client(path, warm, Counter(), [], chance) for _ in range(CLIENTS)))
    before, until = held(server), time.monotonic() + seconds
    await asyncio.gather(*(client(path, until, seen, times, chance) for _ in range(CLIENTS)), kill(server, until, seen, chance))
    await asyncio.sleep(2)
    after = held(server)
    times.sort()
    print(", ".join(f"{what}: {count}" for what, count in sorted(seen.items())))
    p50, p99 = (times[len(times) * part // 100] * 1e3 for part in (50, 99))
    print(f"{len(times)} answers in {seconds:g} s; p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"server before: {before[0]} kB, {before[1]} descriptors, {before[2]} threads; after: {after[0]}, {after[1]}, {after[2]}")
    print(f"workers: {len(workers(server))}")
    flat = after[0] < before[0] + (32 << 10) and after[1] <= before[1] + 8 * MODELS and len(workers(server)) <= MODELS
    return 0 if flat and not seen["WRONG"] and not seen["lost"] and seen["right"] else 1


def main() -> int:
    """Start a server, and soak it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as place:
        publish(Path(place))
        path = f"{place}/socket"
        command = [*MAIN, "service", "serve", place, "--listen", f"unix:{path}", "--requests-per-minute", "10000000"]
        log = Path(place) / "log"  # a pipe that nobody reads would stop the server once it is full
        with log.open("w") as written:
            server = subprocess.Popen(command, stderr=written, cwd=ROOT)
        try:
            while not Path(path).exists():
                time.sleep(0.1)
            code = asyncio.run(soak(path, server.pid, seconds))
            server.send_signal(signal.SIGTERM)
            ended = server.wait(60)
            print(f"the server ended with {ended}, and logged {log.stat().st_size} bytes: {log.read_text()[:3000]}")
            return code or ended
        finally:
            server.kill()


if __name__ == "__main__":
    raise SystemExit(main())
