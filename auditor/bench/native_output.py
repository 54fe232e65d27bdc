"""What TFLite's own tools print: benchmark_model, and inference_diff_eval (run_eval of inference_diff), of every vintage known.

Each line says one of the things in `Line`, or nothing that is known here, and then it is passed over. The delegate is in the tool's process
and prints to the same streams, so a line may be forged. A line that must be there once and is there twice, that has the words of a known
one in another form, or that contradicts another, is a `problem`, and then its figures are not known. What cannot be told from here is text
of a process that a delegate took over altogether: it can print all that the tool would have.

Sources: tensorflow/lite/tools/benchmark/benchmark_model.cc and benchmark_tflite_model.cc, tensorflow/core/util/stats_calculator.h,
tools/delegates/delegate_provider.cc, optional_debug_tools.cc (the listing of nodes), tools/evaluation/tasks/inference_diff/run_eval.cc,
core/subgraph.cc; `fixtures/native` has what they printed in 47 runs. Pure; the text may be hostile.
"""

from __future__ import annotations

import enum
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_TEXT = 1 << 20
"""Characters of a tool's output that are read; of more, nothing is known."""
MAX_OUTPUTS = 64
"""Outputs of a model that are looked at."""
MAX_NODES = 1 << 16
"""Nodes of a listing that are looked at."""
MAX_QUOTED = 400
"""Characters of a line that are quoted."""

_ROUNDING = 1e-4
"""Both tools print six digits."""


class Line(enum.Enum):
    """What a line says. Those of the second group say nothing that is used."""

    LOOP = "statistics of a loop"
    TIMINGS = "the inference timings"
    SESSION = "how long the session took to initialise"
    FOOTPRINT = "the memory footprint"
    PEAK = "the peak memory footprint"
    APPLIED = "what the delegate took"
    CREATED = "a delegate was created"
    REFUSED = "a delegate could not be applied"
    REPLACING = "the runtime's count of replaced nodes"
    DELEGATED = "a delegate's own count of nodes"
    UNCONSUMED = "flags that the tool does not know"
    UNRESOLVED = "an operator that the runtime does not have"
    NODE_FAILED = "a node that failed"
    ERROR = "an error"
    CONSEQUENCE = "an error that follows from another"
    RUNS = "the number of runs"
    LATENCY = "the latency of the reference or of the test"
    DIFFERENCE = "an output's difference"
    LISTING_BEGIN = "the begin of the listing of nodes"
    LISTING_END = "the end of the listing of nodes"
    SUBGRAPH = "a subgraph of the listing"
    NODE = "a node of the listing"
    PARTITION = "a delegate's node of the execution plan"

    BLANK = "nothing"
    STARTING = "the tool starts"
    PARAMETER = "a flag's value"
    LOADED = "the model was loaded"
    SIZE = "the size of the model's file"
    LOOP_BEGIN = "a loop begins"
    NOTE = "a note on the memory footprint"
    STATUS = "the memory of the process"
    CPU_DELEGATE = "the runtime's own delegate was created"
    LOGGED = "a message of the tool's that is no error"
    WARNING = "a warning"
    DUMP = "a part of the listing that is not used"
    OTHER = "passed over"


_VALUE = r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?(?:e[-+]?\d{1,3})?|nan|inf)"
_NUMBER = rf"({_VALUE})(?![\w.])"
_PAIR = re.compile(rf"(\w{{1,20}})={_NUMBER}(\(all same\))?", re.IGNORECASE)
_GLOG = r"^[IWEF]\d{4} \d\d:\d\d:\d{1,12}\.\d{1,6} +\d{1,10} [\w.-]{1,80}:\d{1,6}\] ?"
"""What absl's log puts before a message."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a line is known: `mark` has its own words, `form` what it says; it is understood where both are there equally often."""

    line: Line
    mark: re.Pattern[str]
    form: re.Pattern[str]


def _rule(line: Line, mark: str, form: str = "") -> _Rule:
    return _Rule(line, re.compile(mark), re.compile(form or mark, re.IGNORECASE if form else 0))


