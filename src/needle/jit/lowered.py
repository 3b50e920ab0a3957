"""A compiled call to look at: its graph, its kernels, its machine code, and where its time goes."""

from __future__ import annotations

from typing import Any

from needle.errors import SettingError
from needle.jit.program import CompiledCall

__all__ = ["Lowered"]


class Lowered:
    """The stages of one program.

    Example:
        >>> import needle as ndl
        >>> x = ndl.Tensor([1.0, 2.0])
        >>> print(ndl.jit(lambda x: x * 2 + 1).lower(x).show("kernels"))  # doctest: +ELLIPSIS
        kernel k0...
          for i0 < 2:
            b1[i0] = add(multiply(in0[i0], 2.0), 1.0)
        return b1[2]
    """

    def __init__(self, program: CompiledCall) -> None:
        self.program = program

    def show(self, stage: str = "kernels") -> str:
        """Return a stage as text.

        Args:
            stage: "graph", the primitives that were traced, simplified; "kernels", the loops, with the lines of the
                user's program that they come from; "llvm", LLVM's text.

        Raises:
            SettingError: there is no such stage.
        """
        executable = self.program.executable
        stages: dict[str, Any] = {
            "graph": executable.simplified.show,
            "kernels": executable.program.show,
            "llvm": lambda: executable.module.text,
        }
        if stage not in stages:
            raise SettingError(f"show: the stages are {', '.join(map(repr, stages))}; got {stage!r}")
        text: str = stages[stage]()
        return text
