"""Loss scaling: keeps small gradients of float16 from vanishing, and steps out of the way of those that overflow."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from functools import partial, reduce
from operator import and_
from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.device import Array, array_namespace
from needle.dtype import bool_, float32, int32, is_narrow
from needle.errors import CheckpointError, DTypeError, GradientError, SettingError
from needle.ops import multiply
from needle.optim import clipping
from needle.optim.optimizer import Optimizer
from needle.tracing import Recorder, guard, host_effect, made_state, recorder

__all__ = ["GradScaler"]

# Beyond these a scale helps nobody, and would itself overflow or vanish.
_SMALLEST, _LARGEST = 2.0**-24, 2.0**24


class GradScaler:
    """Scales losses, so that gradients in float16 are neither too small nor too large, and finds the scale by itself.

    Formula::

        g ← (∂(s · loss)/∂θ) / s
        where every g is finite:  step;  s ← growth · s after `interval` such steps in a row
        otherwise:                no step;  s ← backoff · s

    Several optimizers that step after one loss share one s: each steps with `update=False`, then `update` adjusts it.
    Written without a branch on values, so that it can be compiled: see `Optimizer.step_if`. A step that is left out
    counts in the optimizer's `t`, and for its schedules.

    Args:
        scale: s to begin with.
        growth: what s is multiplied by after `interval` good steps, above 1.
        backoff: what s is multiplied by where a gradient is not finite, between 0 and 1.
        interval: how many good steps in a row make s grow.
        enabled: False makes `scale` and `step` do nothing of their own, for the same code without scaling: every step
            is made.

    State:
        scale_factor: s, float32, a Tensor of no axes.
        good_steps: how many good steps there were in a row, int32, a Tensor of no axes.

    Raises:
        SettingError: an argument outside of its range.

    Example:
        >>> import needle as ndl
        >>> w = ndl.Tensor([2.0], dtype="float32")
        >>> opt, scaler = ndl.optim.SGD([w], lr=0.25), ndl.optim.GradScaler()
        >>> with ndl.autocast("float16"):
        ...     loss = (w * w).sum()
        >>> scaler.scale(loss).backward()
        >>> scaler.step(opt)
        needle.Tensor(True)
        >>> w
        needle.Tensor([1.])

    Reference:
        P. Micikevicius et al., "Mixed precision training", 2018, section 3.2.
    """

    def __init__(
        self,
        scale: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not _SMALLEST <= scale <= _LARGEST:
            raise SettingError(f"GradScaler: scale is between 2⁻²⁴ and 2²⁴, got {scale}")
        if not (math.isfinite(growth) and growth > 1):
            raise SettingError(f"GradScaler: growth is finite and above 1, got {growth}")
        if not 0 < backoff < 1:
            raise SettingError(f"GradScaler: backoff is between 0 and 1, got {backoff}")
        if interval < 1:
            raise SettingError(f"GradScaler: interval is 1 or more, got {interval}")
        self.growth = growth
        self.backoff = backoff
        self.interval = interval
        self.enabled = enabled
        self.scale_factor = Tensor(scale, dtype=float32, requires_grad=False)
        self.good_steps = Tensor(0, dtype=int32, requires_grad=False)
        self._divided: dict[Optimizer, _Divided] = {}

    def scale(self, loss: Tensor) -> Tensor:
        """Return s · loss, in float32 where the loss is float16 or bfloat16: call `backward` on it.

        Raises:
            DTypeError: the loss is no Tensor.
        """
        if not isinstance(loss, Tensor):
            raise DTypeError(f"GradScaler.scale: the loss is a Tensor, got {type(loss).__name__}")
        if not self.enabled:
            return loss
        factor = self.scale_factor
        return multiply(loss, factor if is_narrow(loss.dtype) else factor.astype(loss.dtype))

    def unscale(self, optimizer: Optimizer) -> Tensor:
        """Divide the gradients by s now, and not in `step`: for what looks at them or changes them in between.

        Once after each `backward`, before the optimizer's step, which does not divide again. It is left out where a
        gradient is not finite here, whatever becomes of the gradient until then.

        Args:
            optimizer: whose parameters have gradients of a scaled loss.

        Returns:
            Whether all are finite: a bool Tensor of no axes.

        Raises:
            GradientError: no parameter has a gradient; or they are divided already, and no step has been made since.

        Example:
            >>> import needle as ndl
            >>> w = ndl.Tensor([2.0], dtype="float32")
            >>> opt, scaler = ndl.optim.SGD([w], lr=0.5), ndl.optim.GradScaler()
            >>> scaler.scale((w * w).sum()).backward()
            >>> scaler.unscale(opt)
            needle.Tensor(True)
            >>> opt.clip_grad_norm(1.0)
            needle.Tensor(4.0)
            >>> scaler.step(opt)
            needle.Tensor(True)
            >>> w
            needle.Tensor([1.5])
        """
        parameters = _with_gradient(optimizer, "unscale")
        if not self.enabled:
            return Tensor(True, requires_grad=False)
        divided = self._divided_of(optimizer, parameters[0])
        if divided.is_known():
            raise GradientError(
                "GradScaler.unscale: the gradients of this optimizer are divided already: call unscale() once after "
                "backward(), then step()"
            )
        self._unscale(parameters)
        finite = _all_finite(parameters)
        divided.note(finite)
        return finite

    def step(self, optimizer: Optimizer, max_norm: float | None = None, update: bool = True) -> Tensor:
        """Divide the gradients by s unless `unscale` did, step where all were finite then, and adjust s.

        Args:
            optimizer: whose parameters have gradients of a scaled loss. They keep the divided ones.
            max_norm: clip the gradients to this common norm, once they are divided.
            update: False leaves s as it is. Several optimizers step with the same s, and then `update` adjusts it.

        Returns:
            Whether the step was made: a bool Tensor of no axes.

        Raises:
            GradientError: no parameter has a gradient.
            SettingError: `max_norm` is not above 0.
        """
        parameters = _with_gradient(optimizer, "step")
        if not self.enabled:
            if max_norm is not None:
                clipping.clip_norm(parameters, max_norm)
            optimizer.step()
            return Tensor(True, requires_grad=False)
        divided = self._divided_of(optimizer, parameters[0])
        if divided.is_known():
            finite = divided.forget()
        else:
            self._unscale(parameters)
            finite = _all_finite(parameters)
        if max_norm is not None:
            clipping.clip_norm(parameters, max_norm)
        optimizer.step_if(finite)
        if update:
            self.update(finite)
        return finite

    def update(self, *made: Tensor) -> None:
        """Adjust s after steps that were made with the same one: it shrinks where one of them was left out.

        Args:
            made: what `step(…, update=False)` returned, of each optimizer.

        Raises:
            SettingError: there is none.
        """
        if not made:
            raise SettingError("GradScaler.update: takes what step returned, of one optimizer or more; got nothing")
        if self.enabled:
            self._adjust(reduce(and_, (one.realize_cached_data() for one in made)))

    def _divided_of(self, optimizer: Optimizer, parameter: Tensor) -> _Divided:
        if optimizer not in self._divided:
            # From an array of the device, and read once: so it is state in a trace too, and not a result.
            finite = Tensor.make_const(parameter.device.ones(dtype=bool_))
            finite.realize_cached_data()
            self._divided[optimizer] = _Divided(finite)
            made_state(partial(self._divided.pop, optimizer, None))
        return self._divided[optimizer]

    def _unscale(self, parameters: list[Tensor]) -> None:
        factor = self.scale_factor.realize_cached_data()
        for parameter in parameters:
            g = parameter.grad.realize_cached_data()
            xp = array_namespace(g)
            divided = g / (factor if is_narrow(g.dtype) else xp.astype(factor, g.dtype))
            parameter.grad = Tensor.make_const(xp.asarray(divided))

    def _adjust(self, finite: Array) -> None:
        """Let s grow after enough good steps, and shrink after a bad one."""
        xp = array_namespace(finite)
        scale, good = self.scale_factor.realize_cached_data(), self.good_steps.realize_cached_data()
        good = xp.where(finite, good + 1, xp.zeros_like(good))
        grows = good >= self.interval
        larger = xp.where(grows, xp.minimum(scale * self.growth, xp.asarray(_LARGEST, dtype=float32)), scale)
        smaller = xp.maximum(scale * self.backoff, xp.asarray(_SMALLEST, dtype=float32))
        self.scale_factor.cached_data = xp.asarray(xp.where(finite, larger, smaller), dtype=float32)
        self.good_steps.cached_data = xp.asarray(xp.where(grows, xp.zeros_like(good), good), dtype=int32)

    def state_dict(self) -> dict[str, Any]:
        """Return s, and how many good steps there were in a row."""
        return {"scale": float(self.scale_factor.numpy()), "good_steps": int(self.good_steps.numpy())}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned.

        Raises:
            CheckpointError: it is no such state. Nothing is changed then.
        """
        if set(saved) != {"scale", "good_steps"}:
            raise CheckpointError(f"GradScaler: the state holds scale and good_steps, got {', '.join(map(str, saved))}")
        scale, good_steps = saved["scale"], saved["good_steps"]
        if not (_is_number(scale) and _SMALLEST <= scale <= _LARGEST and _is_number(good_steps) and good_steps >= 0):
            raise CheckpointError(f"GradScaler: no state of a scaler: scale {scale!r}, good_steps {good_steps!r}")
        self.scale_factor.cached_data = np.asarray(saved["scale"], dtype=float32)
        self.good_steps.cached_data = np.asarray(saved["good_steps"], dtype=int32)


