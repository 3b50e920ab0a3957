"""`ndl.jit`: a function of Tensors, traced once and run as one native program from then on."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

from needle import tracing
from needle.compiler.user_code import warn_user
from needle.errors import NonFiniteError, SettingError
from needle.jit import finite
from needle.jit.arguments import describe_difference, flatten, key_of, keywords_key
from needle.jit.comparison import check_finite, compare_with_eager, error_within_loop
from needle.jit.finite import is_watching
from needle.jit.follow import trace_call
from needle.jit.forms import form_of
from needle.jit.lowered import Lowered
from needle.jit.program import CompiledCall

__all__ = ["CacheInfo", "JitFunction", "disabled", "jit"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
# A function that is traced more often than this for the same form of arguments is told to have a problem.
_MANY_TRACES = 8
_local = threading.local()
# How many `disabled` blocks are entered, in all threads. A glance at it is cheaper than at the thread's own setting.
_disabling = 0
_counting = threading.Lock()
# The table under os.environ, where there is one: a name that is not in there is found missing ten times sooner.
_environment: Any = getattr(os.environ, "_data", os.environ)
_SWITCH, _DEBUG = (
    os.environ.encodekey(name) if _environment is not os.environ else name for name in ("NEEDLE_JIT", "NEEDLE_DEBUG")
)


class CacheInfo(NamedTuple):
    """How often a compiled function was called, traced, and why again.

    Fields: `calls`; `traces`; `programs`, how many are kept; `seconds`, spent compiling; `reasons`, one line for each
    trace after the first.
    """

    calls: int
    traces: int
    programs: int
    seconds: float
    reasons: tuple[str, ...]


@contextmanager
def disabled() -> Iterator[None]:
    """Run compiled functions as plain Python inside the block, in this thread."""
    global _disabling  # noqa: PLW0603  a count of the process
    before = getattr(_local, "disabled", False)
    _local.disabled = True
    with _counting:
        _disabling += 1
    try:
        yield
    finally:
        _local.disabled = before
        with _counting:
            _disabling -= 1


def _may_compile() -> bool:
    """Tell whether a call inside of something that is followed is compiled: not in a trace, where it is inlined."""
    return tracing.recorder() is None or is_watching()


def _is_disabled() -> bool:
    if _disabling and getattr(_local, "disabled", False):
        return True
    return _SWITCH in _environment and os.environ.get("NEEDLE_JIT") == "0"


class JitFunction(Generic[_P, _R]):
    """A function that is compiled when it is called: see `jit`."""

    def __init__(self, fn: Callable[_P, _R], static: Sequence[str | int] = (), check: int = 0) -> None:
        _check_function(fn)
        if int(check) != check or check < 0:
            raise SettingError(f"jit: check is how many first calls also run eagerly, 0 or more; got {check!r}")
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.__name__: str = getattr(fn, "__name__", type(fn).__name__)
        self.static = _static_names(fn, static)
        self.check = check
        self._programs: dict[Any, list[CompiledCall]] = {}
        self._objects: dict[Any, list[Any]] = {}
        self._lock = threading.RLock()
        self._calls = 0
        self._traces = 0
        self._seconds = 0.0
        self._reasons: list[str] = []
        self._last: CompiledCall | None = None
        self._last_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._warned = False

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the program for these arguments, tracing and compiling first where there is none."""
        if (_DEBUG in _environment) is not finite.from_environment:
            finite.watch_from_environment()
        if (tracing.active or _disabling or _SWITCH in _environment) and (not _may_compile() or _is_disabled()):
            return self.fn(*args, **kwargs)
        self._last_call = args, kwargs
        leaves: list[Any] = []
        program = self._last
        if program is None or kwargs or tracing.active or not program.serves(args, leaves):
            leaves = []
            program = self._prepared(args, kwargs, leaves)
            self._last = program
        self._calls += 1
        recorder = program.recorder
        try:
            checks = self._calls <= self.check
            result = compare_with_eager(program, self.fn, args, kwargs, leaves) if checks else program(leaves)
        except BaseException as failure:
            if recorder.creations:  # the program writes to state that is not there any more
                recorder.undo_creations()
                self._forget(program)
            if recorder.loops and isinstance(failure, NonFiniteError):
                raise error_within_loop(program, self.fn, args, kwargs, leaves) or failure from None
            raise
        if recorder.creations:
            recorder.creations.clear()
        return result

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance, as a method does."""
        return self if instance is None else functools.partial(self, instance)

    def _forget(self, program: CompiledCall) -> None:
        program.form = None
        for key, programs in list(self._programs.items()):
            if program in programs:
                programs.remove(program)
                if not programs:
                    del self._programs[key], self._objects[key]

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any]) -> CompiledCall:
        """Return the program for a call, traced now where there is none; its Tensors and arrays go into `leaves`."""
        objects: list[Any] = []
        key = self._key(args, kwargs, leaves, objects)
        if tracing.active and is_watching():
            key = (*key, keywords_key([("debug_nan", ("static", bool, True))]))
        program = self._program(key, leaves)
        return self._trace(key, args, kwargs, leaves, objects) if program is None else program

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], objects: list[Any]) -> Any:
        if self.static:
            return self._key_with_static(args, kwargs, leaves, objects)
        parts = [key_of(one, leaves, objects) for one in args]
        if kwargs:
            parts.append(keywords_key((name, key_of(kwargs[name], leaves, objects)) for name in kwargs))
        return tuple(parts)

    def _key_with_static(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], objects: list[Any]
    ) -> Any:
        try:
            bound = inspect.signature(self.fn).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}: {error}") from None
        parts: list[Any] = []
        for name, value in bound.arguments.items():
            if name not in self.static:
                parts.append((name, key_of(value, leaves, objects)))
                continue
            try:
                hash(value)
            except TypeError:
                raise SettingError(
                    f"{self.__name__}: the static argument {name} is compared by value, so it must be hashable, "
                    f"and {type(value).__name__} is not: pass a tuple, or leave it out of static="
                ) from None
            if flatten(value):
                raise SettingError(
                    f"{self.__name__}: the static argument {name} holds a Tensor or an array, which are not compared "
                    "by value: leave it out of static="
                )
            parts.append((name, ("static", type(value), value)))
        return (keywords_key(parts),)

    def _program(self, key: Any, leaves: list[Any]) -> CompiledCall | None:
        """Return the program for a call, None where none fits; the one used last is tried first."""
        programs = self._programs.get(key)
        if programs is None:
            if self._programs:
                where, old, new = describe_difference(next(reversed(self._programs)), key, _parameters(self.fn))
                self._note(f"{where}: {old}, now {new}")
            return None
        for number, program in enumerate(programs):
            mismatch = program.mismatch(leaves)
            if mismatch is None:
                if number:
                    programs.insert(0, programs.pop(number))
                return program
            if number == 0:
                first = mismatch
        self._note("{}: {!r}, now {!r}".format(*first))
        return None

    def _note(self, reason: str) -> None:
        self._reasons.append(reason)
        if len(self._reasons) >= _MANY_TRACES and not self._warned:
            self._warned = True
            warn_user(
                f"{self.__name__} has been traced {len(self._reasons) + 1} times; the last time because of "
                f"{reason}. Tracing costs far more than a call: pass what changes as a Tensor "
                "(explain() lists the reasons)"
            )

    def _trace(
        self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Any], objects: list[Any]
    ) -> CompiledCall:
        with self._lock:
            watched = is_watching()
            program = trace_call(self.fn, args, kwargs, leaves, overwrite=not watched)
            program.look = check_finite if watched else None
            program.form = None if watched or kwargs or self.static else form_of(args)
            self._traces += 1
            self._seconds += program.seconds
            self._programs.setdefault(key, []).insert(0, program)
            self._objects[key] = objects  # kept alive: their ids are in the key
            return program

    # ------------------------------------------------------------------------------------------ looking at it

    def cache_info(self) -> CacheInfo:
        """Return how often the function was called and traced, and why."""
        kept = sum(map(len, self._programs.values()))
        return CacheInfo(self._calls, self._traces, kept, self._seconds, tuple(self._reasons))

    def explain(self) -> str:
        """Return, a line each, why the function was traced again: what had changed, its old and its new value."""
        if not self._reasons:
            return f"{self.__name__}: " + ("traced once; every call fits" if self._traces else "not traced yet")
        return "\n".join(f"trace {number}: {reason}" for number, reason in enumerate(self._reasons, 2))

    def replay(self) -> Any:
        """Make the last call again as plain Python, to step through it with a debugger.

        A call that failed has left all state as it was, so that this is the same call. After one that went well it is
        the next one with the same arguments.

        Raises:
            SettingError: there was no call.
        """
        if self._last_call is None:
            raise SettingError(f"{self.__name__}.replay: there was no call yet")
        args, kwargs = self._last_call
        return self.fn(*args, **kwargs)

    @property
    def last_program(self) -> CompiledCall | None:
        """The program of the last call, None where there was no call."""
        return self._last

    def lower(self, *args: _P.args, **kwargs: _P.kwargs) -> Lowered:
        """Return the program for these arguments without running it, to look at: see `Lowered`.

        State that the function makes when it runs first, such as an optimizer's moments, is there afterwards, at 0.
        """
        leaves: list[Any] = []
        return Lowered(self._prepared(args, kwargs, leaves), leaves)

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}: {self._traces} traces, {self._calls} calls>"


def _check_function(fn: Any) -> None:
    """Refuse what a program cannot be made of.

    Raises:
        SettingError: it is no function, or one that does not run when it is called.
    """
    code = getattr(fn, "forward", fn)
    if not callable(fn):
        raise SettingError(f"jit: compiles a function, a method or a module; got {type(fn).__name__}")
    if inspect.isclass(fn):
        raise SettingError(
            f"jit: compiles functions and modules, and {fn.__name__} is a class: compile a method, or an instance"
        )
    if inspect.isgeneratorfunction(code) or inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        raise SettingError(
            f"jit: {getattr(fn, '__name__', type(fn).__name__)} is a generator or a coroutine, which has not run yet "
            "when its call returns: compile a function that returns its results"
        )


def _parameters(fn: Any) -> list[str]:
    """Return the names of a function's positional parameters; none where it tells nobody."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]


