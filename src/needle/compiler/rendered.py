"""A kernel whose code is written: its function, and what whoever puts programs together has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from needle.compiler.ir import Function
from needle.compiler.loops import Buffer, Place

__all__ = ["Bands", "Lane", "RenderedKernel"]


@dataclass(frozen=True, slots=True)
class Lane:
    """The number of a lane among those of its chain. Phases of different lanes of a chain touch nothing in common."""

    chain: int
    number: int


@dataclass(frozen=True, slots=True)
class Bands:
    """Neighbouring columns of arrays of so many `columns`: bands of `width`, the last one of what is left."""

    columns: int
    width: int

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.columns // self.width)

    def keep(self, place: Place) -> bool:
        """Tell whether a place is in the column whose number is the kernel's last axis."""
        *others, last = place.strides
        return last == 1 and all(number % self.columns == 0 for number in (place.offset, *others))


@dataclass(frozen=True, slots=True)
class RenderedKernel:
    """A kernel's function, the buffers it takes, into how many parts it falls, and whether threads share them.

    The first `written` of the buffers are written to; all of them where that is None. `begins` says how many elements
    into some of the buffers their pointers are, `step` what step of the program it is a part of, `work` about how many
    operations there are, 0 where nobody knows. Each chunk goes through all operands where `is_streamed`. None of one
    lane waits for one of another lane of its chain. Where there are `bands`, each has as many of the parts, one band's
    after another's; in the buffers whose numbers are `banded` a part touches nothing but columns of its own band.
    """

    function: Function
    buffers: tuple[Buffer, ...]
    parts: int
    shared: bool
    written: int | None = None
    begins: Mapping[Buffer, int] = field(default_factory=dict)
    work: int = 0
    lane: Lane | None = None
    step: str = ""
    is_streamed: bool = False
    bands: Bands | None = None
    banded: tuple[int, ...] = ()

    @property
    def in_bands(self) -> set[Buffer]:
        """The buffers in which a part touches nothing but columns of its own band."""
        return {self.buffers[number] for number in self.banded} - {buffer for buffer, n in self.begins.items() if n}

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """The buffers that are written to."""
        return self.buffers[: self.written]

    @property
    def is_alone(self) -> bool:
        """Whether one thread does it."""
        return not self.shared or self.parts == 1 or self.lane is not None
