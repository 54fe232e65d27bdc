"""FlatBuffers' JSON, as devices have it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.stable_delegate import MAX_DEPTH, MAX_SETTINGS, StableDelegate, delegate_paths, parse, read_settings, unknown_fields

MTK = """
// as it ships
{
  "stable_delegate_loader_settings": {
    "delegate_path": "/usr/lib64/libtensorflowlite_mtk_neuron_delegate.so", /* of the
    board */ "delegate_name": "NeuronStableDelegate",
  },
  mtk_neuron_settings: {
    optimization_hints: [OPTIMIZATION_LOW_LATENCY, OPTIMIZATION_DEEP_FUSION],
    "operation_check_mode": NO_OPERATION_CHECK,
    'inference_deadline_ms': -1.5e3,
    "allow_fp16_precision_for_fp32": true,
    "compile_options": ['--opt "3" it\\'s', ],
  },
}
"""


def test_what_ships():
    library = "/usr/lib64/libtensorflowlite_mtk_neuron_delegate.so"
    assert read_settings(MTK) == StableDelegate(library, "NeuronStableDelegate")
    assert delegate_paths(MTK) == (library,)
    settings = parse(MTK)["mtk_neuron_settings"]
    assert settings["optimization_hints"] == ["OPTIMIZATION_LOW_LATENCY", "OPTIMIZATION_DEEP_FUSION"]
    assert settings["compile_options"] == ['--opt "3" it\'s']
    assert settings["inference_deadline_ms"] == "-1.5e3"


def test_a_path_in_a_comment_or_in_a_text_is_none():
    comments = '/* delegate_path: "/a.so", */ delegate_path: "/b.so" // "delegate_path": "/c.so"\n, x: "{delegate_path: \\"/d.so\\"}"'
    text = f"{{stable_delegate_loader_settings: {{{comments}}}}}"
    assert read_settings(text).path == "/b.so"
    assert delegate_paths(text) == ("/b.so",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "ends too early"),
        ("{", "ends too early"),
        ("[]", "stable_delegate_loader_settings: expected an object"),
        ("{}", "stable_delegate_loader_settings: expected an object"),
        ("{stable_delegate_loader_settings: 3}", "expected an object"),
        ("{stable_delegate_loader_settings: {}}", "delegate_path: expected the path of a library"),
        ('{stable_delegate_loader_settings: {delegate_path: ""}}', "expected the path"),
        ('{stable_delegate_loader_settings: {delegate_path: ["/a.so"]}}', "expected the path"),
        ('{stable_delegate_loader_settings: {delegate_path: "/a\\n.so"}}', "expected the path"),
        ('{stable_delegate_loader_settings: {delegate_path: "/a.so", delegate_path: "/b.so"}}', "another field"),
        ("{} {}", "more than one value"),
        ("{a: 1 b: 2}", "comma"),
        ("{a}", "colon"),
        ("{: 1}", "colon"),
        ("{a: }", "where a value was expected"),
        ('{a: "\\q"}', "escape"),
        ("{a: 'open}", "character 3"),
        ("{a: 1} \0", "character 6"),
        ("[" * (MAX_DEPTH + 2), "nested too deeply"),
        (" " * (MAX_SETTINGS + 1), "characters, expected at most"),
    ],
)
def test_what_is_none(text, expected):
    with pytest.raises(ValueError, match=expected):
        read_settings(text)
    if "]}}" not in text and "delegate_path" not in text:
        assert delegate_paths(text) == ()


JSON = st.recursive(
    st.text(), lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)), max_leaves=12
)


@given(JSON)
def test_json_is_read_as_json(value):
    assert parse(json.dumps(value)) == value


@given(st.text(st.sampled_from("{}[]:,\"'\\/* \nadelgt_ph."), max_size=200))
def test_no_text_is_too_odd(text):
    with contextlib.suppress(ValueError):
        parse(text)
    delegate_paths(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{delegate: GPU, gpu_settings: {force_backend: OPENCL}, stable_delegate_loader_settings: {delegate_path: '/x'}}", ()),
        ("{xnnpack_setings: {num_threads: 2}, xnnpack_settings: {num_threds: 2}}", ("xnnpack_setings", "xnnpack_settings.num_threds")),
        ("{", ()),
        ("[]", ()),
    ],
)
def test_fields_that_the_schema_does_not_have(text, expected):
    assert unknown_fields(text) == expected
