"""Which way a matrix product is computed: the one place where the host's instructions and the operands' dtype decide.

- Operands of float32, float64 and integers: `contract`.
- bfloat16: registers of whole matrices where the host has them and the product fills them (`tile_products`), else
  instructions that add products of pairs (`dot_products`).
- float16, and bfloat16 on other hosts: `contract`, which converts operands to float32 where it copies or loads them.
"""

from __future__ import annotations

import math

from needle.compiler.contract import render_contraction
from needle.compiler.dot_products import render_dot_product, takes_pairs
from needle.compiler.host import Host
from needle.compiler.rendered import RenderedKernel
from needle.compiler.steps import Contraction
from needle.compiler.tile_products import render_tile_product
from needle.dtype import bfloat16, float32

__all__ = ["render_product"]

# Fewer rows, columns or steps of the sum leave most of the processor's tiles empty.
_FEWEST = 16
_FEWEST_PRODUCTS = 64**3


def render_product(
    step: Contraction, host: Host, packs_once: bool = False, is_alone: bool = False
) -> list[RenderedKernel]:
    """Return the functions that compute a contraction, in order.

    Others have its right operand where `packs_once`; there are no others, and nothing else to do, where it `is_alone`.
    """
    is_widening = step.a.buffer.dtype == bfloat16 and step.out.dtype == float32 and all(step.out.shape)
    if is_widening and host.has_tiles and _fills_tiles(step):
        return render_tile_product(step, host)
    if takes_pairs(step, host):
        return render_dot_product(step, host)
    return render_contraction(step, host, packs_once, is_alone)


def _fills_tiles(step: Contraction) -> bool:
    rows, inner = math.prod(step.a.shape[:-1]), step.a.shape[-1]
    columns = step.b.shape[-1]
    return min(rows, columns, inner) >= _FEWEST and rows * columns * inner >= _FEWEST_PRODUCTS
