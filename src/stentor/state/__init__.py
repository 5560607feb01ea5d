"""Tables, derivations and reconcilers: how state flows from the API to the kernel.

A `Table` holds immutable rows and tells trackers what changed. A `Derivation` maps changed rows of its inputs to changed rows
of its output, incrementally. A `Reconciler` drives a `Target` (a BPF map, routes, a peer) to what a table says. No I/O here.
"""

from stentor.state.derivation import Derivation, Graph, Input
from stentor.state.reconciler import Backoff, Reconciler, RowState, RowStatus, Target
from stentor.state.table import Change, Column, Database, Table, Tracker, Transaction

__all__ = [
    "Backoff",
    "Change",
    "Column",
    "Database",
    "Derivation",
    "Graph",
    "Input",
    "Reconciler",
    "RowState",
    "RowStatus",
    "Table",
    "Target",
    "Tracker",
    "Transaction",
]
