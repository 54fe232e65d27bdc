from __future__ import annotations

import pytest

from auditor.errors import UsageError
from auditor.inference import runtime as runtimes
from auditor.inference.process import Worker
from auditor.inference.runtime import Machine, check_folder, compile_used, this_machine, why_none
from auditor.inference.watch import Limits
from auditor.inference.wire import WorkerFailure

BOARD = Machine((3, 11), "aarch64", (2, 35))


def folder(tmp_path, package="ai_edge_litert", tags=(), name="ai_edge_litert-2.1.0"):
    (tmp_path / package).mkdir()
    (tmp_path / package / "interpreter.py").write_text("")
    (tmp_path / f"{name}.dist-info").mkdir()
    (tmp_path / f"{name}.dist-info" / "WHEEL").write_text("Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags))
    return str(tmp_path)


@pytest.mark.parametrize(
    "tag",
    [
        "cp311-cp311-manylinux_2_27_aarch64",
        "cp311-cp311-manylinux2014_aarch64",
        "cp311-cp311-manylinux_2_35_aarch64",
        "cp310.cp311-cp311-linux_aarch64",
        "cp38-abi3-linux_aarch64",
        "py3-none-any",
        "py2.py3-none-any",
        "py311-none-manylinux2014_aarch64",
        "something else",
    ],
)
def test_a_runtime_that_fits(tmp_path, tag):
    assert check_folder(folder(tmp_path, tags=["cp27-cp27m-win32", tag]), "auto", BOARD) == "ai_edge_litert"


@pytest.mark.parametrize(
    "tag",
    [
        "cp310-cp310-manylinux2014_aarch64",
        "cp312-abi3-manylinux2014_aarch64",
        "cp311-cp311t-manylinux2014_aarch64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp311-cp311-manylinux_2_36_aarch64",
        "py2-none-any",
        "py312-none-any",
    ],
)
def test_a_runtime_for_another_machine_is_named_with_what_was_expected(tmp_path, tag):
    with pytest.raises(UsageError) as refused:
        check_folder(folder(tmp_path, tags=[tag]), "auto", BOARD)
    assert str(refused.value) == (
        f"--runtime: {tmp_path}: ai_edge_litert-2.1.0 is made for {tag}, expected Python 3.11 on aarch64 with glibc 2.35"
    )
    assert check_folder(str(tmp_path), "auto") == "ai_edge_litert"


def test_a_folder_that_does_not_say_is_tried(tmp_path):
    made = folder(tmp_path)
    (tmp_path / "x.dist-info").mkdir()
    assert check_folder(made, "auto", BOARD) == "ai_edge_litert"


def test_another_c_library_is_not_held_against_glibc(tmp_path):
    made = folder(tmp_path, tags=["cp311-cp311-manylinux_2_99_aarch64"])
    assert check_folder(made, "auto", Machine((3, 11), "aarch64", None)) == "ai_edge_litert"
    assert str(Machine((3, 11), "aarch64", None)) == "Python 3.11 on aarch64"


@pytest.mark.parametrize(("choice", "expected"), [("auto", "ai-edge-litert or tflite-runtime"), ("tflite-runtime", "tflite-runtime")])
def test_a_folder_without_the_runtime_is_refused(tmp_path, choice, expected):
    made = folder(tmp_path, package="something")
    with pytest.raises(UsageError, match=f"expected a folder that `pip install --target` made, with {expected} in it"):
        check_folder(made, choice)


def test_this_machine_has_what_its_own_packages_are_made_for():
    machine = this_machine()
    assert runtimes._fits(f"cp{machine.python[0]}{machine.python[1]}-abi3-linux_{machine.machine}", machine)


def test_a_runtime_that_is_there_needs_no_folder(runtime):
    assert not why_none(runtime)


def test_why_there_is_none_is_one_line(monkeypatch):
    monkeypatch.setattr(Worker, "hello", lambda *_arguments: (_ for _ in ()).throw(_missing()))
    assert why_none("auto") == "tflite: none"


def _missing():
    from auditor.inference.wire import Outcome, Status

    return WorkerFailure(Status(Outcome.RUNTIME_MISSING, "reference", "hello", message="tflite: none"))


def test_a_folder_comes_before_what_is_installed_and_our_own_code_before_both(tmp_path):
    (tmp_path / "ai_edge_litert").mkdir()
    (tmp_path / "ai_edge_litert" / "__init__.py").write_text("")
    (tmp_path / "ai_edge_litert" / "interpreter.py").write_text("raise ImportError('it is this one')")
    (tmp_path / "auditor").mkdir()
    (tmp_path / "auditor" / "__init__.py").write_text("raise ImportError('not this one')")
    with Worker("reference", b"", Limits(), import_path=[str(tmp_path)]) as worker, pytest.raises(WorkerFailure, match="it is this one"):
        worker.hello("ai-edge-litert")


def test_only_what_the_runtime_takes_from_its_folder_is_compiled(tmp_path):
    made = folder(tmp_path)
    (tmp_path / "ai_edge_litert" / "interpreter.py").write_text("import used, json\nraise ValueError")
    (tmp_path / "ai_edge_litert" / "__init__.py").write_text("")
    (tmp_path / "used.py").write_text("")
    (tmp_path / "unused.py").write_text("")
    compile_used(made, "ai_edge_litert")
    assert [path.name.split(".")[0] for path in (tmp_path / "__pycache__").iterdir()] == ["used"]
