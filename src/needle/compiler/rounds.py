"""Which parts of a program run side by side: phases that touch nothing of each other's need not wait for each other.

Threads meet at a barrier between rounds only. Each phase is put into the first round in which all that it waits for is
done. A small phase belongs to one thread; one that waits for nothing but phases of the same thread may follow them
in the same round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from needle.compiler.loops import Buffer
from needle.compiler.render import RenderedKernel

__all__ = ["Turn", "make_rounds"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A phase in a round, and the number of the thread that does it (modulo how many there are); None for all."""

    phase: RenderedKernel
    owner: int | None


def make_rounds(phases: Sequence[RenderedKernel]) -> list[list[Turn]]:
    """Return the rounds of a program whose phases are given in an order in which they may run."""
    rounds: list[list[Turn]] = []
    places: list[tuple[int, int | None]] = []
    written_by: dict[Buffer, list[int]] = {}
    read_by: dict[Buffer, list[int]] = {}
    for number, phase in enumerate(phases):
        before = {other for buffer in phase.buffers for other in written_by.get(buffer, ())}
        before |= {other for buffer in phase.writes for other in read_by.get(buffer, ())}
        place, owner = _place(phase, [places[other] for other in before], rounds)
        while len(rounds) <= place:
            rounds.append([])
        rounds[place].append(Turn(phase, owner))
        places.append((place, owner))
        for buffer in phase.buffers:
            (written_by if buffer in phase.writes else read_by).setdefault(buffer, []).append(number)
    return rounds


def _place(
    phase: RenderedKernel, before: Sequence[tuple[int, int | None]], rounds: Sequence[Sequence[Turn]]
) -> tuple[int, int | None]:
    """Return the round of a phase and its owner, given the places of the phases that it waits for."""
    last = max((place for place, _ in before), default=-1)
    if not phase.is_alone:
        return last + 1, None
    owners = {owner for place, owner in before if place == last}
    if len(owners) == 1 and None not in owners:
        return last, owners.pop()
    following = rounds[last + 1] if last + 1 < len(rounds) else []
    return last + 1, sum(turn.owner is not None for turn in following)