_STATEMENTS = (
    _rule(
        Line.LOOP,
        r"(?<!\w)count=\d+ (?:first|curr)=|(?<!\w)curr=\S{1,40} count=",
        rf"(?<!\w)(?=(?:count|curr)=)(?:\w{{1,20}}={_VALUE}(?![\w.])(?:\(all same\))?[ \t]{{0,8}}){{2,20}}",
    ),
    _rule(
        Line.TIMINGS,
        "Inference timings in us:",
        rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}",
    ),
    _rule(Line.SESSION, "Initialized session in ", rf"Initialized session in ({_VALUE})ms"),
    _rule(
        Line.FOOTPRINT,
        r"Memory footprint delta from the start of the tool|(?<!Overall )Peak memory footprint \(MB\)",
        r"(?:Memory footprint delta from the start of the tool|(?<!Overall )Peak memory footprint) \(MB\): "
        rf"init={_NUMBER} overall={_NUMBER}",
    ),
    _rule(
        Line.PEAK,
        r"Overall peak memory footprint \(MB\)",
        rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}",
    ),
    _rule(
        Line.APPLIED,
        r"Explicitly applied \w{1,40} delegate|Though \w{1,40} delegate is explicitly applied",
        r"Explicitly applied (\w{1,40}) delegate, and the model graph will be (completely|partially) executed by the delegate"
        r"(?: w/ (\d{1,6}) delegate kernels)?"
        r"|Though (\w{1,40}) delegate is explicitly applied, the model (?:graph )?will not be executed by the delegate",
    ),
    _rule(Line.REFUSED, r"Failed to apply (\w{1,40}) delegate"),
    _rule(Line.CREATED, r"(?<!\w)(\w{1,40}) delegate (?:is )?created\."),
    _rule(
        Line.REPLACING,
        r"Replacing \d{1,7} out of \d{1,7} node\(s\)",
        r"Replacing (\d{1,7}) out of (\d{1,7}) node\(s\) with delegate \(([^()\n]{1,200})\) node, yielding (\d{1,7}) partitions",
    ),
    _rule(
        Line.DELEGATED,
        r"\d{1,7} nodes delegated out of ",
        r"(?:(\w{1,80}) delegate: )?(\d{1,7}) nodes delegated out of (\d{1,7}) nodes with (\d{1,7}) partitions",
    ),
    _rule(Line.UNCONSUMED, r"Unconsumed cmdline flags:[ \t]*([^\n]{1,8192})"),
    _rule(Line.UNRESOLVED, r"Encountered unresolved custom op: ([^\n]{1,200}?)\.?[ \t]*$"),
    _rule(Line.NODE_FAILED, r"Node number (\d{1,7}) \(([^\n]{1,200})\) failed to (prepare|invoke)\."),
    _rule(Line.RUNS, "Num evaluation runs:", r"Num evaluation runs: (\d{1,9})(?![\w.])"),
    _rule(
        Line.LATENCY,
        "(?:Reference|Test) run latency:",
        rf"(Reference|Test) run latency: avg={_NUMBER}\(us\), std_dev={_NUMBER}\(us\)",
    ),
    _rule(Line.DIFFERENCE, r"OutputDiff\[", rf"OutputDiff\[(\d{{1,4}})\]: avg_error={_NUMBER}, std_dev={_NUMBER}"),
    _rule(Line.LISTING_BEGIN, "=Printing out TfLite interpreter pre-invoke state begins="),
    _rule(Line.LISTING_END, "=Printing out TfLite interpreter pre-invoke state ends="),
)
"""What counts wherever it is in a line: a delegate may print without ending its line."""

_IN_LISTING = (
    _rule(Line.SUBGRAPH, r"^-+Subgraph-\d+(?! dump)\b", r"^-+Subgraph-(\d{1,5})\b.{0,200}? has \d{1,9} tensors and (\d{1,7}) nodes-+$"),
    _rule(
        Line.NODE,
        r"^Node +\d",
        r"^Node {1,8}(\d{1,7}) Operator (?:Builtin Code {1,8}\d{1,5} \S{1,80}|Custom Name [^\n]{1,200}?)"
        r" (?:\((?:delegated by node (\d{1,7})|(not delegated))\))?$",
    ),
    _rule(
        Line.PARTITION,
        r"^ +Node \d+ is an? ",
        r"^ {1,8}Node (\d{1,7}) is an? (.{1,200}) node \((\w{1,40})\), which has delegated (\d{1,7}) nodes: \[([\d,-]{0,400000})\]$",
    ),
)

