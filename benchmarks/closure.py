"""The closure against pax-utils' lddtree, auditwheel's and libtree, on the same files, in one run.

    python benchmarks/closure.py [--root DIR] [--repeat N] [FILE…]

Every tool starts afresh for each file (nothing is kept from the one before), in turn, so that all see the same page cache; the best of N
runs counts. `headers` is our time for the work that the peers do too, which is to follow DT_NEEDED; `closure` also searches all bytes of
the files for what they open by name, and looks at what lies beside them. `read` is what it takes to read those bytes once and do
nothing with them: where that alone is more than a tenth of a peer's time, no search of them can be ten times as fast. libtree is a program
of its own, in C: its time has its start in it, and it is no bound. In brackets the objects that each finds. Without files, the largest
libraries of this machine are taken. Ends with 1 where the same work is not ten times as fast as each Python peer that is there.
"""

from __future__ import annotations

import argparse
import glob
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from auditor.facts.closure import read_closure
from auditor.facts.reading import Device
from auditor.facts.types import Ok, Plan
from auditor.model import Status
from auditor.sources.base import Question, Reply, names
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = ("headers", "closure")
BOUNDS = ("lddtree", "auditwheel")
WANTED = 10


def main() -> int:
    """Measure and print; the exit code says whether the bound holds."""
    options = _options()
    tools = dict(_tools(options.root))
    totals = dict.fromkeys(tools, 0.0)
    print(f"{'file':40}" + "".join(f"{name:>19}" for name in tools))
    for path in options.files or _largest():
        best = dict.fromkeys(tools, float("inf"))
        objects = dict.fromkeys(tools, 0)
        for _ in range(options.repeat):
            for name, tool in tools.items():
                start = time.perf_counter()
                objects[name] = tool(path)
                best[name] = min(best[name], time.perf_counter() - start)
        for name, seconds in best.items():
            totals[name] += seconds
        print(f"{os.path.basename(path)[:40]:40}" + "".join(f"{best[name] * 1e3:>9.2f} ms ({objects[name]:>4})" for name in tools))
    print(f"{'all':40}" + "".join(f"{seconds * 1e3:>9.2f} ms       " for seconds in totals.values()))
    peers = [name for name in tools if name not in {*OURS, "read"}]
    for ours in (*OURS, "read"):
        print(f"{ours}: " + ", ".join(f"{totals[name] / totals[ours]:.1f} x as fast as {name}" for name in peers))
    return int(any(totals[name] < WANTED * totals["headers"] for name in BOUNDS if name in totals))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--root", default="/")
    parser.add_argument("--repeat", type=int, default=5)
    return parser.parse_args()


def _largest(count: int = 12) -> list[str]:
    found = {os.path.realpath(path) for path in glob.glob("/usr/lib/*-linux-gnu/*.so.*") + glob.glob("/usr/lib64/*.so.*")}
    return sorted(found, key=os.path.getsize)[-count:]


class _Headers:
    """A tree in which no file spells a name, and nothing lies beside a library: what is left to do is what the peers do."""

    kind, name = "root", "headers"

    def __init__(self, source: Tree, folder: str) -> None:
        self._source = source
        self._folder = folder

    def ask(self, question: Question) -> Reply:
        """The source's answer, but for the questions that only we ask."""
        if question.kind in {"sonames", "holds"}:
            return Reply(Status.OK)
        return Reply(Status.DENIED) if question == names(self._folder) else self._source.ask(question)


def _tools(root: str) -> Iterator[tuple[str, Callable[[str], int]]]:
    """Ours, then each peer that is installed; each gives the number of objects that it found."""

    searched: dict[str, tuple[str, ...]] = {}

    def follow(source: Any, path: str) -> int:
        found = read_closure(Device(Recorder(source)), Plan(delegate=path))
        objects = found.value.objects if isinstance(found, Ok) else ()
        if isinstance(source, Tree):
            searched[path] = tuple(each.path for each in objects if not (each.base or each.runtime))
        return len(objects)

    yield "closure", lambda path: follow(Tree(root), path)
    yield "headers", lambda path: follow(_Headers(Tree(root), os.path.dirname(path)), path)
    yield "read", lambda path: sum(1 for each in searched[path] if _read(root.rstrip("/") + each))
    libtree = shutil.which("libtree")
    if libtree is None or root != "/":
        print("libtree: not installed, or no use below another root, skipped")
    else:
        yield "libtree", lambda path: _libtree(libtree, path)
    lddtree = _pax_utils()
    if lddtree is None:
        print("pax-utils' lddtree: not installed, skipped")
    else:
        yield "lddtree", lambda path: _lddtree(lddtree, root, path)
    try:
        from auditwheel import lddtree as auditwheel  # noqa: PLC0415  # an optional peer
    except ImportError:
        print("auditwheel: not installed, skipped")
    else:
        yield "auditwheel", lambda path: _auditwheel(auditwheel, root, path)


def _read(path: str) -> int:
    count = 0
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            count += size
    return count


def _libtree(program: str, path: str) -> int:
    """Without -v it leaves libc and its like out; with -vv each library is there with all that it needs, once."""
    done = subprocess.run([program, "-vv", "-p", path], capture_output=True, text=True, check=False)
    return len({line.rpartition("── ")[2].partition(" [")[0] for line in done.stdout.splitlines()})


def _pax_utils() -> Any:
    path = "/usr/bin/lddtree"
    if not os.path.exists(path):
        return None
    loader = importlib.machinery.SourceFileLoader("pax_utils_lddtree", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    if spec is None:
        return None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _lddtree(module: Any, root: str, path: str) -> int:
    for cached in ("readlink", "ParseLdPaths", "interp_supports_argv0"):
        getattr(module, cached).cache_clear()
    prefix = root.rstrip("/")
    found = module.ParseELF(prefix + path, root=root, ldpaths=module.LoadLdpaths(root), _all_libs={})
    return 1 + len(found["libs"])


def _auditwheel(module: Any, root: str, path: str) -> int:
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    return len(module.ldd(Path(root.rstrip("/") + path), root=root).libraries) + 1


if __name__ == "__main__":
    sys.exit(main())
