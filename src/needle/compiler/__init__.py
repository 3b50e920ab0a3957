"""The compiler: from traced array calls to a graph of primitives (and, later, to one native program).

It knows arrays and graphs, and nothing of Tensors, modules or optimizers.
"""

import time

from needle.compiler.abstract import abstract_result
from needle.compiler.graph import Graph, Node, Source, input_node, verify
from needle.compiler.interpret import interpret
from needle.compiler.namespace import scatter_add as _  # noqa: F401  the namespace binds itself to TracedArray
from needle.compiler.trace import TracedArray

__all__ = [
    "LOADED_AT",
    "Graph",
    "Node",
    "Source",
    "TracedArray",
    "abstract_result",
    "input_node",
    "interpret",
    "verify",
]

# The compiler's text that is older than this is what this process runs.
LOADED_AT = time.time()