_PASSED = tuple(
    (line, re.compile(pattern))
    for line, pattern in (
        (Line.BLANK, r"^(?:INFO: )?[ \t]*$"),
        (Line.STARTING, r"^(?:INFO: )?STARTING!$"),
        (Line.LOADED, r"^(?:INFO: )?(?:Loaded model|resolved reporter|Signature inputs)\b"),
        (Line.SIZE, r"^(?:INFO: )?The input model file size \(MB\): "),
        (Line.LOOP_BEGIN, r"^(?:INFO: )?Running benchmark for at least \d"),
        (Line.NOTE, r"^(?:INFO: )?Note: as the benchmark tool itself affects memory footprint"),
        (Line.STATUS, r"^(?:INFO: )?(?:Memory status at the end of |[-+] (?:Vm|Rss)\w)"),
        (Line.CPU_DELEGATE, r"^(?:INFO: )?Created TensorFlow Lite \w{1,40} delegate for CPU\.$"),
        (Line.PARAMETER, r"^(?:INFO: )?[A-Z][\w ,()/'-]{0,200}: \[.*\]$"),
        (
            Line.CONSEQUENCE,
            (
                r"^ERROR: (?:Benchmarking failed\.|Failed to apply \w+ delegate\.|Failed to allocate tensors!|Failed to load model "
                r"|The model allocation is null/empty|Restored original execution plan after delegate application failure\."
                r"|Failed to load stable ABI delegate from |Invalid TFLiteSettings for the stable delegate\."
                r"|Could not (?:run the task evaluation|evaluate model)!)"
                rf"|{_GLOG}TFLite interpreter failed to invoke at run \d"
            ),
        ),
        (
            Line.ERROR,
            (
                r"^ERROR: |^[EF]\d{4} \d\d:|^[^\n]{1,4096}?: (?:symbol lookup error|error while loading shared libraries): "
                r"|^terminate called |^\*\*\* .{1,200} \*\*\*|^\S{1,200}: .{1,400}: Assertion `|^Fatal |^Segmentation fault"
            ),
        ),
        (Line.LOGGED, rf"{_GLOG}|^WARNING: All log messages before absl::InitializeLog\(\)"),
        (Line.WARNING, r"^(?:WARN|WARNING): |^See instructions: "),
    )
)


class Applied(enum.Enum):
    """What the tool says that the delegate it was given took of the model's main graph."""

    COMPLETELY = "completely"
    PARTIALLY = "partially"
    NOT = "not"


@dataclass(frozen=True, slots=True)
class Taken:
    """How many nodes a delegate took: `nodes` out of `total`, in `partitions`. The runtime's line, or the delegate's own.

    The runtime counts what it leaves to the processor as partitions, too; there they are None.
    """

    name: str
    nodes: int
    total: int
    partitions: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """A delegate's node of the execution plan: its index, name and address of its delegate, the indexes of the nodes it replaced."""

    node: int
    name: str
    delegate: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """The main graph as the tool listed it before the first inference: its operators, and the delegates' nodes of its execution plan."""

    operators: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of benchmark_model (warm-up, or timed); microseconds. `deviation` is None where the tool printed none."""

    count: int
    first: float
    average: float
    deviation: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One output as inference_diff sums it up, in the output's raw units; NaN where a run's was, of whichever side."""

    average: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Delegation:
    """What an output says of the delegate that the tool was told to use. `taken` are the nodes' counts, printed before `applied`."""

    created: bool
    """The tool had it created. A library that cannot be loaded, or that refuses its options, is passed over, and the tool goes on."""
    applied: Applied | None
    kernels: int | None
    """Nodes of the execution plan that are the delegate's, by the tool's count of them; None where it did not say."""
    refused: bool
    """Applying it failed."""
    taken: tuple[Taken, ...]
    listing: Listing | None
    """None where the tool printed none, or one that does not hold together; then `problems` has it."""
    unconsumed: tuple[str, ...]
    """Names of flags that the tool does not know, without their dashes."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """What one source says that the delegate took of `total` operators; `parts` are their indexes by partition, where it says them."""

    source: str
    nodes: int
    total: int
    partitions: int | None
    name: str
    parts: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Errors:
    """The errors of an output. `cause` is the line that says what failed, not what followed from it; empty where no line does."""

    cause: str
    last: str = ""
    """The last line that is nothing known: of a process that ended without an error of the runtime's, the best there is."""
    unresolved: str = ""
    """The operator that the runtime does not have."""
    failed: tuple[int, str, str] | None = None
    """Index and name of the node that failed first, and in what: prepare or invoke."""


