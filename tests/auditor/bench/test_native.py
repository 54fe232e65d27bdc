"""One measurement with stand-ins for TFLite's own tools: whose fault it is, what is loaded, what is written down."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess

import pytest

from auditor.bench import native
from auditor.bench.document import Job
from auditor.bench.libraries import libraries_beside
from auditor.bench.native_output import Line, lines
from auditor.inference.executor import Access
from auditor.inference.watch import Limits
from auditor.inference.worker.confine import landlock_abi
from auditor.tflite.graph import read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.zoo.generate import generate, stand_ins
from fixtures.stand_in import DELEGATE, FORMS, NAMES, build_delegate, build_library, build_tools

ROOT = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)
NATIVE = os.path.join(ROOT, "fixtures", "native")
PUBLISHED = os.path.join(ROOT, os.pardir, "shared", "models", "selfie_segmentation_landscape_256x256.tflite")
MODEL = "selfie_segmentation_landscape_256x256"

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) to build the stand-in tools with"),
    pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined"),
]


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """Build the tools with these macros; each build once."""

    @functools.cache
    def build(names=NAMES, flags=(), **macros):
        folder = str(tmp_path_factory.mktemp("bin"))
        build_tools(folder, names, flags, **macros)
        difference = os.path.join(folder, "inference_diff_eval")
        return native.Tools(os.path.join(folder, "benchmark_model"), difference if len(names) > 1 else None)

    return build


@pytest.fixture
def delegate(tmp_path):
    return lambda code="", flags=(): build_delegate(str(tmp_path / "vendor" / "libvendor.so"), code, flags)


def measure(tools, delegate=None, model=None, **changes):
    content = model or generate(MODEL)
    quick = {"min_runs": 3, "min_seconds": 0, "warmup_seconds": 0, "limits": Limits(request_seconds=20)}
    return native.measure(Job(MODEL, content, delegate=delegate, **quick | changes), tools)


def outcome(found):
    return found["status"]["outcome"], found["status"]["process"]


# --- the stand-in is like the real ones --------------------------------------------------------------------------------------------------


def form(text):
    """The lines, without their figures and paths; of statistics only whether there are percentiles, because few runs are all the same."""
    found = [re.sub(r"^(\w)0000 .*?(\w+\.cc:\d+\])", r"\1 \2", line) for line in text.split("\n")]
    found = [re.sub(r"count=.*?(?= p5=|$)", "count=", re.sub(r"(MODELS|TOOLS|/\w)[\w./-]*", "PATH", line)) for line in found]
    return [re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?|nan", "N", line) for line in found]


@pytest.mark.parametrize(
    ("name", "build"),
    [
        *((f"benchmark-cpu{suffix}", build) for suffix, build in (("", "release"), ("-verbose", "verbose"))),
        ("benchmark-cpu-without-percentiles", "without percentiles"),
        *((f"benchmark-missing-library{suffix}", build) for suffix, build in (("", "release"), ("-verbose", "verbose"))),
        *((f"benchmark-one-run{suffix}", build) for suffix, build in (("", "release"), ("-without-percentiles", "without percentiles"))),
        *((name, "release") for name in ("benchmark-unknown-flag", "benchmark-no-model", "benchmark-mistyped-option")),
        *((name, "release") for name in ("diff-cpu", "diff-missing-library", "diff-graph-instead-of-model-file")),
        ("benchmark-stable-typo", "release"),
    ],
)
def test_the_stand_in_prints_what_the_real_tool_printed(tools, delegate, tmp_path, name, build):
    with open(os.path.join(NATIVE, f"{name}.json"), encoding="utf-8") as file:
        real = json.load(file)
    model, settings = tmp_path / "model.tflite", tmp_path / "typo.json"
    model.write_bytes(generate("mobilenet_v2_1.0_224_quant"))
    settings.write_text("{}")
    paths = {"MODELS/mobilenet_v2_1.0_224_quant.tflite": str(model), "SETTINGS/typo.json": str(settings)}
    paths["TOOLS/libxnn_external.so"] = delegate()
    arguments = real["arguments"]
    for old, new in paths.items():
        arguments = [each.replace(old, new) for each in arguments]
    tool = getattr(tools(FORM=FORMS[build]), {"benchmark_model": "benchmark", "inference_diff_eval": "difference"}[real["tool"]])
    ended = subprocess.run([tool, *arguments], check=False, capture_output=True, text=True)
    assert ended.returncode == real["exit"]
    real_streams = [real[stream].replace("SETTINGS/", "/x/") for stream in ("stdout", "stderr")]
    # the real runtime's own delegate leaves a node to the processor
    changed = [each.replace("Replacing 64", "Replacing 65") for each in real_streams]
    assert [form(ended.stdout), form(ended.stderr)] == list(map(form, changed))


def test_the_stand_ins_listing_is_like_the_real_one(tools, delegate, tmp_path):
    with open(os.path.join(NATIVE, "benchmark-partial-preinvoke-state.json"), encoding="utf-8") as file:
        real = json.load(file)
    model = tmp_path / "model.tflite"
    model.write_bytes(generate("mobilenet_v2_1.0_224_quant"))
    library = delegate('const char *stand_in_takes(void) { return "36"; }')
    flags = [f"--graph={model}", "--num_runs=2", "--min_secs=0", f"--external_delegate_path={library}", "--print_preinvoke_state=true"]
    ended = subprocess.run([tools().benchmark, *flags, "--use_xnnpack=false"], check=True, capture_output=True, text=True)
    used = (Line.LISTING_BEGIN, Line.SUBGRAPH, Line.NODE, Line.PARTITION, Line.LISTING_END, Line.APPLIED, Line.CREATED)

    def forms(text):
        found = [re.sub(r"\w*Delegate\b", "D", line) for kind, line in lines(text) if kind in used]
        return {re.sub(r"[A-Z_\d]+ \((?=del|not)|\[.*\]|0x\w+", "", line) for line in found}

    shapes = [{re.sub(r"\d+| +", "N", each) for each in forms(text)} for text in (real["stdout"], ended.stdout)]
    assert shapes[0] == shapes[1]


# --- whose fault it is -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def published():
    if not os.path.exists(PUBLISHED):
        pytest.skip(f"the published {MODEL}.tflite is not on this machine")
    with open(PUBLISHED, "rb") as file:
        return file.read()


TAKES = 'const char *stand_in_takes(void) {{ return "{}"; }}'
INVOKE = "void stand_in_invoke(float *o, int n) {{ (void)o; (void)n; calls++; {} }}"
FORGED = "INFO: Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 1, Inference (avg): 1"


@pytest.mark.parametrize("build", FORMS)
@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        (TAKES.format("not"), ("completed", None), ""),
        (TAKES.format("30"), ("completed", None), ""),
        (TAKES.format("refused"), ("prepare-failed", "test"), "(StandInDelegate) failed to prepare."),
        ("int stand_in_fails(void) { return 1; }", ("invoke-failed", "test"), "(StandInDelegate) failed to invoke."),
        (INVOKE.format("if (calls == 3) abort();"), ("died", "test"), "signal 6"),
        (INVOKE.format("if (calls == 3) exit(0);"), ("output-unreadable", "test"), "lines of a loop's statistics"),
        (INVOKE.format(f'if (calls == 2) say("{FORGED}");'), ("output-unreadable", "test"), "is there 2 times"),
        (INVOKE.format("o[0] = 0.f / 0.f;"), ("completed", None), ""),
        (INVOKE.format("o[0] += 100;"), ("completed", None), ""),
    ],
    ids=["not", "partly", "refused", "fails", "aborts", "exits", "forges", "nan", "wrong"],
)
def test_each_fault_in_each_build(tools, delegate, build, code, expected, said):
    found = measure(tools(FORM=FORMS[build]), delegate(code))
    assert outcome(found) == expected, found["status"]
    assert said in found["status"]["message"]
    if expected[0] == "completed":
        taken = 0 if '"not"' in code else 30 if '"30"' in code else found["nodes"]["total"]
        assert found["nodes"]["delegated"] == taken
        (output,) = found["accuracy"]["outputs"]
        assert (output["test_nan_runs"] > 0) == ("0.f" in code)
        assert (sum(output["own_errors"]) > 0) == ("100" in code)


def test_the_full_zoo(tools, delegate):
    """Each of its models, whatever it gives out: floats or bytes."""
    library = delegate()
    for name in stand_ins("0.0.2"):
        content = generate(name)
        found = measure(tools(), library, content)
        assert outcome(found) == ("completed", None), (name, found["status"])
        graph = read_graph(content)
        assert [part["nodes"] for part in found["nodes"]["partitions"]] == [list(range(len(graph.operators)))]
        (output,) = found["accuracy"]["outputs"]
        assert output["own_errors"] == [0.0] * native.OWN_INPUTS
        assert found["memory"]["peak_bytes"] < 150e6


@pytest.mark.parametrize("build", FORMS)
def test_a_run_that_goes_well(tools, delegate, build):
    found = measure(tools(FORM=FORMS[build]), delegate(), options=(("known", "yes"),))
    assert outcome(found) == ("completed", None), found["status"]
    assert (found["nodes"]["delegated"], len(found["nodes"]["partitions"])) == (found["nodes"]["total"], 1)
    assert found["conditions"]["refused"] == []
    assert "delegated" not in found["conditions"]


def test_nodes_are_known_exactly(tools, delegate):
    found = measure(tools(), delegate('const char *stand_in_takes(void) { return "10"; }'))
    assert [part["nodes"] for part in found["nodes"]["partitions"]] == [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11]]
    assert found["delegate"]["name"] == "StandInDelegate"


def test_an_older_tool_that_cannot_list_nodes(tools, delegate):
    found = measure(tools(LACKS='"print_preinvoke_state"'), delegate())
    assert (outcome(found), found["nodes"]["delegated"]) == (("completed", None), found["nodes"]["total"])
    found = measure(tools(LACKS='"print_preinvoke_state"'), delegate('const char *stand_in_takes(void) { return "10"; }'))
    assert (outcome(found), found["nodes"]) == (("completed", None), None)


def test_an_operator_that_the_tool_does_not_have(tools, delegate, published):
    """Where the delegate takes it, all is well; where it does not, that is the tool's, and the operator is named."""
    lacking = {"model": published, "reference": without_custom_deconvolution(published)}
    assert outcome(measure(tools(RESOLVES=0), delegate(), **lacking)) == ("completed", None)
    found = measure(tools(RESOLVES=0), delegate('const char *stand_in_takes(void) { return "10"; }'), **lacking)
    assert outcome(found) == ("operator-missing", "test")
    assert "the tool has no operator Convolution2DTransposeBias" in found["status"]["message"]
    assert "(without the delegate: the tool has no operator Convolution2DTransposeBias" in found["status"]["message"]


