from __future__ import annotations

from auditor.bench.schedule import _macs
from auditor.tflite.graph import Graph, Operator, Subgraph


def graph(*macs):
    operators = tuple(Operator("CONV_2D", "", 1, (), (), None, each) for each in macs)
    return Graph(3, "", (Subgraph((), operators, (), ()),), 0, sum(macs), 0)


def nodes(total, delegated, *partitions):
    return {
        "nodes": {"total": total, "delegated": delegated, "partitions": [{"subgraph": 0, "name": "", "nodes": each} for each in partitions]}
    }


def test_the_work_of_nodes_that_are_known():
    assert _macs(graph(10, 20, 30), nodes(3, 2, [0], [2])) == {"total": 60, "delegated": 40}
    assert _macs(graph(10, 20, 30), nodes(3, 0)) == {"total": 60, "delegated": 0}
    assert _macs(graph(10), {"nodes": None}) is None


def test_of_nodes_whose_number_alone_is_known_the_largest_are_taken_to_be_left():
    assert _macs(graph(10, 20, 30), nodes(3, 2, None)) == {"total": 60, "delegated": 30}
    assert _macs(graph(10, 20, 30), nodes(3, 1, None, None)) == {"total": 60, "delegated": 10}
    assert _macs(graph(10, 20, 30), nodes(3, 3, None)) == {"total": 60, "delegated": 60}