class End(enum.Enum):
    """Why a process of a tool measured nothing of the delegate."""

    OPERATOR = "the model has an operator that the tool does not have, and the delegate did not take it"
    REFUSED = "the delegate could not be applied"
    INVOKE = "an inference failed"
    CODE = "the process ended with another code than 0"
    NOT_APPLIED = "the tool went on without the delegate"
    UNREADABLE = "what it printed does not hold together"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process of a tool failed, with the line that is the cause."""

    end: End
    message: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What benchmark_model printed; times in microseconds, memory in MiB (as it prints). None is not there, or not to be trusted."""

    delegation: Delegation
    errors: Errors
    init: float | None
    warm_up: Loop | None
    timed: Loop | None
    footprint: tuple[float, float] | None
    """Growth of the peak until the session was there, and in all."""
    peak: float | None
    problems: tuple[str, ...]

    @property
    def inferences(self) -> int | None:
        """How many there were, by the tool's word."""
        return self.warm_up.count + self.timed.count if self.warm_up and self.timed else None


@dataclass(frozen=True, slots=True)
class Differences:
    """What inference_diff_eval printed. `outputs` is None where it is not complete, or not to be trusted."""

    delegation: Delegation
    errors: Errors
    runs: int | None
    outputs: tuple[Difference, ...] | None
    problems: tuple[str, ...]


def read_benchmark(text: str, provider: str) -> Benchmark:
    """Read benchmark_model's output; `provider` is the tool's name for the kind of delegate (EXTERNAL, STABLE_DELEGATE)."""
    if len(text) > MAX_TEXT:
        return Benchmark(_NO_DELEGATION, Errors(""), None, None, None, None, None, (_too_long(text),))
    said = _Said(text)
    delegation = _delegation(said, provider)
    problems = [*delegation.problems]
    loops = _loops(said, problems)
    timings, session = _once(said, Line.TIMINGS, problems), _once(said, Line.SESSION, problems, optional=True)
    init = None
    if timings and loops:
        init, first, *averages = map(_figure, timings.groups())
        known = (loops[0].first, loops[0].average, loops[1].average)
        if init is None or not all(map(_same, (first, *averages), known)):
            problems.append("the inference timings are not those of the two loops")
            init, loops = None, None
        elif session and not _same(_figure(session[1]), init / 1000, slack=0.001):
            problems.append("the session took another time to initialise than the inference timings have")
            init = None
    elif loops:
        loops = None
    footprint, peak = _pair(_once(said, Line.FOOTPRINT, problems, optional=True)), _once(said, Line.PEAK, problems, optional=True)
    return Benchmark(
        delegation,
        _errors(said),
        init,
        loops[0] if loops else None,
        loops[1] if loops else None,
        footprint,
        _figure(peak[1]) if peak else None,
        tuple(problems),
    )