def test_a_delegate_that_says_that_the_tool_lacks_an_operator(tools, delegate, published):
    """The same run without it decides: the tool has it."""
    lie = 'fprintf(stderr, "ERROR: Encountered unresolved custom op: Convolution2DTransposeBias.\\n");'
    code = f'const char *stand_in_takes(void) {{ {lie} return "refused"; }}'
    found = measure(tools(), delegate(code), model=published, reference=without_custom_deconvolution(published))
    assert outcome(found) == ("prepare-failed", "test")
    assert "(without the delegate, the tool runs it)" in found["status"]["message"]


def test_an_inference_that_fails_over_and_over_is_named_once(tools, delegate):
    found = measure(tools(MICROSECONDS=1), delegate("int stand_in_fails(void) { return 1; }"), warmup_seconds=0.5)
    assert outcome(found) == ("invoke-failed", "test")
    assert re.search(r"it ended with code 1: Node number \d+ \(StandInDelegate\) failed to invoke\.$", found["status"]["message"])
    assert len(found["worker_output"]) < 1 << 15
    assert found["worker_output"].count("failed to invoke.") <= 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((("known", "yes"), ("num_threds", "2")), "it is created without options, and not with num_threds=2"),
        ((("known", "no"), ("a", "b")), "and not with known=no, a=b"),
    ],
)
def test_options_that_a_delegate_refuses_are_named(tools, delegate, options, said):
    found = measure(tools(), delegate(), options=options)
    assert outcome(found) == ("delegate-not-applied", "test")
    assert said in found["status"]["message"]


