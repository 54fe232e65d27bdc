"""Requests of the Open Inference Protocol: what an honest client sends is read as it was meant, and anything else is a BadRequest."""

from __future__ import annotations

import json
import os
import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.errors import AuditError, UsageError
from auditor.inference.metrics import CREATE, EXECUTE, LOAD, Metrics
from auditor.inference.results import CreateGraphExecutorResult, ExecuteResult, LoadModelResult
from auditor.serving import asking, figures, listen, protocol
from auditor.serving.protocol import BadRequest, Request, Wanted
from auditor.zoo.published import Tensor

DTYPES = st.sampled_from(sorted(protocol.TYPES))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def read(body, header):
    """A request, or why it is none; anything else that is raised is a defect."""
    try:
        return protocol.read_request(body, header)
    except BadRequest as problem:
        return problem


@given(st.binary(max_size=400), st.none() | st.text(max_size=12) | st.integers(0, 500).map(str))
def test_any_bytes_are_read_or_refused(body, header):
    found = read(body, header)
    assert isinstance(found, Request) or ("\n" not in str(found) and found.code is not ExecuteResult.OK)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": JSON,
            "inputs": JSON
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "name": JSON,
                        "shape": JSON,
                        "datatype": DTYPES | JSON,
                        "data": JSON,
                        "parameters": JSON | st.fixed_dictionaries({"binary_data_size": JSON}),
                    },
                ),
                max_size=3,
            ),
            "outputs": JSON,
            "parameters": JSON,
        },
    )
)
def test_any_json_is_read_or_refused(document):
    text = json.dumps(document).encode()
    assert {type(read(text, header)) for header in (None, str(len(text)))} <= {Request, BadRequest}


@given(st.data(), DTYPES, st.lists(st.integers(0, 4), min_size=1, max_size=3), st.booleans())
def test_tensors_survive_both_ways(data, datatype, shape, is_binary):
    dtype = np.dtype(protocol.TYPES[datatype])
    count = int(np.prod(shape))
    if dtype.kind == "f":
        values = data.draw(st.lists(st.integers(-1000, 1000), min_size=count, max_size=count))
    elif dtype.kind == "b":
        values = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    else:
        info = np.iinfo(dtype)
        values = data.draw(st.lists(st.integers(int(info.min), int(info.max)), min_size=count, max_size=count))
    array = np.array(values, dtype).reshape(shape)
    item = {"name": "x", "datatype": datatype, "shape": shape}
    payload = array.tobytes() if is_binary else b""
    item |= {"parameters": {"binary_data_size": len(payload)}} if is_binary else {"data": array.tolist()}
    text = json.dumps({"id": "1", "inputs": [item], "outputs": [{"name": "x"}], "parameters": {"binary_data_output": is_binary}}).encode()
    request = protocol.read_request(bytearray(text + payload), str(len(text)) if is_binary else None)
    assert bytes(request.inputs["x"].data) == array.tobytes()
    assert request.wanted == (Wanted("x", is_binary),)
    body, size = protocol.answer("m", "1", request, {"x": Tensor(dtype.name, tuple(shape), array.tobytes())})
    document = json.loads(body[:size])
    assert (document["id"], document["outputs"][0]["shape"]) == ("1", shape)
    found = body[size:] if is_binary else np.array(document["outputs"][0]["data"], dtype).tobytes()
    assert found == array.tobytes()


@pytest.mark.parametrize(("datatype", "values"), [("UINT8", [256]), ("UINT8", [-1]), ("INT64", [1 << 63]), ("INT8", [1.5]), ("BOOL", [1])])
def test_values_that_a_type_does_not_have_are_refused(datatype, values):
    document = {"inputs": [{"name": "x", "datatype": datatype, "shape": [1], "data": values}]}
    with pytest.raises(BadRequest, match=r"^inputs\[0\]\.data: expected"):
        protocol.read_request(json.dumps(document).encode(), None)