def read_differences(text: str, provider: str) -> Differences:
    """Read inference_diff_eval's output; `provider` as for `read_benchmark`."""
    if len(text) > MAX_TEXT:
        return Differences(_NO_DELEGATION, Errors(""), None, None, (_too_long(text),))
    said = _Said(text)
    delegation = _delegation(said, provider)
    problems = [*delegation.problems]
    runs = _once(said, Line.RUNS, problems)
    found = said.found(Line.DIFFERENCE)
    outputs: tuple[Difference, ...] | None = tuple(Difference(float(each[2]), float(each[3])) for each in found)
    if said.garbled(Line.DIFFERENCE) or any(float(each[column]) < 0 for each in found for column in (2, 3)):
        problems.append("a line of an output's difference is not understood")
        outputs = None
    elif not found:
        problems.append("no line of an output's difference")
        outputs = None
    elif [int(each[1]) for each in found] != list(range(len(found))) or len(found) > MAX_OUTPUTS:
        problems.append("the lines of the outputs' differences are doubled, or not all there")
        outputs = None
    kinds = [each[1] for each in said.found(Line.LATENCY)]
    if sorted(kinds) != ["Reference", "Test"] or said.garbled(Line.LATENCY):
        problems.append("the two lines of the runs' latencies are not there once each")
        outputs = None
    return Differences(delegation, _errors(said), int(runs[1]) if runs else None, outputs if runs else None, tuple(problems))


def lines(text: str) -> Iterator[tuple[Line, str]]:
    """Each line of an output and what it says; of several things, the first in `Line`."""
    in_listing = False
    for text_line in text.split("\n"):
        found = _read_line(text_line, in_listing=in_listing)
        kind = found[0][0] if found else _passed(text_line)
        yield Line.DUMP if in_listing and kind in {Line.OTHER, Line.BLANK} else kind, text_line
        in_listing = kind is Line.LISTING_BEGIN or (in_listing and kind is not Line.LISTING_END)


def shares(delegation: Delegation, operators: int) -> tuple[Share, ...]:
    """What each source says that the delegate took of the main graph's operators, the most exact one first; nothing where none says it.

    The listing names every node. The tool says that all or none were taken. The runtime's own count of replaced nodes is in verbose builds
    alone, a delegate's own count is a habit of some. Each is left out where it says the same as one before it.
    """
    found = []
    listing = delegation.listing
    parts = _own_parts(delegation, listing) if listing else None
    if listing and parts is not None:
        nodes, name = tuple(part.nodes for part in parts), parts[0].name if parts else ""
        found.append(Share("listing of nodes", sum(map(len, nodes)), listing.operators, len(nodes), name, nodes))
    if delegation.applied is Applied.COMPLETELY:
        found.append(Share("benchmark_model", operators, operators, 1, "", (tuple(range(operators)),)))
    elif delegation.applied is Applied.NOT:
        found.append(Share("benchmark_model", 0, operators, 0, "", ()))
    for each in delegation.taken:
        by = "runtime's count" if each.partitions is None else "delegate's own count"
        found.append(Share(by, each.nodes, each.total, delegation.kernels if each.partitions is None else each.partitions, each.name))
    told: dict[tuple[int, int, int | None], Share] = {}
    for share in found:
        told.setdefault((share.nodes, share.total, share.partitions), share)
    return tuple(told.values())


def ending(read: Benchmark | Differences, code: int, provider: str | None) -> Ending | None:
    """How a process failed that ended with `code`, if it did; `provider` is None where it was told to use no delegate.

    A library that cannot be loaded, a delegate that refuses its options and settings that are not understood end with code 0: the tool goes
    on on the processor.
    """
    errors, delegation = read.errors, read.delegation
    said = errors.cause or errors.last
    ended = f"it ended with code {code}{f': {said}' if said else ''}" if code else said
    if errors.unresolved and (code or delegation.refused):
        return Ending(End.OPERATOR, f"the tool has no operator {errors.unresolved}: {errors.cause}")
    if provider and delegation.refused:
        return Ending(End.REFUSED, ended)
    if code:
        return Ending(End.INVOKE if errors.failed and errors.failed[2] == "invoke" else End.CODE, ended)
    if provider and ((isinstance(read, Benchmark) and delegation.applied is None) or not (delegation.created or delegation.applied)):
        if delegation.problems:
            return Ending(End.NOT_APPLIED, "; ".join(delegation.problems))
        if delegation.created:
            return Ending(End.NOT_APPLIED, f"it does not say what the {provider} delegate took")
        cause = f": {errors.cause}" if errors.cause else ""
        return Ending(End.NOT_APPLIED, f"the {provider} delegate was not created, and it went on on the CPU{cause}")
    figures = read.timed if isinstance(read, Benchmark) else read.outputs
    return None if figures else Ending(End.UNREADABLE, "; ".join(read.problems))