def test_a_library_without_its_entry_point(tools, tmp_path):
    found = measure(tools(), build_library(str(tmp_path / "vendor" / "libno.so"), "int nothing;"))
    assert outcome(found) == ("delegate-not-applied", "test")
    assert "does not export tflite_plugin_create_delegate" in found["status"]["message"]


def test_a_library_with_a_symbol_that_nobody_has(tools, delegate):
    found = measure(
        tools(), delegate("int missing_symbol_xyz(void); void stand_in_invoke(float *o, int n) { o[n - 1] = missing_symbol_xyz(); }")
    )
    assert outcome(found) == ("delegate-not-applied", "test")
    assert "undefined symbol: missing_symbol_xyz" in found["status"]["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{{ stable_delegate_loader_settings: {{ delegate_path: "{}" }}, typo_settings: {{}} }}',
            "TFLiteSettings has no field typo_settings",
        ),
        (
            '{{ stable_delegate_loader_settings: {{ delegate_path: "{}", typo: 1 }} }}',
            "TFLiteSettings has no field stable_delegate_loader_settings.typo",
        ),
        (
            '{{ stable_delegate_loader_settings: {{ delegate_path: "{}" }} }}',
            "Failed to find TFL_TheStableDelegate symbol: ",
        ),
    ],
)
def test_settings_that_the_tool_does_not_understand(tools, delegate, tmp_path, text, said):
    library, path = delegate(), tmp_path / "settings.json"
    path.write_text(text.format(library))
    found = measure(tools(), library, settings=str(path))
    assert outcome(found) == ("delegate-not-applied", "test")
    assert said in found["status"]["message"]


# --- libraries ---------------------------------------------------------------------------------------------------------------------------


