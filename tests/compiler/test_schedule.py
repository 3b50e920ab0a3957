"""Which kernels stages go into: those that go through the same memory."""

import numpy as np

from needle.compiler import Graph, TracedArray, input_node
from needle.compiler.graph import make_node
from needle.compiler.loops import Kernel
from needle.compiler.schedule import schedule

SHAPE = (32, 64)


def kernels(graph: Graph) -> list[set[str]]:
    """Return the names of the buffers that each kernel of a graph's program writes."""
    program = schedule(graph)
    names = {buffer: f"out{number}" for number, (buffer, _) in enumerate(program.outputs)}
    steps = [step for step in program.steps if isinstance(step, Kernel)]
    return [{names[buffer] for buffer in step.writes() if buffer in names} for step in steps]


def test_a_hyperparameter_is_no_reason_to_go_through_an_array_beside_a_sum_of_another_one() -> None:
    x, weights, rate = (TracedArray(input_node(shape, np.dtype("f4"))) for shape in (SHAPE, SHAPE, ()))
    sums, updated = x.sum(axis=0) * rate, weights * rate
    graph = Graph(tuple(one.node for one in (x, weights, rate)), (sums.node, updated.node))
    assert {frozenset(one) for one in kernels(graph)} == {frozenset({"out0"}), frozenset({"out1"})}


def test_a_sum_is_found_where_most_of_what_it_reads_is_at_hand() -> None:
    x, z, column = (TracedArray(input_node(shape, np.dtype("f4"))) for shape in (SHAPE, (64,), (32, 1)))
    one = (x * z).sum(axis=0)
    later = TracedArray(make_node("matmul", (column.node, one.reshape((1, 64)).node)))
    other, again = (later * z).sum(axis=0), (np.abs(x) + z).sum(axis=0)
    graph = Graph(tuple(array.node for array in (x, z, column)), (one.node, other.node, again.node))
    assert kernels(graph) == [{"out0", "out2"}, {"out1"}]
