"""The compiler's stages in order, from a graph to LLVM's text.

They are needed only where a graph has not been compiled before, or where somebody wants to look at them, and take
longer to load and to run than all else in a process's first call: who runs a program loads this file when it must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from needle.compiler.block_moments import find_moments_in_blocks
from needle.compiler.clipping import without_products_of_zeros
from needle.compiler.graph import Graph, Node
from needle.compiler.host import host
from needle.compiler.in_place import overwrite_inputs
from needle.compiler.inner_buffers import keep_inside
from needle.compiler.joins import join_pads, permute_parts
from needle.compiler.lanes import is_worth_a_loop
from needle.compiler.layout import sink_permutations
from needle.compiler.multiply_adds import fuse_multiply_adds
from needle.compiler.narrow import narrow_products
from needle.compiler.overhang import without_borders
from needle.compiler.places import find_places_by_value
from needle.compiler.program import Module, render_program
from needle.compiler.recompute import with_activations_again
from needle.compiler.repeat import has_loops, unrolled, with_bodies, with_one_form_each, without_unused_results
from needle.compiler.results import keep_one_form
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify
from needle.compiler.steps import Program
from needle.compiler.thread_count import available_processors
from needle.compiler.whole_sums import reduce_rows_first
from needle.compiler.written_out import warn_of_steps

__all__ = ["Stages"]


class Stages:
    """A graph on its way to LLVM's text.

    Args:
        graph: what to compute.
        may_overwrite: for the number of an output, the number of an input that its values may be written over.
        drawn: the numbers of the inputs that the program fills with random numbers, in order.

    Attributes:
        simplified: the graph, simplified.
        program: its kernels.
        overwrites: those of `may_overwrite` that came about.
        module: the kernels as LLVM's text.
    """

    def __init__(self, graph: Graph, may_overwrite: Mapping[int, int], drawn: Sequence[int] = ()) -> None:
        self.simplified = _simplified(_with_good_loops(graph, available_processors()))
        program = without_products_of_zeros(
            without_borders(schedule(with_activations_again(self.simplified, host())), host()), host()
        )
        program, self.overwrites = overwrite_inputs(program, may_overwrite)
        self.program: Program = keep_inside(program)
        self.module: Module = render_program(self.program, host(), drawn=drawn)


def _simplified(graph: Graph) -> Graph:
    """Return a graph as small as the passes make it."""
    graph = simplify(permute_parts(simplify(sink_permutations(join_pads(simplify(graph))))))
    narrowed = narrow_products(graph)
    graph = find_places_by_value(graph if narrowed is graph else simplify(narrowed))
    return fuse_multiply_adds(keep_one_form(simplify(find_moments_in_blocks(reduce_rows_first(graph), host()))))


def _with_good_loops(graph: Graph, processors: int) -> Graph:
    """Return a graph with the bodies of its loops simplified, and those loops written out that are no gain.

    One thread goes through a body. But where a loop is written out, those in its body are loops of all threads.
    """
    if not has_loops(graph):
        return graph
    graph = without_unused_results(with_bodies(with_one_form_each(graph), _simplified_body))
    return _without_slow_loops(graph, processors)


def _simplified_body(body: Graph) -> Graph:
    return _simplified(_with_good_loops(body, 1))


def _without_slow_loops(graph: Graph, processors: int) -> Graph:
    good: set[Node] = set()
    while True:
        slow = []
        for node in graph.nodes():
            if node.primitive == "repeat" and node not in good:
                slow += [] if is_worth_a_loop(node, processors) else [node]
                good.add(node)
        if not slow:
            return graph
        _warn_if_long(slow)
        graph = unrolled(graph, slow)


def _warn_if_long(loops: Sequence[Node]) -> None:
    """Warn of the longest of the loops that are written out, if that takes long to compile."""
    counts = [node.params["length"] * len(node.params["body"].nodes()) for node in loops]
    longest = loops[counts.index(max(counts))]
    source = next((one.source for one in longest.params["body"].nodes() if one.source is not None), None)
    why = "a step is so much work that all threads share it"
    warn_of_steps(source, longest.params["length"], max(counts), why, "Make fewer steps in one call")
