from __future__ import annotations

import pytest

from auditor.inference.processes import descendants


@pytest.mark.parametrize("listed", [True, False], ids=["children listed", "not listed"])
def test_a_tree_of_processes(tmp_path, listed):
    for pid, parent, children in ((5, 1, "6 "), (6, 5, "7 "), (7, 6, ""), (8, 1, "")):
        (tmp_path / f"{pid}/task/{pid}").mkdir(parents=True)
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (a ) name) S {parent} 0 0")
        if listed:
            (tmp_path / f"{pid}/task/{pid}/children").write_text(children)
    assert descendants(5, str(tmp_path)) == {5, 6, 7}
    assert descendants(9, str(tmp_path)) == {9}