def test_libraries_beside_the_tool_and_the_delegate_are_loaded(tmp_path):
    """By DT_RUNPATH, from a folder that nobody else opens; what is no library there is not opened."""
    places = [str(tmp_path / place) for place in ("tool libraries", "vendor libraries")]
    helpers, flags = [], []
    for number, place in enumerate(places):
        code, name = f"int help{number}(void) {{ return {number}; }}", f"libhelper{number}.so"
        helpers.append(build_library(os.path.join(place, name), code, (f"-Wl,-soname,{name}",)))
        flags.append((helpers[-1], f"-Wl,-rpath,{place}", "-Wl,--enable-new-dtags"))
    (tmp_path / "vendor libraries" / "libsecret.so").write_text("secret")
    build_tools(str(tmp_path / "bin"), NAMES, ("-Wl,--push-state,--no-as-needed", *flags[0], "-Wl,--pop-state"))
    tool = native.Tools(str(tmp_path / "bin" / "benchmark_model"), None)
    library = build_delegate(str(tmp_path / "vendor" / "libvendor.so"), "int help1(void); int (*used)(void) = help1;", flags[1])
    assert libraries_beside(tool.benchmark) == (helpers[0],)
    assert libraries_beside(library) == (helpers[1],)
    found = measure(tool, library, libraries=libraries_beside(library))
    assert outcome(found) == ("completed", None), found["status"]
    assert helpers[0] in found["conditions"]["confinement"]["readable"]


def test_a_library_that_is_allowed_is_loaded_in_every_process(tmp_path, delegate):
    """One that the tool's search path does not find by a name of the file: a link in a folder that leads elsewhere."""
    place = str(tmp_path / "elsewhere")
    helper = build_library(os.path.join(place, "libhelper.so"), "int help(void) { return 1; }", ("-Wl,-soname,libhelper.so",))
    loads = "-Dmain=real_main"
    os.makedirs(tmp_path / "bin")
    code = f"""
    #include <dlfcn.h>
    int real_main(int, char **);
    #undef main
    int main(int count, char **words) {{ return dlopen("{helper}", RTLD_NOW) ? real_main(count, words) : 5; }}
    """
    source = os.path.join(ROOT, "fixtures", "tools", "stand_in.c")
    command = ["cc", "-O2", loads, "-o", str(tmp_path / "bin" / "benchmark_model"), source, "-x", "c", "-", "-ldl", "-lm"]
    subprocess.run(command, input=code.encode(), check=True)
    tool = native.Tools(str(tmp_path / "bin" / "benchmark_model"), None)
    assert outcome(measure(tool, delegate())) == ("load-failed", "reference")
    assert outcome(measure(tool, delegate(), access=Access(allow_paths=(place,)))) == ("completed", None)


def test_search_paths_that_lead_nowhere(tmp_path):
    library = build_library(str(tmp_path / "libx.so"), DELEGATE, ("-Wl,-rpath,/none:relative:$ORIGIN/../x:$LIB",))
    assert libraries_beside(library) == ()
    assert libraries_beside(str(tmp_path / "none.so")) == ()


# --- figures -----------------------------------------------------------------------------------------------------------------------------


def test_the_peak_is_that_of_the_tools_own_image(tools, delegate):
    """The greatest resident size that wait4 and the tool's own monitor see survives execve: the interpreter's before it."""
    found = measure(tools(), delegate())
    own = found["conditions"]["tool"]["peak_mb"] * 2**20
    assert 1 << 20 < found["memory"]["peak_bytes"] <= own
    grown = measure(
        tools(),
        delegate("void stand_in_invoke(float *o, int n) { if (!calls++) memset(malloc(64 << 20), 1, 64 << 20); (void)o; (void)n; }"),
    )
    assert grown["memory"]["peak_bytes"] - found["memory"]["peak_bytes"] >= 63 << 20


def test_scalars(tools, delegate, write):
    """An input of no dimensions beside another one has an empty shape; alone, it cannot be named. Outputs may have none."""
    write_model, tensor, op = write
    both = write_model([tensor((2,)), tensor(()), tensor(())], (0, 1), (2,), [op(0, (0, 1), (2,))])
    found = measure(tools(), delegate(), both)
    assert outcome(found) == ("completed", None), found["status"]
    (output,) = found["accuracy"]["outputs"]
    assert output["own_errors"] == [0.0] * native.OWN_INPUTS
    alone = write_model([tensor(()), tensor(())], (0,), (1,), [op(0, (0, 0), (1,))])
    found = measure(tools(), delegate(), alone)
    assert outcome(found) == ("completed", None), found["status"]
    assert "a scalar alone has none to give" in found["conditions"]["accuracy_note"]
    assert found["accuracy"]["outputs"][0]["two_input_distance"] is None
