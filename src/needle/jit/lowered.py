"""A compiled call to look at: its graph, its kernels, its machine code, and where its time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from needle.errors import SettingError
from needle.jit.program import CompiledCall

if TYPE_CHECKING:
    from needle.compiler.profile import Profile

__all__ = ["Lowered"]


class Lowered:
    """The stages of one program.

    Example:
        >>> import needle as ndl
        >>> x = ndl.Tensor([1.0, 2.0])
        >>> print(ndl.jit(lambda x: x * 2 + 1).lower(x).show("kernels"))  # doctest: +ELLIPSIS
        kernel k0...
          for i0 < 2:
            b1[i0] = multiply_add(in0[i0], 2.0, 1.0)
        return b1[2]
    """

    def __init__(self, program: CompiledCall, leaves: Sequence[Any]) -> None:
        self.program = program
        self._leaves = list(leaves)

    def __repr__(self) -> str:
        steps, inputs = len(self.program.executable.program.steps), len(self.program.graph.inputs)
        return f"<lowered: {steps} kernels, {inputs} inputs; see show(), profile() and picture()>"

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

    def profile(self, repeats: int = 50) -> Profile:
        """Time each kernel where it runs, on copies of what the program reads; nothing is changed.

        Returns:
            A `Profile`; printed it is a table with time, GFLOP/s, GB/s and the share of the machine's limit;
            what is left of a call is starting, and threads that wait for each other.
        """
        from needle.compiler.profile import profile_program  # noqa: PLC0415  LLVM is loaded when first needed

        program = self.program
        with program.lock, program.as_if_called(self._leaves) as arrays:
            return profile_program(program.executable, arrays, repeats)

    def picture(self) -> str:
        """Return the program as a picture, in SVG: kernels as boxes, arrays as arrows between them."""
        from needle.compiler.picture import program_svg  # noqa: PLC0415  only for who looks

        return program_svg(self.program.executable.program)

    def save_picture(self, path: str | Path) -> None:
        """Write the picture to a file, whole or not at all."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.writing")
        temporary.write_text(self.picture(), encoding="utf-8")
        temporary.replace(target)