def repeated(text: str) -> str:
    """The text with each line that follows itself put down once, and how often it was there."""
    found = []
    for line, group in groupby(text.split("\n")):
        count = sum(1 for _ in group)
        found.append(line)
        if count > 1 and line.strip():
            found.append(f"… the line above {count} times …")
        elif count > 1:
            found += [line] * (count - 1)
    return "\n".join(found)


def _own_parts(delegation: Delegation, listing: Listing) -> tuple[Part, ...] | None:
    """The parts of the listing that are the delegate's; None where they are not those that the tool says were applied.

    The delegate that the tool was given is applied before the runtime's own, so its nodes have the lower indexes. It may be several.
    """
    parts = tuple(sorted(listing.parts, key=lambda part: part.node))
    if delegation.applied is Applied.NOT:
        return ()
    kernels = delegation.kernels
    if kernels is None:  # the tool did not say how many; the runtime's own delegate is another one
        kernels = sum(part.delegate == parts[0].delegate for part in parts)
    own, rest = parts[:kernels], parts[kernels:]
    told_apart = len(own) == kernels > 0 and not {part.delegate for part in own} & {part.delegate for part in rest}
    complete = len(parts) == 1 and len(parts[0].nodes) == listing.operators
    applied = Applied.COMPLETELY if complete else Applied.PARTIALLY
    return own if told_apart and delegation.applied is applied else None


class _Said:
    """What the lines of a text say, by kind, in their order."""

    def __init__(self, text: str) -> None:
        self._matches: dict[Line, list[re.Match[str]]] = {}
        self._texts: dict[Line, list[str]] = {}
        self._order: dict[Line, list[int]] = {}
        self._garbled: Counter[Line] = Counter()
        in_listing = False
        for number, text_line in enumerate(text.split("\n")):
            found = _read_line(text_line, in_listing=in_listing)
            for kind, matches, garbled in found:
                self._matches.setdefault(kind, []).extend(matches)
                self._order.setdefault(kind, []).extend([number] * len(matches))
                self._garbled[kind] += garbled
                in_listing = kind is Line.LISTING_BEGIN or (in_listing and kind is not Line.LISTING_END)
            self._texts.setdefault(found[0][0] if found else _passed(text_line), []).append(text_line)

    def found(self, kind: Line, before: int | None = None) -> list[re.Match[str]]:
        """The statements of a kind, those before a line's number where it is given."""
        found = self._matches.get(kind, [])
        return (
            found if before is None else [each for each, at in zip(found, self._order[kind], strict=True) if at < before] if found else []
        )

    def place(self, kind: Line) -> int:
        """The number of the first line with a statement of a kind."""
        return self._order[kind][0]

    def garbled(self, kind: Line) -> int:
        """How many lines have a kind's words, but another form."""
        return self._garbled[kind]

    def texts(self, *kinds: Line) -> list[str]:
        """The lines of kinds, kind by kind."""
        return [text for kind in kinds for text in self._texts.get(kind, [])]


@lru_cache(maxsize=4096)
def _read_line(text: str, *, in_listing: bool) -> tuple[tuple[Line, tuple[re.Match[str], ...], int], ...]:
    """What a line says: kind, statements, and how many of them are not understood."""
    found = []
    for rule in (*_STATEMENTS, *_IN_LISTING) if in_listing else _STATEMENTS:
        marks = sum(1 for _ in rule.mark.finditer(text))
        if marks:
            matches = tuple(rule.form.finditer(text))
            found.append((rule.line, matches, max(0, marks - len(matches))))
    return tuple(found)


def _passed(text: str) -> Line:
    return next((line for line, pattern in _PASSED if pattern.search(text)), Line.OTHER)


