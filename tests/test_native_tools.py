"""The zoo with TFLite's own tools, from the request to the finding: stand-ins on PATH that print what the real ones do."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import pytest

from auditor import audit
from auditor.bench import document as run
from auditor.bench import native, own_answers
from auditor.bench import schedule as measure
from auditor.bench.delegates import Delegate
from auditor.bench.options import BenchTime
from auditor.bench.schedule import NoRuntime, Schedule, runner
from auditor.engine import Selection
from auditor.errors import UsageError
from auditor.inference import process
from auditor.inference.fdinfo import DeviceUse
from auditor.inference.watch import Limits
from auditor.inference.worker.confine import landlock_abi
from auditor.model import Outcome
from auditor.request import Request
from auditor.zoo.generate import generate
from fixtures.stand_in import DELEGATE, FORMS, NAMES, build_delegate, build_tools

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = "mobilenet_v2_1.0_224"
FIGURES = ("latency", "accuracy", "memory")
IDS = tuple(f"zoo-{MODEL}-{figure}" for figure in FIGURES)
TODAY = datetime.date(2026, 1, 1)
PASS, FAIL, UNKNOWN = Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN
RUNS = 6

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to build the stand-in tools with"),
    pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined"),
]

TIMINGS = "INFO: Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 1, Inference (avg): 1"


@pytest.fixture(scope="module")
def pinned(tmp_path_factory):
    """A zoo of one model, a stand-in that a manifest pins."""
    folder = tmp_path_factory.mktemp("zoo")
    content = generate(MODEL)
    (folder / f"{MODEL}.tflite").write_bytes(content)
    manifest = folder / "sha256sums"
    manifest.write_text(f"{hashlib.sha256(content).hexdigest()}  {MODEL}.tflite\n")
    return {"zoo": str(folder), "manifest": str(manifest)}


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Build the tools with these macros, on a PATH of their own."""

    def build(names=NAMES, **macros):
        folder = tmp_path / "bin"
        build_tools(str(folder), names, **macros)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return folder

    return build


@pytest.fixture
def delegate(tmp_path):
    """Build a delegate with this C code beside its entry points."""

    def build(code=""):
        return build_delegate(str(tmp_path / "vendor" / "libvendor.so"), code)

    return build


@pytest.fixture(autouse=True)
def few_inferences(monkeypatch):
    job = functools.partial(run.Job, min_runs=RUNS, limits=Limits(request_seconds=20))
    monkeypatch.setattr(run, "Job", job)


@pytest.fixture(autouse=True)
def same_answers(monkeypatch):
    """An auditor's runtime that answers as these tools do, which compute no model."""
    output = {"index": 0, "correlation": 1.0, "error": 0.0, "distance": 1.0}
    answers = {"runtime": "stand-in 1", "inputs": 4, "outputs": [output]}
    monkeypatch.setattr(native, "compare_here", lambda _model, _tool, *, allow_unconfined: answers)


@pytest.fixture
def busy(monkeypatch):
    """An accelerator that the kernel shows at work."""
    clock = iter(range(10**9, 10**12, 10**9))
    monkeypatch.setattr(
        process, "read_device_use", lambda _pid, _accelerator: DeviceUse(1 << 20, {("0000:01:00.0", "1", "npu"): next(clock)})
    )


def judge(turns=1, seconds=0.1, **request):
    """The findings of an audit; one process of each kind shows all but a latency that is decided."""
    with mock.patch.dict(measure.SCHEDULES, {BenchTime.QUICK: Schedule(turns, turns, seconds, 50)}):
        return _judge(request)


