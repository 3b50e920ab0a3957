"""Which parts of a program run side by side: phases that touch nothing of each other's need not wait for each other.

A round is over when all its chunks are done, whoever did them; then the next one begins. Each phase is put into the
first round in which all that it waits for is done. A large phase falls into several chunks. A small one is part of one
chunk; where it waits for nothing but phases of one chunk it follows them in that chunk. So does a large one that reads
no other columns than those that a chunk of the phase before it has written: nobody waits between the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from needle.compiler.loops import Buffer
from needle.compiler.rendered import Lane, RenderedKernel

__all__ = ["Share", "Turn", "in_moments", "make_rounds", "order_of", "shares_of"]

# Chunks of so many operations (some 15 µs, much more than it takes to fetch another one) are divided further, into so
# many times as many.
_LONG_CHUNK, _FINER = 2_000_000, 8
# A byte of an operand that is beyond the second cache takes as long as so many operations.
_FAR_BYTE = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """A phase in a round, and the number of the chunk that it is part of; None where it falls into chunks itself.

    Phases of a round that have the same `team` follow each other in each of their chunks, band by band.
    """

    phase: RenderedKernel
    owner: int | None
    team: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Neighbouring chunks of a round, `count` of them: some parts of each phase, or a single one of whole phases."""

    phases: tuple[RenderedKernel, ...]
    count: int

    def parts_together(self, phase: RenderedKernel) -> int:
        """Return how many neighbouring parts of a phase stay in one chunk: those of a band, where others need it."""
        return phase.parts // phase.bands.count if len(self.phases) > 1 and phase.bands is not None else 1


def shares_of(turns: Sequence[Turn], most: int) -> list[Share]:
    """Return the chunks of a round: phases that threads share in up to `most`, or in more of them where each is long.

    The end of a round is waited for as long as its last chunk takes. So chains, which cannot be divided, come first,
    and then phases in few chunks, and those whose chunks are longer.
    """
    shared: dict[int, list[RenderedKernel]] = {}
    owned: dict[int, list[RenderedKernel]] = {}
    for number, turn in enumerate(turns):
        if turn.owner is None:
            # A turn without a team is one by itself.
            shared.setdefault(-1 - number if turn.team is None else turn.team, []).append(turn.phase)
        else:
            owned.setdefault(turn.owner, []).append(turn.phase)
    shares = [Share(tuple(phases), _count_chunks(phases, most)) for phases in shared.values()]
    chains = [Share(tuple(phases), 1) for phases in owned.values()]
    long = [chain for chain in chains if sum(phase.work for phase in chain.phases) > _LONG_CHUNK]
    shares.sort(key=_chunk_length, reverse=True)
    return [*long, *shares, *(chain for chain in chains if chain not in long)]


