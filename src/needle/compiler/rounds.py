"""Which parts of a program run side by side: phases that touch nothing of each other's need not wait for each other.

A round is over when all its chunks are done, whoever did them; then the next one begins. Each phase is put into the
first round in which all that it waits for is done. A large phase falls into several chunks. A small one is part of one
chunk; where it waits for nothing but phases of one chunk it follows them in that chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from needle.compiler.loops import Buffer
from needle.compiler.render import RenderedKernel

__all__ = ["Share", "Turn", "in_moments", "make_rounds", "shares_of"]

# Multiply-adds in a chunk of a long phase: some 15 µs of work, much more than it takes to fetch another chunk.
_CHUNK_WORK = 2e6


@dataclass(frozen=True, slots=True)
class Turn:
    """A phase in a round, and the number of the chunk that it is part of; None where it falls into chunks itself."""

    phase: RenderedKernel
    owner: int | None


@dataclass(frozen=True, slots=True)
class Share:
    """Neighbouring chunks of a round, `count` of them: each a part of one phase, or a single one of whole phases."""

    phases: tuple[RenderedKernel, ...]
    count: int


def shares_of(turns: Sequence[Turn], most: int) -> list[Share]:
    """Return the chunks of a round, large phases in `most` chunks each.

    Those that take long are in up to four times as many, so that no thread waits long for the last one.
    """
    shares: list[Share] = []
    owned: dict[int, list[RenderedKernel]] = {}
    for turn in turns:
        if turn.owner is None:
            least = most // 2 if turn.phase.is_streamed else most
            count = max(least, min(int(turn.phase.work / _CHUNK_WORK), 4 * most))
            parts_each = -(-turn.phase.parts // count)
            shares.append(Share((turn.phase,), -(-turn.phase.parts // parts_each)))
        else:
            owned.setdefault(turn.owner, []).append(turn.phase)
    return [*shares, *(Share(tuple(phases), 1) for phases in owned.values())]


def in_moments(turns: Sequence[Turn]) -> list[Sequence[Turn]]:
    """Divide a round into what certainly comes one after another: the turns of its chunk, where it has but one."""
    owners = {turn.owner for turn in turns}
    return [[turn] for turn in turns] if len(owners) == 1 and None not in owners else [turns]


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
