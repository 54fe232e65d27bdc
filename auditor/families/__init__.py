"""Families of accelerators: how the kernel presents each, in one table (table.py).

A family is one driver's devices. Facts, probes, checks and what measures a model look here and nowhere else, so that a new family is one
entry and one recorded tree. The table is a module of frozen data, not a file: it is read on the device under test as well, with the
standard library of Python 3.10 alone, where neither TOML nor the project's codec is at hand; and its types are checked with the code's.
An entry that contradicts itself, or another, raises ValueError when it is loaded.
"""

from auditor.families.family import Allocation, Family, Loader, NodeName, Table, Upstream, Work, is_vfio, plain
from auditor.families.table import FAMILIES

__all__ = ["FAMILIES", "Allocation", "Family", "Loader", "NodeName", "Table", "Upstream", "Work", "is_vfio", "plain"]
