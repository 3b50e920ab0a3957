"""The pass that postpones phases to later rounds, where what they write would lie about for long until it is read.

`make_rounds` does each phase as soon as it can be done. Of what a training step's backward pass needs, much can be done
in the forward pass already: panels of activations packed for the gradient of a weight, masks, slopes. All of it would
be in memory at once when the forward pass ends. A phase that is done right before its result is read keeps memory
small, and leaves the result in a cache.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from needle.compiler.loops import Buffer
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rounds import Turn

__all__ = ["postpone"]


def postpone(rounds: Sequence[Sequence[Turn]], outside: Container[Buffer]) -> list[list[Turn]]:
    """Return rounds in which phases come as late as saves memory.

    Args:
        rounds: what is done, and what of it side by side.
        outside: the buffers that belong to the caller, which take memory in any case.
    """
    planner = _Planner(rounds, outside)
    for number in range(len(rounds) - 1, -1, -1):
        for turn in reversed(rounds[number]):
            planner.place(turn, number)
    return [turns for turns in planner.rounds if turns]


class _Planner:
    """Places turns, the last one first."""

    def __init__(self, rounds: Sequence[Sequence[Turn]], outside: Container[Buffer]) -> None:
        self.rounds: list[list[Turn]] = [[] for _ in rounds]
        self.chains = [_is_chain(turns) for turns in rounds]
        self.outside = outside
        self.made_by: dict[Buffer, RenderedKernel] = {}  # the first phase that touches a buffer
        for turns in rounds:
            for turn in turns:
                for buffer in turn.phase.buffers:
                    self.made_by.setdefault(buffer, turn.phase)
        # Among the turns that have a place: the first that touches a buffer, that writes it, the last that touches it.
        self.first: dict[Buffer, int] = {}
        self.first_write: dict[Buffer, int] = {}
        self.last: dict[Buffer, int] = {}

    def place(self, turn: Turn, earliest: int) -> None:
        """Put a turn into the round in which it saves most memory: the one where it is, or the last possible one."""
        number = self._latest(turn.phase, earliest)
        if number > earliest and self._saved_bytes(turn.phase, earliest, number) > 0:
            turn = replace(turn, owner=self._owner(turn, number), team=None)
        else:
            number = earliest
        self.rounds[number].insert(0, turn)
        for buffer in turn.phase.buffers:
            self.first[buffer] = min(number, self.first.get(buffer, number))
            self.last[buffer] = max(number, self.last.get(buffer, number))
        for buffer in turn.phase.writes:
            self.first_write[buffer] = min(number, self.first_write.get(buffer, number))

    def _latest(self, phase: RenderedKernel, earliest: int) -> int:
        """Return the last round before those that wait for a phase; `earliest` where none does."""
        waiting = [self.first[buffer] for buffer in phase.writes if buffer in self.first]
        if not waiting or any(buffer in self.outside for buffer in phase.writes):
            return earliest
        waiting += [self.first_write[buffer] for buffer in phase.buffers if buffer in self.first_write]
        number = min(waiting) - 1
        # What threads share has no place in a round that is done by one, one phase after another.
        while number > earliest and not phase.is_alone and self.chains[number]:
            number -= 1
        return max(number, earliest)

    def _saved_bytes(self, phase: RenderedKernel, earliest: int, number: int) -> int:
        """Return what is saved in all rounds up to a later one, less what has to be kept until then to be read."""
        own = [buffer for buffer in phase.buffers if buffer not in self.outside]
        made = (buffer for buffer in own if self.made_by[buffer] is phase)
        saved = sum(map(_bytes, made)) * (number - earliest)
        for buffer in own:
            if buffer not in phase.writes:
                saved -= _bytes(buffer) * max(0, number - max(self.last.get(buffer, earliest), earliest))
        return saved

    def _owner(self, turn: Turn, number: int) -> int | None:
        """Return the chunk of a round that a turn becomes part of."""
        if turn.owner is None:
            return None
        owners = [other.owner for other in self.rounds[number] if other.owner is not None]
        if self.chains[number]:
            return owners[0] if owners else 0
        return max(owners, default=-1) + 1


def _is_chain(turns: Sequence[Turn]) -> bool:
    """Tell whether one thread does all turns, in order."""
    return len({turn.owner for turn in turns}) == 1 and turns[0].owner is not None


def _bytes(buffer: Buffer) -> int:
    return buffer.size * buffer.dtype.itemsize