def order_of(shares: Sequence[Share], threads: int) -> list[int]:
    """Return the numbers of a round's chunks in the order in which they are taken.

    Each thread starts from a place of its own. From there on it finds a piece of everything, the longest chunks first,
    so that short ones are left for the end.
    """
    groups: list[list[int]] = []
    first, after_single = 0, False
    for share in shares:
        if share.count != 1 or not after_single:
            groups.append([])
        groups[-1] += range(first, first + share.count)
        first, after_single = first + share.count, share.count == 1
    pieces = ((group, thread) for thread in range(threads) for group in groups)
    return [
        number
        for group, thread in pieces
        for number in group[len(group) * thread // threads : len(group) * (thread + 1) // threads]
    ]


def _chunk_length(share: Share) -> float:
    """Return about how long a chunk takes, in operations; nobody knows where operands are streamed, but it is long."""
    return math.inf if share.phases[0].is_streamed else sum(map(_length, share.phases)) / share.count


def _length(phase: RenderedKernel) -> int:
    """Return about how long a phase takes, in operations: where each reads or writes much, memory counts."""
    size = sum(buffer.size * buffer.dtype.itemsize for buffer in phase.buffers)
    return max(phase.work, _FAR_BYTE * min(phase.work, size))


def _count_chunks(phases: Sequence[RenderedKernel], most: int) -> int:
    """Return into how many chunks the phases of a team fall."""
    first, bands = phases[0], phases[0].bands
    parts = first.parts if bands is None or len(phases) == 1 else bands.count
    wanted = min(_length(first) // _LONG_CHUNK, _FINER * most)
    if wanted > most:
        return -(-parts // max(1, parts // wanted))
    least = most // 2 if first.is_streamed else most
    return -(-parts // -(-parts // least))


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
    """Who uses a buffer: of each lane the last round in which it does, and the crews there."""

    def __init__(self) -> None:
        self.last: dict[Lane | None, tuple[int, set[int]]] = {}

    def add(self, lane: Lane | None, place: int, crew: int) -> None:
        """Note a use."""
        latest, crews = self.last.get(lane, (-1, set()))
        if place > latest:
            self.last[lane] = place, {crew}
        elif place == latest:
            crews.add(crew)


class _Planner:
    """Puts phases into rounds, in order.

    What does a phase is its crew: the number of a chunk that is done in order, from 0 on, or below 0 a team.
    """

    def __init__(self) -> None:
        self.rounds: list[list[Turn]] = []
        self._writers: dict[Buffer, _Users] = {}
        self._readers: dict[Buffer, _Users] = {}
        self._owners: dict[tuple[int, Lane], int] = {}  # of the lanes in each round
        self._next_owner: dict[int, int] = {}
        self._teams: dict[int, list[list[RenderedKernel]]] = {}  # of each round

    def add(self, phase: RenderedKernel) -> None:
        """Put the next phase into the first round that it may be in."""
        place, crew = self._place(phase)
        while len(self.rounds) <= place:
            self.rounds.append([])
        if crew is None:
            crew = self._new_crew(phase, place)
        if crew < 0:
            self._teams[place][-1 - crew].append(phase)
        elif phase.lane is not None:
            self._owners[place, phase.lane] = crew
        self.rounds[place].append(Turn(phase, crew) if crew >= 0 else Turn(phase, None, -1 - crew))
        for buffer in phase.buffers:
            users = (self._writers if buffer in phase.writes else self._readers).setdefault(buffer, _Users())
            users.add(phase.lane, place, crew)

    def _new_crew(self, phase: RenderedKernel, place: int) -> int:
        if phase.is_alone:
            crew = self._next_owner.get(place, 0)
            self._next_owner[place] = crew + 1
            return crew
        teams = self._teams.setdefault(place, [])
        teams.append([])
        return -len(teams)

    def _place(self, phase: RenderedKernel) -> tuple[int, int | None]:
        """Return the round of a phase, and the crew of phases of that round that it follows, if any."""
        last, crews, lanes = -1, set[int](), set[Lane | None]()
        for lane, (place, found) in self._before(phase):
            if place > last:
                last, crews, lanes = place, set(), set()
            if place == last:
                crews |= found
                lanes.add(lane)
        # A lane goes on by itself: what prepares several of them is done before.
        is_led = phase.lane is None or lanes == {phase.lane}
        if is_led and len(crews) == 1:
            (crew,) = crews
            if phase.is_alone if crew >= 0 else all(_go_together(one, phase) for one in self._teams[last][-1 - crew]):
                return last, crew
        return last + 1, None if phase.lane is None else self._owners.get((last + 1, phase.lane))

    def _before(self, phase: RenderedKernel) -> Iterator[tuple[Lane | None, tuple[int, set[int]]]]:
        """Yield the uses of buffers that a phase waits for."""
        tables = [(self._writers, phase.buffers), (self._readers, phase.writes)]
        for users, buffers in tables:
            for buffer in buffers:
                if buffer in users:
                    for lane, use in users[buffer].last.items():
                        if phase.lane is None or not _are_beside(phase.lane, lane):
                            yield lane, use


def _go_together(one: RenderedKernel, other: RenderedKernel) -> bool:
    """Tell whether a phase may follow another band by band: what one writes, both touch in the band's columns only."""
    if one.bands is None or one.bands != other.bands:
        return False
    touched = {*one.writes}.intersection(other.buffers) | {*other.writes}.intersection(one.buffers)
    return touched <= one.in_bands & other.in_bands


def _are_beside(one: Lane, other: Lane | None) -> bool:
    """Tell whether two lanes are different ones of one chain."""
    return other is not None and one.chain == other.chain and one.number != other.number