def _errors(said: _Said) -> Errors:
    """What failed, by the line that says it: the runtime's own words for it first, what follows from it last."""
    unresolved, failed = said.found(Line.UNRESOLVED), said.found(Line.NODE_FAILED)
    known = said.texts(Line.UNRESOLVED, Line.NODE_FAILED, Line.ERROR, Line.REFUSED, Line.CONSEQUENCE)
    others = said.texts(Line.OTHER)
    return Errors(
        re.sub(rf"^ERROR: |{_GLOG}", "", known[0]).strip()[:MAX_QUOTED] if known else "",
        others[-1].strip()[:MAX_QUOTED] if others else "",
        unresolved[0][1] if unresolved else "",
        (int(failed[0][1]), failed[0][2], failed[0][3]) if failed else None,
    )


_NO_DELEGATION = Delegation(created=False, applied=None, kernels=None, refused=False, taken=(), listing=None, unconsumed=())


def _delegation(said: _Said, provider: str) -> Delegation:
    problems: list[str] = []
    own = [match for match in said.found(Line.APPLIED) if provider in {match[1], match[4]}]
    state, kernels, position = None, None, 0
    if len(own) > 1:
        problems.append("more than one line says what the delegate took")
    elif said.garbled(Line.APPLIED):
        problems.append("a line of what the delegate took is not understood")
    elif own:
        match, position = own[0], said.place(Line.APPLIED)
        state = Applied(match[2].lower()) if match[2] else Applied.NOT
        kernels = {Applied.COMPLETELY: 1, Applied.NOT: 0}.get(state, int(match[3]) if match[3] else None)
    taken = [Taken(match[3], int(match[1]), int(match[2]), None) for match in said.found(Line.REPLACING, position)]
    taken += [Taken(match[1] or "", int(match[2]), int(match[3]), int(match[4])) for match in said.found(Line.DELEGATED, position)]
    return Delegation(
        created=provider in {match[1] for match in said.found(Line.CREATED)},
        applied=state,
        kernels=kernels,
        refused=provider in {match[1] for match in said.found(Line.REFUSED)},
        taken=tuple(taken),
        listing=_listing(said, problems),
        unconsumed=tuple(_flags(match[1] for match in said.found(Line.UNCONSUMED))),
        problems=tuple(problems),
    )


def _listing(said: _Said, problems: list[str]) -> Listing | None:
    """The main graph of the listing, where it is whole and its two accounts of what was delegated are the same."""
    marks = [len(said.found(line)) for line in (Line.LISTING_BEGIN, Line.LISTING_END)]
    if marks == [0, 0]:
        return None
    trouble = _trouble_in_listing(said, marks)
    if trouble:
        problems.append(f"the listing of nodes {trouble}")
        return None
    # the first subgraph's nodes come before the second one's
    size = int(said.found(Line.SUBGRAPH)[0][2])
    nodes, parts = said.found(Line.NODE)[:size], [_part(match) for match in said.found(Line.PARTITION)]
    by_node = {int(node[1]): node for node in nodes}
    # only nodes that an operator of the model is say whether they are delegated
    operators = {index for index, node in by_node.items() if node[2] or node[3]}
    main = {part.node: part for part in parts[: len(by_node) - len(operators)] if part is not None}
    claimed = {index: int(by_node[index][2]) for index in operators if by_node[index][2]}
    planned = {index: part.node for part in main.values() for index in part.nodes}
    if list(by_node) != list(range(size)) or operators != set(range(len(operators))):
        problems.append("the listing of nodes is not in order, or not all there")
    elif len(main) != size - len(operators) or main.keys() & operators or sum(len(part.nodes) for part in main.values()) != len(planned):
        problems.append("the listing of nodes has other delegates' nodes than its execution plan")
    elif claimed != planned:
        problems.append("the listing of nodes says two things of which node is delegated")
    else:
        return Listing(len(operators), tuple(main.values()))
    return None


def _trouble_in_listing(said: _Said, marks: list[int]) -> str:
    if marks != [1, 1]:
        return "is not there once, from its begin to its end"
    if any(said.garbled(line) for line in (Line.SUBGRAPH, Line.NODE, Line.PARTITION)):
        return "has a line that is not understood"
    subgraphs = said.found(Line.SUBGRAPH)
    if [int(each[1]) for each in subgraphs] != list(range(len(subgraphs))) or not subgraphs:
        return "has not each subgraph once"
    if sum(int(each[2]) for each in subgraphs) != len(said.found(Line.NODE)) or len(said.found(Line.NODE)) > MAX_NODES:
        return "has not each node once"
    return "has a delegate's node that is not understood" if None in map(_part, said.found(Line.PARTITION)) else ""


