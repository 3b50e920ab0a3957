"""Which parts of a program run side by side: phases that touch nothing of each other's need not wait for each other.

A round is over when all its chunks are done, whoever did them; then the next one begins. Each phase is put into the
first round in which all that it waits for is done. A large phase falls into several chunks. A small one is part of one
chunk; where it waits for nothing but phases of one chunk it follows them in that chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from needle.compiler.loops import Buffer
from needle.compiler.render import Lane, RenderedKernel

__all__ = ["Share", "Turn", "in_moments", "make_rounds", "shares_of"]


# Chunks of so many operations are divided further, into so many times as many.
_LONG_CHUNK, _FINER = 2_000_000, 4


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
    """Return the chunks of a round: phases that threads share in up to `most`, or in more of them where each is long.

    The end of a round is waited for as long as its last chunk takes. So chains, which cannot be divided, come first.
    """
    shares: list[Share] = []
    owned: dict[int, list[RenderedKernel]] = {}
    for turn in turns:
        if turn.owner is None:
            count = max(most, min(turn.phase.work // _LONG_CHUNK, _FINER * most))
            shares.append(Share((turn.phase,), min(turn.phase.parts, count)))
        else:
            owned.setdefault(turn.owner, []).append(turn.phase)
    chains = [Share(tuple(phases), 1) for phases in owned.values()]
    long = [chain for chain in chains if sum(phase.work for phase in chain.phases) > _LONG_CHUNK]
    return [*long, *shares, *(chain for chain in chains if chain not in long)]


def in_moments(turns: Sequence[Turn]) -> list[Sequence[Turn]]:
    """Divide a round into what certainly comes one after another: the turns of its chunk, where it has but one."""
    owners = {turn.owner for turn in turns}
    return [[turn] for turn in turns] if len(owners) == 1 and None not in owners else [turns]


def make_rounds(phases: Sequence[RenderedKernel]) -> list[list[Turn]]:
    """Return the rounds of a program whose phases are given in an order in which they may run."""
    planner = _Planner(phases)
    for number in range(len(phases)):
        planner.add(number)
    return planner.rounds


class _Planner:
    """Puts phases into rounds, in order."""

    def __init__(self, phases: Sequence[RenderedKernel]) -> None:
        self.phases = phases
        self.rounds: list[list[Turn]] = []
        self._places: list[tuple[int, int | None]] = []  # the round of each phase, and its owner
        self._written_by: dict[Buffer, list[int]] = {}
        self._read_by: dict[Buffer, list[int]] = {}
        self._owners: dict[tuple[int, Lane], int] = {}  # of the lanes in each round

    def add(self, number: int) -> None:
        """Put the next phase into the first round that it may be in."""
        phase = self.phases[number]
        place, owner = self._place(phase, self._before(phase))
        while len(self.rounds) <= place:
            self.rounds.append([])
        if owner is None and phase.is_alone:
            owner = 1 + max((turn.owner for turn in self.rounds[place] if turn.owner is not None), default=-1)
        if phase.lane is not None and owner is not None:
            self._owners[place, phase.lane] = owner
        self.rounds[place].append(Turn(phase, owner))
        self._places.append((place, owner))
        for buffer in phase.buffers:
            (self._written_by if buffer in phase.writes else self._read_by).setdefault(buffer, []).append(number)

    def _before(self, phase: RenderedKernel) -> set[int]:
        """Return the phases that a phase waits for."""
        before = {other for buffer in phase.buffers for other in self._written_by.get(buffer, ())}
        before |= {other for buffer in phase.writes for other in self._read_by.get(buffer, ())}
        lane = phase.lane
        return before if lane is None else {one for one in before if not _are_beside(lane, self.phases[one].lane)}

    def _place(self, phase: RenderedKernel, before: set[int]) -> tuple[int, int | None]:
        """Return the round of a phase, and the owner of phases of that round that it follows, if any."""
        last = max((self._places[one][0] for one in before), default=-1)
        following = [one for one in before if self._places[one][0] == last]
        owners = {self._places[one][1] for one in following}
        # A lane goes on by itself: what prepares several of them is done before.
        is_led = phase.lane is None or all(self.phases[one].lane == phase.lane for one in following)
        if phase.is_alone and is_led and len(owners) == 1 and None not in owners:
            return last, owners.pop()
        return last + 1, None if phase.lane is None else self._owners.get((last + 1, phase.lane))


def _are_beside(one: Lane, other: Lane | None) -> bool:
    """Tell whether two lanes are different ones of one chain."""
    return other is not None and one.chain == other.chain and one.number != other.number