def _judge(request):
    tools = native.find_tools()
    if tools and "tool_manifest" not in request:
        with open(tools.benchmark, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        request["tool_manifest"] = f"{tools.benchmark}.sha256sum"
        with open(request["tool_manifest"], "w", encoding="ascii") as manifest:
            manifest.write(f"{digest}  benchmark_model\n")
    audited = audit.audit(Request(bench_time="quick", selection=Selection(only=IDS), today=TODAY, **request), lambda _text: None)
    assert audited.report.counts["error"] == 0
    found = {each.check: each for result in audited.report.requirements for each in result.findings}
    return audited.report, {figure: found[f"zoo-{MODEL}-{figure}.baseline"] for figure in FIGURES}


def outcomes(found):
    return {figure: each.outcome for figure, each in found.items()}


ALL_UNKNOWN = dict.fromkeys(FIGURES, UNKNOWN)
BROKE = {"latency": FAIL, "accuracy": FAIL, "memory": UNKNOWN}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_build_to_the_verdict(tools, delegate, pinned, busy, form):
    folder = tools(FORM=form)
    # the auditor's clock is around the whole process: on a busy machine, only many inferences outweigh its start
    report, found = judge(3, 0.5, delegate=delegate(), delegate_options=(("known", "yes"),), **pinned)
    assert outcomes(found) == dict.fromkeys(FIGURES, PASS), found
    assert len(report.model_runs) == 3
    for each in report.model_runs:
        assert (each.runner, each.status) == ("native", "completed")
        assert each.runtime.startswith("benchmark_model sha256:")
        assert 50 <= each.latency_us <= each.bracket_us
        assert (each.delegated_nodes, each.total_nodes, each.delegated_macs) == (66, 66, 1)
        assert each.conditions["tool"]["path"] == str(folder / "benchmark_model")
        assert each.conditions["tool"]["timed"] >= RUNS
        assert each.conditions["confinement"]["state"] == "confined"
        assert str(folder / "benchmark_model") not in each.conditions["confinement"]["writable"]
        assert each.conditions["refused"] == []
        assert all(attempt["refused"] for attempt in each.conditions["escapes"])


@pytest.mark.skipif(not importlib.util.find_spec("ai_edge_litert"), reason="no TFLite runtime (ai-edge-litert) is installed")
def test_a_program_that_never_reads_the_model_passes_nothing(tools, delegate, pinned, busy, monkeypatch):
    """The stand-ins are such programs: what they print is well formed, and what they answer is not what the model does."""
    monkeypatch.setattr(native, "compare_here", own_answers.compare_here)
    tools()
    report, found = judge(3, delegate=delegate(), **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert all("does not answer as the model does" in each.reason for each in found.values())
    for each in report.model_runs:
        answers = each.conditions["tool"]["answers"]
        assert (answers["inputs"], answers["runtime"].partition(" ")[0]) == (4, "ai-edge-litert")
        assert all(abs(output["correlation"]) < 0.3 for output in answers["outputs"])


def test_without_a_runtime_of_the_auditors_a_tool_passes_nothing(tools, delegate, pinned, busy, monkeypatch):
    monkeypatch.setattr(native, "compare_here", lambda _model, _tool, *, allow_unconfined: {"note": "no runtime here"})
    tools()
    _report, found = judge(3, 0.5, delegate=delegate(), **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert all("no runtime here" in each.reason and "pip install" in each.remediation for each in found.values())


@pytest.mark.parametrize("manifest", [None, f"{'ab' * 32}  benchmark_model\n"])
def test_how_many_inferences_there_were_is_an_unknown_tools_word(tools, delegate, pinned, busy, tmp_path, manifest):
    folder = tools()
    if manifest:
        (tmp_path / "tools").write_text(manifest)
    report, found = judge(3, 0.5, delegate=delegate(), tool_manifest=str(tmp_path / "tools") if manifest else None, **pinned)
    assert outcomes(found) == {"latency": UNKNOWN, "accuracy": PASS, "memory": PASS}
    digest = hashlib.sha256((folder / "benchmark_model").read_bytes()).hexdigest()
    assert f"{folder}/benchmark_model, sha256 {digest}: not pinned, and " in found["latency"].reason
    for way in ("--tool-manifest", "zoo pin", "verified root", "--tflite"):
        assert way in found["latency"].remediation
    tool = report.model_runs[0].conditions["tool"]
    assert tool["sha256"] == digest
    assert tool["difference"]["path"] == str(folder / "inference_diff_eval")
    assert (report.zoo.tool_manifest is None) is (manifest is None)


def test_nothing_passes_for_the_accelerator_that_was_not_seen_working(tools, delegate, pinned):
    tools()
    _report, found = judge(3, delegate=delegate(), **pinned)
    assert outcomes(found) == dict.fromkeys(FIGURES, UNKNOWN), found
    assert "nothing shows that the accelerator did the work" in found["latency"].reason


def test_a_tool_that_writes_no_answers_leaves_the_accuracy_a_claim(tools, delegate, pinned, busy):
    """inference_diff_eval shares its process with the delegate: alone, its word never passes; nor does a tool that shows no answers."""
    tools(LACKS='"output_filepath"')
    _report, found = judge(delegate=delegate(), **pinned)
    assert (found["accuracy"].outcome, found["memory"].outcome) == (UNKNOWN, UNKNOWN), found
    assert "does not know --output_filepath" in found["accuracy"].reason
    _report, found = judge(
        delegate=delegate("void stand_in_invoke(float *o, int n) { for (int i = 0; i < n; i++) o[i] += .01f; }"), **pinned
    )
    assert found["accuracy"].outcome is FAIL


def takes(what):
    return f'const char *stand_in_takes(void) {{ return "{what}"; }}\n'


OWN_COUNT = "INFO: V delegate: 66 nodes delegated out of 66 nodes with 1 partitions."
COMPLETELY = "INFO: Explicitly applied EXTERNAL delegate, and the model graph will be completely executed by the delegate."
FORGED = (
    'if (calls == 2) { usleep(20000); say("INFO: count=1 curr=900\\nINFO: count=%d curr=900(all same)\\n'
    'INFO: Inference timings in us: Init: 1, First inference: 900, Warmup (avg): 900, Inference (avg): 900"); _exit(0); }'
)
INVOKE = "void stand_in_invoke(float *o, int n) { (void)o; (void)n; calls++; %s }"


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        (takes("not"), ALL_UNKNOWN, "0 of 66 operators, 0.0%"),
        (takes("30"), ALL_UNKNOWN, "30 of 66 operators"),
        (
            f'const char *stand_in_takes(void) {{ say("{OWN_COUNT}"); return "30"; }}',
            ALL_UNKNOWN,
            "(listing of nodes: 30 of 66; delegate's own count: 66 of 66)",
        ),
        (
            takes("refused"),
            BROKE,
            "prepare-failed: at prepare, exit code 1, it ended with code 1: Node number 66 (StandInDelegate) failed to",
        ),
        (
            "int stand_in_fails(void) { return 1; }",
            BROKE,
            "invoke-failed: at invoke, exit code 1, it ended with code 1: Node number 66 (StandInDelegate) failed to invoke.",
        ),
        (INVOKE % "if (calls == 3) abort();", BROKE, "signal 6"),
        (INVOKE % "if (calls == 3) exit(3);", BROKE, "exit code 3"),
        (INVOKE % "for (int i = 0; i < n; i++) o[i] += .001f;", {"accuracy": FAIL, "memory": PASS}, "avg_error 0.001"),
        (INVOKE % "o[0] /= 0.f; o[0] -= o[0];", {"accuracy": FAIL, "memory": PASS}, "NaN or infinity from the delegate alone"),
        (INVOKE % "o[n-1] = 0; usleep(40000);", {"latency": FAIL}, "limit 5 ms"),
        (INVOKE % "if (calls < 9) memset(malloc(30 << 20), 1, 30 << 20);", {"accuracy": PASS, "memory": FAIL}, "limit 150 MB"),
        # lines that the delegate prints in the tool's name
        (INVOKE % f'if (calls == 2) say("{TIMINGS}");', ALL_UNKNOWN, "inference timings is there 2 times"),
        (INVOKE % 'if (calls == 2) say("INFO: count=900000 curr=1(all same)");', ALL_UNKNOWN, "3 lines of a loop's statistics"),
        (
            takes("30") + INVOKE % f'if (calls == 1) say("{COMPLETELY}");',
            ALL_UNKNOWN,
            "more than one line says what the delegate took",
        ),
        # it takes the process over, and claims more inferences than there was time for
        (INVOKE % (FORGED % 90000), ALL_UNKNOWN, "90001 inferences in 81.001 s"),
        # it takes the process over before it has answered
        (INVOKE % (FORGED % 9), BROKE, "output-shape-mismatch"),
        # more output than anybody reads
        (INVOKE % "static char x[9999]; memset(x, 65, 9998); for (int i = 0; i < 200; i++) say(x);", ALL_UNKNOWN, "prints too much"),
    ],
)
def test_what_a_delegate_does(tools, delegate, pinned, busy, code, expected, said):
    tools()
    _report, found = judge(3 if "usleep(40000)" in code else 1, delegate=delegate(code), **pinned)
    assert {figure: found[figure].outcome for figure in expected} == expected, found
    decisive = [found[figure] for figure, outcome in expected.items() if outcome is not PASS]
    assert all(said in f"{each.observed} {each.reason}" for each in decisive), decisive


def test_a_hang_is_ended(tools, delegate, pinned, busy, monkeypatch):
    monkeypatch.setattr(run, "Job", functools.partial(run.Job, limits=Limits(start_seconds=2, request_seconds=1)))
    tools()
    report, found = judge(delegate=delegate(INVOKE % "for (;;) pause();"), **pinned)
    assert outcomes(found) == {"latency": FAIL, "accuracy": FAIL, "memory": UNKNOWN}
    assert "timed-out" in found["latency"].observed
    assert len(report.model_runs) == 1


def test_a_library_or_an_option_that_is_passed_over_is_no_pass(tools, delegate, pinned, busy, tmp_path):
    """The tool goes on on the CPU, where every figure would be good."""
    tools()
    for options in ((("knwon", "yes"),), (("known", "no"),)):
        _report, found = judge(delegate=delegate(), delegate_options=options, **pinned)
        assert outcomes(found) == ALL_UNKNOWN
        assert "delegate-not-applied" in found["latency"].observed
        assert f"and not with {'='.join(options[0])}" in found["latency"].observed
        assert "went on without the delegate" in found["latency"].reason
    # an ELF library that needs one that is not there
    missing = tmp_path / "vendor" / "libneeds.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(missing), "-Wl,--no-as-needed", "-x", "none", delegate()],
        input=b"",
        check=True,
    )
    os.unlink(tmp_path / "vendor" / "libvendor.so")
    _report, found = judge(delegate=str(missing), **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "delegate-not-applied" in found["accuracy"].observed
    assert "libvendor.so: cannot open shared object file: No such file or directory" in found["accuracy"].observed


@pytest.mark.parametrize("lacks", ["external_delegate_path", "min_secs", "graph"])
def test_a_flag_that_the_tool_does_not_know(tools, delegate, pinned, busy, lacks):
    tools(LACKS=f'"{lacks}"')
    _report, found = judge(delegate=delegate(), **pinned)
    assert outcomes(found) == ALL_UNKNOWN, found


def test_an_inference_diff_that_compares_the_cpu_with_itself(tools, delegate, pinned, busy):
    tools(("benchmark_model",))
    tools(("inference_diff_eval",), LACKS='"external_delegate_path"')
    _report, found = judge(delegate=delegate(), **pinned)
    assert (found["accuracy"].outcome, found["memory"].outcome) == (UNKNOWN, PASS), found
    assert "compared the CPU with itself" in found["accuracy"].reason


def test_an_inference_diff_that_cannot_evaluate_the_model_at_all(tools, delegate, pinned, busy):
    """It fails without the delegate as well, so that is not the delegate's."""
    tools(("benchmark_model",))
    tools(("inference_diff_eval",), LACKS='"model_file"')
    _report, found = judge(delegate=delegate(), **pinned)
    assert (found["accuracy"].outcome, found["memory"].outcome) == (UNKNOWN, PASS), found
    assert "Model file not found" in found["accuracy"].reason


def test_a_delegate_that_crashes_inference_diff_only(tools, delegate, pinned, busy):
    tools()
    code = "extern char *program_invocation_short_name;\n" + INVOKE % "if (*program_invocation_short_name == 'i') abort();"
    _report, found = judge(delegate=delegate(code), **pinned)
    assert outcomes(found) == {"latency": FAIL, "accuracy": FAIL, "memory": UNKNOWN}


def test_an_option_that_the_tools_cannot_be_given_is_said(tools, delegate, pinned):
    tools()
    library = delegate()
    for value in ("/a:b", "a;b", ""):
        with pytest.raises(UsageError, match=r"--delegate-option path=.*would drop this one without a word"):
            judge(delegate=library, delegate_options=(("path", value),), **pinned)
    assert runner(Delegate(library, (("path", "/a:b"),)), "ai-edge-litert") is None


def test_what_a_delegate_tries_in_the_tool_is_refused(tools, delegate, pinned, busy, tmp_path):
    """A fork bomb, another program, the tool itself once more, files, and the launcher of ours that is its parent."""
    folder = tools()
    (tmp_path / "secret").write_text("secret")
    tried = f"""
    static int forked, ran, again, read_it, wrote, killed;
    if (calls == 1) {{
      for (int i = 0; i < 64; i++) {{ int pid = fork(); if (!pid) for (;;) pause(); forked |= pid > 0; }}
      char *const words[] = {{"/bin/true", NULL}}, *const tool[] = {{"{folder}/benchmark_model", NULL}};
      ran = execve("/bin/true", words, NULL) == 0;
      again = execve("{folder}/benchmark_model", tool, NULL) == 0;
      again |= syscall(SYS_execveat, open("{folder}/benchmark_model", O_PATH), "", tool, NULL, 0x1000) == 0;
      read_it = open("{tmp_path}/secret", O_RDONLY) >= 0;
      wrote = open("{tmp_path}/vendor/new", O_CREAT | O_WRONLY, 0600) >= 0;
      setpgid(0, 0);
      killed = kill(getppid(), 0) == 0;
      fprintf(stderr, "hostile: %d%d%d%d%d%d\\n", forked, ran, again, read_it, wrote, killed);
    }}
    """
    report, found = judge(delegate=delegate(INVOKE % tried), **pinned)
    assert found["accuracy"].outcome is PASS, found
    conditions = report.model_runs[0].conditions
    calls = {(each["call"], each["path"]) for each in conditions["refused"]}
    assert {("execve", "/bin/true"), ("execve", f"{folder}/benchmark_model"), ("kill", None)} <= calls, calls
    assert ("openat", f"{tmp_path}/secret") in calls
    assert {"execveat"} <= {call for call, _path in calls}
    assert {"clone", "fork"} & {call for call, _path in calls}
    assert "execute a program" in {each["attempt"] for each in conditions["escapes"]}
    document = json.loads(next(_documents(delegate(INVOKE % tried), pinned)))
    assert "hostile: 000000" in document["worker_output"]


def _documents(library, pinned):
    command = [
        sys.executable,
        "-m",
        "auditor",
        "zoo",
        "run",
        "--format",
        "json",
        "--delegate",
        library,
        "--zoo",
        pinned["zoo"],
        "--bench-time",
        "quick",
    ]
    yield from subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def test_the_tools_peak_is_not_the_auditors(tools, delegate, pinned):
    """The greatest resident size survives execve: a tool that a large process started would say that size."""
    tools()
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    job = run.Job(MODEL, generate(MODEL), delegate=delegate(), min_seconds=0, warmup_seconds=0)
    found = native.measure(job, native.find_tools())
    assert found["status"]["outcome"] == "completed", found["status"]
    assert found["memory"]["peak_bytes"] < 100 << 20


def test_a_device_needs_only_the_standard_library(tools, delegate, monkeypatch):
    tools()
    model = generate(MODEL)
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setattr(process, "own_import_path", lambda: [ROOT, *(path for path in sys.path if "site-packages" not in path)])
    job = run.Job(MODEL, model, delegate=delegate(), min_seconds=0, warmup_seconds=0)
    found = native.measure(job, native.find_tools())
    assert found["status"]["outcome"] == "completed", found["status"]
    assert found["accuracy"]["outputs"][0]["two_input_distance"] > 0


def test_where_the_kernel_cannot_confine(tools, delegate, pinned, monkeypatch, busy):
    tools()
    library = delegate()
    code = (
        "from auditor.inference.worker import confine\nconfine.landlock_abi = lambda: 0\nfrom auditor.inference.worker.main import main\n"
    )
    changed = process.BOOTSTRAP.replace("from auditor.inference.worker.main import main\n", code)
    assert changed != process.BOOTSTRAP
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], changed))
    _report, found = judge(delegate=library, **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "--allow-unconfined" in found["accuracy"].remediation
    _report, found = judge(delegate=library, allow_unconfined=True, **pinned)
    assert found["accuracy"].outcome is PASS


def test_without_a_listener_nothing_is_executed(tools, delegate, pinned, monkeypatch, busy):
    """Only who listens to the filter can let one program be executed, and no other."""
    tools()
    library = delegate()
    monkeypatch.setattr(process.Worker, "_can_listen", lambda _self: False)
    _report, found = judge(delegate=library, **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "nobody can listen" in found["accuracy"].observed
    _report, found = judge(delegate=library, allow_unconfined=True, **pinned)
    assert found["accuracy"].outcome is PASS


def test_which_runner(tools, tmp_path):
    assert runner(None, "auto") is None
    folder = tools(("benchmark_model",))
    assert runner(None, "auto") is None, "inference_diff_eval is not there"
    tools()
    found = native.Tools(str(folder / "benchmark_model"), str(folder / "inference_diff_eval"))
    assert runner(Delegate("/x.so"), "auto") == found
    assert runner(Delegate("/x.so"), "ai-edge-litert") is None
    os.chmod(folder / "benchmark_model", 0o644)
    assert runner(Delegate("/x.so"), "auto") is None, "it may not be executed"
    with pytest.raises(NoRuntime, match="A stable delegate runs in benchmark_model alone"):
        runner(Delegate("/x.so", settings="/x.json"), "auto")


def test_a_tool_that_is_no_program(tools, delegate, pinned):
    folder = tools()
    (folder / "benchmark_model").write_text("#!/bin/sh\necho hello\n")
    _report, found = judge(delegate=delegate(), **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "tool-unusable" in found["latency"].observed
    assert "expected an ELF program" in found["latency"].observed


@pytest.fixture
def settings(tmp_path, delegate):
    """The settings file of a stable delegate, with this C code beside its entry point."""

    def write(code="", text='{{ stable_delegate_loader_settings: {{ delegate_path: "{}", }}, mode: FP16 }}'):
        path = tmp_path / "settings.json"
        path.write_text(text.format(delegate("int TFL_TheStableDelegate;\n" + code)))
        return str(path)

    return write


def test_a_stable_delegate_to_the_verdict(tools, settings, pinned, busy, tmp_path):
    tools()
    path = settings()
    report, found = judge(3, stable_delegate=path, **pinned)
    assert outcomes(found) == dict.fromkeys(FIGURES, PASS), found
    measured = report.model_runs[0]
    assert measured.delegate == str(tmp_path / "vendor" / "libvendor.so")
    assert measured.conditions["settings"]["path"] == path
    assert "mode: FP16" in measured.conditions["settings"]["text"]
    assert path in measured.conditions["confinement"]["readable"]


def test_a_stable_delegate_that_is_none_is_no_pass(tools, settings, pinned, busy):
    tools()
    path = settings()
    with open(path) as file:
        library = file.read().split('"')[1]
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=DELEGATE.encode(), check=True)
    _report, found = judge(stable_delegate=path, **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "the STABLE_DELEGATE delegate was not created" in found["latency"].observed


def test_tools_that_know_no_stable_delegates(tools, settings, pinned, busy):
    path = settings()
    tools(("benchmark_model",))
    tools(("inference_diff_eval",), LACKS='"stable_delegate_settings_file"')
    _report, found = judge(stable_delegate=path, **pinned)
    assert (found["accuracy"].outcome, found["memory"].outcome) == (UNKNOWN, PASS), found
    assert "inference_diff_eval does not know --stable_delegate_settings_file" in found["accuracy"].reason
    tools(("benchmark_model",), LACKS='"stable_delegate_settings_file"')
    _report, found = judge(stable_delegate=path, **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert "the tool does not know --stable_delegate_settings_file" in found["latency"].observed


def test_a_stable_delegate_with_benchmark_model_alone(tools, settings, pinned, busy):
    tools(("benchmark_model",))
    _report, found = judge(stable_delegate=settings(), **pinned)
    assert (found["accuracy"].outcome, found["memory"].outcome) == (UNKNOWN, PASS), found
    assert "no inference_diff_eval" in found["accuracy"].reason


def test_a_stable_delegate_without_a_tool(settings, pinned):
    report, found = judge(stable_delegate=settings(), **pinned)
    assert outcomes(found) == ALL_UNKNOWN
    assert report.model_runs == ()
    assert "A stable delegate runs in benchmark_model alone" in found["latency"].observed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{}}", "stable_delegate_loader_settings: expected an object"),
        ('{{stable_delegate_loader_settings: {{delegate_path: "/none.so"}}}}', "/none.so: expected a shared library"),
        ('{{stable_delegate_loader_settings: {{delegate_path: "libnone.so"}}}}', "expected an absolute path"),
        ("{{", "it ends too early"),
    ],
)
def test_settings_that_name_no_library(settings, pinned, text, expected):
    with pytest.raises(UsageError, match=f"--stable-delegate: .*settings.json.*{expected}"):
        judge(stable_delegate=settings(text=text), **pinned)


def test_one_delegate_at_a_time(settings, delegate, pinned):
    with pytest.raises(UsageError, match="--delegate, --stable-delegate: mutually exclusive"):
        judge(stable_delegate=settings(), delegate=delegate(), **pinned)
    with pytest.raises(UsageError, match="--delegate-option: expected a --delegate"):
        judge(stable_delegate=settings(), delegate_options=(("a", "b"),), **pinned)


def test_from_the_command_line(tools, settings, pinned, tmp_path):
    """As it is typed, to the JSON report and its exit code; and from the snapshot of it the same findings."""
    tools()
    command = [sys.executable, "-m", "auditor", "device", "--format", f"json={tmp_path}/report.json", *(f"--only={each}" for each in IDS)]
    given = ["--zoo-manifest", pinned["manifest"]]
    live = [
        *given,
        "--zoo",
        pinned["zoo"],
        "--stable-delegate",
        settings(),
        "--bench-time",
        "quick",
        f"--save-snapshot={tmp_path}/snapshot",
    ]
    ended = subprocess.run([*command, *live], check=False, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert {each["runner"] for each in report["model_runs"]} == {"native"}
    found = {each["id"]: each["outcome"] for each in report["requirements"]}
    assert [found[each] for each in IDS] == ["unknown"] * 3  # nothing here counts an accelerator's work
    ended = subprocess.run([*command, *given, "--force", "--snapshot", f"{tmp_path}/snapshot"], check=False, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    again = json.loads((tmp_path / "report.json").read_text())
    assert again["requirements"] == report["requirements"]


def test_only_the_model_that_is_asked_for_is_measured(tools, delegate, busy, tmp_path, monkeypatch):
    """Counted: of two models that are there, no process has the other one."""
    asked, other = "mobilenet_v2_1.0_224_quant", "selfie_segmentation_landscape_256x256"
    tools()
    (tmp_path / "zoo").mkdir()
    for name in (asked, other):
        (tmp_path / "zoo" / f"{name}.tflite").write_bytes(generate(name))
    started, start = [], process.Worker.__init__

    def noted(self, role, model, *arguments, **options):
        started.append((role, hashlib.sha256(model).hexdigest()))
        start(self, role, model, *arguments, **options)

    monkeypatch.setattr(process.Worker, "__init__", noted)
    for only in (f"zoo-{asked}-latency", f"zoo-{asked}-latency.baseline@model:{asked}"):
        started.clear()
        request = {"delegate": delegate(), "zoo": str(tmp_path / "zoo"), "bench_time": "quick"}
        with mock.patch.dict(measure.SCHEDULES, {BenchTime.QUICK: Schedule(1, 1, 0.1, 50)}):
            report = audit.audit(Request(selection=Selection(only=(only,)), today=TODAY, **request), lambda _text: None).report
        assert [role for role, _model in started] == [*["reference"] * 4, "test", "memory", *["accuracy"] * 3]
        assert {model for _role, model in started} == {hashlib.sha256(generate(asked)).hexdigest()}
        assert [each.model for each in report.model_runs] == [asked]
        assert [each.name for each in report.zoo.models] == [asked]