def _part(match: re.Match[str]) -> Part | None:
    """A delegate's node; None where its numbers do not fit."""
    nodes: list[int] = []
    for word in filter(None, match[5].split(",")):
        low, _, high = word.partition("-")
        if not low.isdigit() or not (high or low).isdigit() or not int(low) <= int(high or low) < MAX_NODES:
            return None
        nodes += range(int(low), int(high or low) + 1)
        if len(nodes) > MAX_NODES:
            return None
    return Part(int(match[1]), match[2], match[3], tuple(nodes)) if len(nodes) == int(match[4]) else None


def _flags(lists: Iterable[str]) -> Iterator[str]:
    for words in lists:
        for word in words.split():
            if word.startswith("--"):
                yield word[2:].partition("=")[0][:80]


def _loops(said: _Said, problems: list[str]) -> tuple[Loop, Loop] | None:
    """The statistics of the warm-up and of the timed loop; None unless both are there, and no more."""
    found = said.found(Line.LOOP)
    number = len(found) + said.garbled(Line.LOOP)
    if number != 2 or said.garbled(Line.LOOP):
        problems.append(f"{number} lines of a loop's statistics, expected two")
        return None
    loops = [_loop(match[0]) for match in found]
    if loops[0] is None or loops[1] is None:
        problems.append("the statistics of a loop contradict themselves")
        return None
    return loops[0], loops[1]


def _loop(text: str) -> Loop | None:
    """One line of tsl's Stat: all figures, or only `curr` where there was one value, or `curr` and that all were the same.

    Percentiles follow in some builds, whatever came before them; keys that are not known here are passed over.
    """
    pairs = _PAIR.findall(text)
    values = {key.lower(): _figure(number) for key, number, _same_all in pairs}
    count, current = values.get("count"), values.get("curr")
    if len(values) != len(pairs) or None in values.values() or current is None or not count or not count.is_integer():
        return None
    percentiles = [value for key in ("p5", "median", "p95") if (value := values.get(key)) is not None]
    if "avg" not in values:
        alone = count == 1 or any(same for _key, _number, same in pairs)
        same = all(value == current for value in percentiles)
        return Loop(int(count), current, current, 0.0) if alone and same and not values.keys() & {"first", "min", "max", "std"} else None
    average, low, high = values["avg"], values.get("min"), values.get("max")
    first = values.get("first", current)
    assert average is not None
    assert first is not None
    if low is None or high is None:
        return None
    slack = _ROUNDING * max(high, 1.0)
    if not all(low - slack <= value <= high + slack for value in (average, first, current, *percentiles)):
        return None
    return Loop(int(count), first, average, values.get("std")) if percentiles == sorted(percentiles) else None


def _once(said: _Said, line: Line, problems: list[str], *, optional: bool = False) -> re.Match[str] | None:
    """The only statement of a kind."""
    found, garbled = said.found(line), said.garbled(line)
    if len(found) == 1 and not garbled:
        return found[0]
    if garbled == 1 and not found:
        problems.append(f"the line of {line.value} is not understood")
    elif found or garbled or not optional:
        problems.append(f"the line of {line.value} is there {len(found) + garbled} times, expected once")
    return None


def _pair(match: re.Match[str] | None) -> tuple[float, float] | None:
    figures = [_figure(text) for text in match.groups()] if match else []
    first, second = figures or (None, None)
    return None if first is None or second is None else (first, second)


def _figure(text: str) -> float | None:
    """A duration or a size; None for what is none."""
    value = float(text)
    return value if 0 <= value < 1e12 else None


def _same(one: float | None, two: float, *, slack: float = 1.0) -> bool:
    return one is not None and math.isclose(one, two, rel_tol=_ROUNDING, abs_tol=slack)


def _too_long(text: str) -> str:
    return f"{len(text)} characters of output, expected at most {MAX_TEXT}"