def _static_names(fn: Callable[..., Any], static: Sequence[str | int]) -> frozenset[str]:
    if not static:
        return frozenset()
    names = list(inspect.signature(fn).parameters)
    listed = (static,) if isinstance(static, (str, int)) else tuple(static)
    chosen = set()
    for one in listed:
        known = one in names if isinstance(one, str) else 0 <= one < len(names)
        if not known:
            raise SettingError(f"jit: static names no argument of {fn.__name__}: {one!r}; it has {', '.join(names)}")
        chosen.add(one if isinstance(one, str) else names[one])
    return frozenset(chosen)


@overload
def jit(fn: Callable[_P, _R]) -> JitFunction[_P, _R]: ...


@overload
def jit(*, static: Sequence[str | int] = (), check: int = 0) -> Callable[[Callable[_P, _R]], JitFunction[_P, _R]]: ...


def jit(fn: Any = None, *, static: Sequence[str | int] = (), check: int = 0) -> Any:
    """Compile a function of Tensors: it is followed once, and run as one native program from then on.

    Everything that a training step does is in the program: forward, `backward`, the optimizer's step, running
    statistics. Tensors that the function uses from outside (parameters, moments) are found by following it and need
    not be passed; they are updated in place where nobody else holds their arrays.

    What the compiled function does in each call, and the plain function does too: random draws, from the same generator
    in the same order; the optimizer's count of steps; hyperparameters and schedules are read anew. Any other side
    effect of Python (printing, appending, counting) happens only while the function is followed, and is warned of where
    the function itself reads what it changes. What it returns has no graph: `backward` belongs inside, and is an error
    outside, unless it goes by `.detach()`.

    It is followed again where the answer may change: for arguments of another nesting, shape or dtype, for another
    value of an argument that is no Tensor, in another mode (`train`, `eval`, `no_grad`), where a layer, a variable or
    a setting in an object of yours that it uses was changed. `cache_info()` counts, `explain()` tells why,
    `lower(*args)` shows the program, `replay()` makes the last call again without compiling.

    Args:
        fn: takes and returns Tensors, arrays, and tuples, lists and dicts of them; any other argument is a constant of
            the program. A function, a method, or a module.
        static: names or positions of arguments that are compared by `==`, such as a configuration.
        check: how many first calls also run eagerly, to compare results, gradients, state and draws.

    Raises:
        TraceError: when called: the function looks at values (`if x > 0`, `float(x)`, `x.numpy()`), or keeps a Tensor
            outside. The message names the line. All state is as before.
        CompileError: when called: with `check`, a call that differs from the eager one.
        SettingError: `static` names no argument, or one that is not hashable.

    `NEEDLE_JIT=0` in the environment (looked up in each call), or `with ndl.jit.disabled():`, makes every compiled
    function a plain one again, to be stepped through.

    Example:
        >>> import needle as ndl
        >>> w = ndl.Tensor([1.0, 2.0])
        >>> opt = ndl.optim.SGD([w], lr=0.1)
        >>> @ndl.jit
        ... def step(x):
        ...     opt.reset_grad()
        ...     loss = (w * x).sum()
        ...     loss.backward()
        ...     opt.step()
        ...     return loss
        >>> step(ndl.Tensor([1.0, 1.0])), step(ndl.Tensor([1.0, 1.0]))
        (needle.Tensor(3.0), needle.Tensor(2.8))
        >>> w
        needle.Tensor([0.8 1.8])
    """
    if fn is None:
        return functools.partial(jit, static=static, check=check)
    return JitFunction(fn, static, check)


jit.disabled = disabled  # type: ignore[attr-defined]
