"""Which parts of a program run side by side: phases that touch nothing of each other's need not wait for each other.

A round is over when all its chunks are done, whoever did them; then the next one begins. Each phase is put into the
first round in which all that it waits for is done. A large phase falls into several chunks. A small one is part of one
chunk; where it waits for nothing but phases of one chunk it follows them in that chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from needle.compiler.loops import Buffer
from needle.compiler.render import Lane, RenderedKernel

__all__ = ["Share", "Turn", "in_moments", "make_rounds", "shares_of"]

# Chunks of so many operations (some 15 µs, much more than it takes to fetch another one) are divided further, into so
# many times as many.
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
            least = most // 2 if turn.phase.is_streamed else most
            count = max(least, min(turn.phase.work // _LONG_CHUNK, _FINER * most))
            parts_each = -(-turn.phase.parts // count)
            shares.append(Share((turn.phase,), -(-turn.phase.parts // parts_each)))
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
    planner = _Planner()
    for phase in phases:
        planner.add(phase)
    return planner.rounds


class _Users:
    """Who uses a buffer: of each lane the last round in which it does, and the owners there."""

    def __init__(self) -> None:
        self.last: dict[Lane | None, tuple[int, set[int | None]]] = {}

    def add(self, lane: Lane | None, place: int, owner: int | None) -> None:
        """Note a use."""
        latest, owners = self.last.get(lane, (-1, set()))
        if place > latest:
            self.last[lane] = place, {owner}
        elif place == latest:
            owners.add(owner)


class _Planner:
    """Puts phases into rounds, in order."""

    def __init__(self) -> None:
        self.rounds: list[list[Turn]] = []
        self._writers: dict[Buffer, _Users] = {}
        self._readers: dict[Buffer, _Users] = {}
        self._owners: dict[tuple[int, Lane], int] = {}  # of the lanes in each round
        self._next_owner: dict[int, int] = {}

    def add(self, phase: RenderedKernel) -> None:
        """Put the next phase into the first round that it may be in."""
        place, owner = self._place(phase)
        while len(self.rounds) <= place:
            self.rounds.append([])
        if owner is None and phase.is_alone:
            owner = self._next_owner.get(place, 0)
            self._next_owner[place] = owner + 1
        if phase.lane is not None and owner is not None:
            self._owners[place, phase.lane] = owner
        self.rounds[place].append(Turn(phase, owner))
        for buffer in phase.buffers:
            users = (self._writers if buffer in phase.writes else self._readers).setdefault(buffer, _Users())
            users.add(phase.lane, place, owner)

    def _place(self, phase: RenderedKernel) -> tuple[int, int | None]:
        """Return the round of a phase, and the owner of phases of that round that it follows, if any."""
        last, owners, lanes = -1, set[int | None](), set[Lane | None]()
        for lane, (place, found) in self._before(phase):
            if place > last:
                last, owners, lanes = place, set(), set()
            if place == last:
                owners |= found
                lanes.add(lane)
        # A lane goes on by itself: what prepares several of them is done before.
        is_led = phase.lane is None or lanes == {phase.lane}
        if phase.is_alone and is_led and len(owners) == 1 and None not in owners:
            return last, owners.pop()
        return last + 1, None if phase.lane is None else self._owners.get((last + 1, phase.lane))

    def _before(self, phase: RenderedKernel) -> Iterator[tuple[Lane | None, tuple[int, set[int | None]]]]:
        """Yield the uses of buffers that a phase waits for."""
        tables = [(self._writers, phase.buffers), (self._readers, phase.writes)]
        for users, buffers in tables:
            for buffer in buffers:
                if buffer in users:
                    for lane, use in users[buffer].last.items():
                        if phase.lane is None or not _are_beside(phase.lane, lane):
                            yield lane, use


def _are_beside(one: Lane, other: Lane | None) -> bool:
    """Tell whether two lanes are different ones of one chain."""
    return other is not None and one.chain == other.chain and one.number != other.number
