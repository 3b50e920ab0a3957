"""The code of rounds: a function that goes through all of them, and what is done for a chunk of each.

Where buffers lie is data and not code: a table of each round holds it. So rounds that differ in nothing else have one
function, and phases that follow each other in one chunk are called by a loop: the steps of a loop that was unrolled,
the layers of a model. LLVM's time grows with the number of different kernels, not with the length of the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from needle.compiler.clock_code import clock_code
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer
from needle.compiler.memory import Arena
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rounds import Share, Turn, order_of, shares_of
from needle.compiler.thread_count import available_processors

__all__ = ["RoundCode", "render_rounds"]

# How often a waiting thread looks before it lets the operating system run another one.
_SPINS_BEFORE_YIELD = 1000
# So many phases in one chunk are called by a loop.
_LONG_CHAIN = 6


@dataclass(frozen=True, slots=True)
class RoundCode:
    """The functions, `program` among them, what stands before them, and the bytes that are 0 at the start.

    The last of those bytes count the time that each of the `timed` steps took, in nanoseconds of all threads together.
    """

    functions: list[Function]
    text: str
    control_bytes: int
    timed: tuple[str, ...] = ()


def render_rounds(
    rounds: Sequence[Sequence[Turn]], outside: Sequence[Buffer], arena: Arena, host: Host, is_timed: bool = False
) -> RoundCode:
    """Write the code of a program's rounds.

    Args:
        rounds: what is done, and what of it side by side.
        outside: the buffers whose addresses the caller gives, in the order of `arrays`.
        arena: where all others lie.
        host: the processor.
        is_timed: whether the time that each phase takes is counted.
    """
    shares = [shares_of(turns, 2 * available_processors()) for turns in rounds]
    control_bytes = sum(map(_control_bytes, shares))
    writer = _Writer(outside, arena, arena.size + control_bytes if is_timed else None)
    for number, of_round in enumerate(shares):
        writer.add(number, of_round)
    program = writer.program(len(rounds))
    share = _SHARE.format(spins=_SPINS_BEFORE_YIELD, pause=host.pause)
    clock = clock_code() if is_timed else ""
    text = "\n".join([*writer.tables, "", share, clock])
    control_bytes += _COUNTER_BYTES * len(writer.timed)
    return RoundCode([*writer.functions.values(), program], text, control_bytes, tuple(writer.timed))


class _Writer:
    """Writes rounds, functions that are equal once; the time of each phase is added up from `counters` on, if given."""

    def __init__(self, outside: Sequence[Buffer], arena: Arena, counters: int | None) -> None:
        self.numbers = {buffer: number for number, buffer in enumerate(outside)}
        self.arena = arena
        self.counters = counters
        self.timed: list[str] = []
        self.control = arena.size
        self.functions: dict[str, Function] = {}
        self.tables: list[str] = []
        self.rows: list[str] = []

    def add(self, number: int, shares: Sequence[Share]) -> None:
        """Write a round: the function that does one of its chunks, its table, and its row in the table of rounds."""
        f = Function(f"round{number}", ["ptr %arrays", "ptr %arena", "ptr %table", "i64 %chunk"], "nounwind #0")
        order = order_of(shares, available_processors())
        number_of, places = SSA("%chunk", "i64"), list[int]()
        if order != sorted(order):
            places += order
            number_of = f.load("i64", f.address("%table", "i64", number_of), 8)
        first = 0
        for share in shares:
            chunk = f.binary("sub", number_of, f.integer(first))
            # As a number without sign, that of a chunk before these is far above all.
            with f.when(f.compare("ult", chunk, f.integer(share.count))):
                if share.count == 1 and len(share.phases) >= _LONG_CHAIN:
                    self._chain(f, f"{f.name}_chain{first}", share.phases, places)
                else:
                    for phase in share.phases:
                        self._call(f, phase, chunk, share, places)
            first += share.count
        values = ", ".join(f"i64 {place}" for place in places or [0])
        self.tables.append(f"@table{number} = internal constant [{max(len(places), 1)} x i64] [{values}]")
        known = self._known(f).name
        self.rows.append(f"{_ROW} {{ i64 {first}, ptr @{known}, ptr @table{number}, i64 {self.control} }}")
        self.control += _control_bytes(shares)

    def _known(self, f: Function) -> Function:
        """Return a function of the same text, where there is one already."""
        return self.functions.setdefault(f.text().replace(f"@{f.name}(", "@("), f)

    def _call(self, f: Function, phase: RenderedKernel, chunk: SSA, share: Share, places: list[int]) -> None:
        """Write the call that does one of a share's chunks of a phase."""
        arguments = [str(self._pointer(f, buffer, phase, places)) for buffer in phase.buffers]
        together = share.parts_together(phase)
        bounds = [str(_bound(f, chunk, phase.parts, together, share.count, more)) for more in (0, 1)]
        with self._timed(f, phase, places):
            f.do(f"call void @{phase.function.name}({', '.join([*arguments, *bounds])})")

    @contextmanager
    def _timed(self, f: Function, phase: RenderedKernel, places: list[int]) -> Iterator[None]:
        """Write what adds the time that a call takes to its phase's counter, where phases are timed."""
        if self.counters is None:
            yield
            return
        counter = _entry(f, self.counters + _COUNTER_BYTES * len(self.timed), places)
        self.timed.append(phase.step)
        start = f.emit("i64", "call i64 @now()")
        yield
        taken = f.binary("sub", f.emit("i64", "call i64 @now()"), start)
        f.do(f"atomicrmw add {f.address('%arena', 'i8', counter)}, {taken} monotonic, align 8")

    def _pointer(self, f: Function, buffer: Buffer, phase: RenderedKernel, places: list[int]) -> SSA:
        """Write what finds a buffer by the table, and add to that where the buffer is."""
        begin = phase.begins.get(buffer, 0) * buffer.dtype.itemsize
        if buffer not in self.numbers:
            return f.address("%arena", "i8", _entry(f, self.arena.offsets[buffer] + begin, places))
        number = _entry(f, self.numbers[buffer], places)
        array = f.load("ptr", f.address("%arrays", "ptr", number), 8)
        return f.address(array.name, "i8", _entry(f, begin, places))

    def _chain(self, f: Function, name: str, phases: Sequence[RenderedKernel], places: list[int]) -> None:
        """Write a loop over phases that follow each other: each has a function that finds its buffers, and a place in
        the round's table from which on it reads.
        """
        rows = []
        for number, phase in enumerate(phases):
            piece = Function(f"{name}_{number}", ["ptr %arrays", "ptr %arena", "ptr %table"], "nounwind #0")
            own: list[int] = []
            self._call(piece, phase, SSA("0", "i64"), Share((phase,), 1), own)
            rows.append(f"{_LINK} {{ ptr @{self._known(piece).name}, i64 {len(places)} }}")
            places.extend(own)
        self.tables.append(f"@{name} = internal constant [{len(rows)} x {_LINK}] [{', '.join(rows)}]")
        with f.loop(f.integer(0), f.integer(len(rows))) as link:
            row = f.address(f"@{name}", _LINK, link)
            work = f.load("ptr", row, 8)
            place = f.load("i64", f.address(row.name, "i64", f.integer(1)), 8)
            table = f.address("%table", "i64", place)
            f.do(f"call void {work.name}(ptr %arrays, ptr %arena, {table})")

    def program(self, count: int) -> Function:
        """Write the function that goes through all rounds, as the table `@rounds` says."""
        content = f"[{', '.join(self.rows)}]" if count else "zeroinitializer"
        self.tables.append(f"@rounds = internal constant [{count} x {_ROW}] {content}")
        f = Function("program", ["ptr %arrays", "ptr %arena", "i64 %thread", "i64 %threads"], "nounwind #0", linkage="")
        with f.loop(f.integer(0), f.integer(count)) as number:
            row = f.address("@rounds", _ROW, number)
            chunks = f.load("i64", row, 8)
            work, table = (f.load("ptr", f.address(row.name, "ptr", f.integer(place)), 8) for place in (1, 2))
            place = f.load("i64", f.address(row.name, "i64", f.integer(3)), 8)
            control = f.address("%arena", "i8", place)
            arguments = f"{control}, {chunks}, i64 %thread, i64 %threads, {work}, {table}, ptr %arrays, ptr %arena"
            f.do(f"call void @share({arguments})")
        return f


