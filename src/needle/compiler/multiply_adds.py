"""The pass that fuses a product and the sum that it goes into: one instruction, which rounds once.

That is faster and more exact, but another number than of the product rounded first. So it is decided here, once for
each node, and LLVM fuses nothing itself: a value that several kernels compute anew is the same in all of them. Who
finds the largest of a row, and then the elements that are equal to it, relies on that: with x rounded in one place and
not in the other there would be no such element. So do softmaxes, whose x − max x must not be above 0.
"""

from __future__ import annotations

from needle.compiler.graph import Graph, Node, make_node

__all__ = ["fuse_multiply_adds"]


def fuse_multiply_adds(graph: Graph) -> Graph:
    """Return a graph in which the products that nothing but one sum or difference reads are fused with it."""
    users = graph.users()
    outputs = set(graph.outputs)

    def has_one_reader(product: Node) -> bool:
        return product.primitive == "multiply" and len(users[product]) == 1 and product not in outputs

    def fused(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node.primitive not in ("add", "subtract") or node.dtype.kind in "iub":
            return node.with_inputs(inputs)
        minus = node.primitive == "subtract"
        if has_one_reader(node.inputs[0]):
            (a, b), c = inputs[0].inputs, inputs[1]
            return _call("multiply_add", node, a, b, _call("negative", node, c) if minus else c)
        if has_one_reader(node.inputs[1]):
            (a, b), c = inputs[1].inputs, inputs[0]
            return _call("multiply_add", node, _call("negative", node, a) if minus else a, b, c)
        return node.with_inputs(inputs)

    return graph.rewritten(fused) if any(map(has_one_reader, users)) else graph


def _call(primitive: str, node: Node, *inputs: Node) -> Node:
    return make_node(primitive, inputs, node.source)