class _Divided:
    """Whether an optimizer's gradients were divided since its last step, and whether they were finite then.

    The first is the program's course and the second a value. So a compiled function that begins where the gradients
    are divided already is another one than where they are not; what it does itself it knows without a question.
    """

    def __init__(self, finite: Tensor) -> None:
        self.finite = finite
        self.is_divided = False
        self._asked_in: weakref.ref[Recorder] | None = None

    def is_known(self) -> bool:
        """Tell whether the gradients were divided."""
        current = recorder()
        if current is not None and (self._asked_in is None or self._asked_in() is not current):
            guard(self._read, "whether an optimizer's gradients are divided by the loss's scale")
            self._asked_in = weakref.ref(current)
        return self.is_divided

    def note(self, finite: Tensor) -> None:
        """Note that they were."""
        self.finite.cached_data = finite.realize_cached_data()
        host_effect(partial(self._set, True), partial(self._set, False))

    def forget(self) -> Tensor:
        """Return whether they were finite, and expect new ones."""
        host_effect(partial(self._set, False), partial(self._set, True))
        return Tensor.make_const(self.finite.realize_cached_data())

    def _read(self) -> bool:
        return self.is_divided

    def _set(self, is_divided: bool) -> None:
        self.is_divided = is_divided


def _with_gradient(optimizer: Optimizer, name: str) -> list[Tensor]:
    """Return the parameters that have a gradient, each once."""
    parameters = optimizer.parameters_with_gradient()
    if not parameters:
        raise GradientError(f"GradScaler.{name}: no parameter of the optimizer has a gradient: call backward() first")
    return parameters


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number))


def _all_finite(parameters: list[Tensor]) -> Tensor:
    """Tell whether every element of every gradient is finite."""
    arrays = [parameter.grad.realize_cached_data() for parameter in parameters]
    xp = array_namespace(arrays[0])
    finite = [xp.all(xp.isfinite(xp.astype(array, float32) if is_narrow(array.dtype) else array)) for array in arrays]
    return Tensor.make_const(xp.asarray(reduce(and_, finite)))