def _control_bytes(shares: Sequence[Share]) -> int:
    """Return what a round needs while it runs: how many chunks are done, and from 64 bytes on whether each is taken."""
    chunks = sum(share.count for share in shares)
    return 64 + -(-4 * chunks // 64) * 64


def _entry(f: Function, value: int, places: list[int]) -> SSA:
    """Write the load of the next number of the table, which is this."""
    places.append(value)
    return f.load("i64", f.address("%table", "i64", f.integer(len(places) - 1)), 8)


def _bound(f: Function, number: SSA, parts: int, together: int, count: int, more: int) -> SSA:  # noqa: PLR0917
    """Return where the parts of a chunk, and `more` chunks, begin: spread evenly, some parts always together."""
    if count == 1:
        return f.integer(parts * more)
    scaled = f.binary("mul", f.binary("add", number, f.integer(more)), f.integer(parts // together))
    begin = f.binary("udiv", scaled, f.integer(count))
    return begin if together == 1 else f.binary("mul", begin, f.integer(together))


# A row of the table of rounds: how many chunks there are, the function that does one, the table that it reads, and
# where in the arena the round's control is.
_ROW = "{ i64, ptr, ptr, i64 }"
# A link of a chain: a function, and where its part of the round's table begins.
_LINK = "{ ptr, i64 }"

# A phase's time, in nanoseconds.
_COUNTER_BYTES = 8

# A thread takes the chunks that nobody has taken, starting from those that are its own by number, and then waits until
# all are done. So no thread ever waits for one that has nothing in hand, such as one that the system has put to sleep.
_SHARE = """declare i32 @sched_yield()

define internal void @share(ptr %round, i64 %chunks, i64 %thread, i64 %threads,
                            ptr %work, ptr %table, ptr %arrays, ptr %arena) nounwind noinline {{
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %one, label %begin
one:
  %n = phi i64 [ 0, %entry ], [ %n1, %one ]
  call void %work(ptr %arrays, ptr %arena, ptr %table, i64 %n)
  %n1 = add i64 %n, 1
  %left = icmp ult i64 %n1, %chunks
  br i1 %left, label %one, label %over
begin:
  %all = trunc i64 %chunks to i32
  %already = load atomic i32, ptr %round acquire, align 4
  %finished = icmp eq i32 %already, %all
  br i1 %finished, label %over, label %mine
mine:
  %flags = getelementptr i8, ptr %round, i64 64
  %scaled = mul i64 %thread, %chunks
  %start = udiv i64 %scaled, %threads
  %single = icmp eq i64 %chunks, 1
  %other = icmp ne i64 %thread, 0
  %leave = and i1 %single, %other
  br i1 %leave, label %wait, label %try
try:
  %i = phi i64 [ 0, %mine ], [ %i1, %next ]
  %sum = add i64 %start, %i
  %over_end = icmp uge i64 %sum, %chunks
  %wrapped = sub i64 %sum, %chunks
  %chunk = select i1 %over_end, i64 %wrapped, i64 %sum
  %flag = getelementptr i32, ptr %flags, i64 %chunk
  %seen = load atomic i32, ptr %flag monotonic, align 4
  %free = icmp eq i32 %seen, 0
  br i1 %free, label %take, label %next
take:
  %before = atomicrmw xchg ptr %flag, i32 1 acq_rel, align 4
  %got = icmp eq i32 %before, 0
  br i1 %got, label %do, label %next
do:
  call void %work(ptr %arrays, ptr %arena, ptr %table, i64 %chunk)
  %count = atomicrmw add ptr %round, i32 1 release, align 4
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %chunks
  br i1 %more, label %try, label %wait
wait:
  %spins = phi i64 [ 0, %mine ], [ 0, %next ], [ %spins1, %look ], [ 0, %give ]
  %done = load atomic i32, ptr %round acquire, align 4
  %complete = icmp eq i32 %done, %all
  br i1 %complete, label %over, label %look
look:
  {pause}
  %spins1 = add i64 %spins, 1
  %long = icmp ugt i64 %spins1, {spins}
  br i1 %long, label %give, label %wait
give:
  %ignored = call i32 @sched_yield()
  br label %wait
over:
  ret void
}}"""