def test_large_json_is_refused_before_it_is_read():
    with pytest.raises(BadRequest, match="bytes of JSON, expected"):
        protocol.read_request(bytearray(protocol.MAX_JSON + 1), None)
    with pytest.raises(BadRequest, match="bytes of JSON, expected"):
        protocol.read_request(bytearray(protocol.MAX_HEADER + 1), str(protocol.MAX_HEADER + 1))


def test_numbers_that_json_has_not_are_null():
    body, size = protocol.answer("m", "1", Request("", {}, (), False), {"x": Tensor("float32", (2,), struct.pack("<2f", float("nan"), 1))})
    assert (size, json.loads(body)["outputs"][0]["data"]) == (None, [None, 1.0])


# --- where it listens ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "tcp:0.0.0.0:80", "tcp:10.0.0.1:80", "tcp:127.0.0.1:70000", "tcp:127.0.0.1", "tcp:localhost:1", "unix:" + "x" * 200],
)
def test_other_places_are_refused(text):
    with pytest.raises(UsageError, match=r"^--listen "):
        listen.read_place(text)


def test_what_is_no_dead_socket_is_left_alone(tmp_path):
    file, taken = tmp_path / "file", tmp_path / "taken"
    file.write_text("x")
    for path, said in ((file, "expected no file, or a socket"), (tmp_path / "no" / "s", "No such file"), (taken, "already in use")):
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(taken))
            other.listen()
            with pytest.raises(AuditError, match=said), listen.opened(listen.read_place(f"unix:{path}"), 0o600):
                pass
            taken.unlink()
    assert file.read_text() == "x"


@pytest.mark.parametrize("count", ["0", "2", "1"])
def test_what_systemd_passes_is_checked(count, tmp_path):
    assert listen.passed({}) is None
    assert listen.passed({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    if count != "1":
        with pytest.raises(UsageError, match="LISTEN_FDS: expected one socket"):
            listen.passed({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


def test_a_service_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(AuditError, match=r"^--connect: .*/s: No such file or directory$"):
        asking.ask(listen.read_place(f"unix:{tmp_path}/s"), "/metrics")


# --- metrics ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept():
    found = Metrics()
    found.note('m "x"\n', LOAD, LoadModelResult.OK, 0.0)
    found.note("m", CREATE, CreateGraphExecutorResult.NOT_FULLY_DELEGABLE, 0.0)
    found.note("m", EXECUTE, ExecuteResult.OK, 0.0)
    found.note("m", EXECUTE, ExecuteResult.OK, 0.0)
    found.note("m", EXECUTE, ExecuteResult.RATE_ERROR, 0.0)
    return found


def test_uma_gets_the_records_of_the_ml_service(kept):
    data, records = figures.uma(kept), []
    while data:
        (size,) = struct.unpack_from("<I", data)
        kind, sample, end = data[4:size].split(b"\0")
        assert (kind, end) == (b"linearhistogram", b"")
        records.append(sample.decode())
        data = data[size:]
    assert sorted(records) == [
        "MachineLearningService.m.CreateGraphExecutorResult.Event 8 9",
        *["MachineLearningService.m.ExecuteResult.Event 0 10"] * 2,
        "MachineLearningService.m__x__.LoadModelResult.Event 0 5",
    ]


def test_prometheus_reads_what_is_written_for_it(kept):
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    families = {each.name: each for each in parser.text_string_to_metric_families(figures.prometheus(kept))}
    events = {(each.labels["name"], each.labels["event"]): each.value for each in families["crosml_events"].samples}
    assert events["MachineLearningService.m.ExecuteResult.Event", "OK"] == 2
    assert events['MachineLearningService.m "x"\n.LoadModelResult.Event', "OK"] == 1
    assert {each.name for each in families["crosml_samples"].samples} == {"crosml_samples_sum", "crosml_samples_count"}
    assert families["crosml_samples_max"].type == "gauge"


def test_json_has_the_same(kept):
    document = json.loads(json.dumps(figures.document(kept), allow_nan=False))
    assert document["events"]["MachineLearningService.m.ExecuteResult.Event"] == {"OK": 2, "RATE_ERROR": 1}
    assert document["samples"]["MachineLearningService.m.ExecuteResult.ElapsedTimeMicrosec"]["count"] == 3
