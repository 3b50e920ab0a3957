"""What all optimizers share: the walk over parameters, hyperparameters, state, clipping.

A subclass says what it remembers of each parameter (`state_names`, all starting at 0) and how one step goes
(`update`). The base finds the gradient, adds what `weight_decay` and `l1_decay` ask for, and puts the new values in
place. It never changes an array that somebody else may hold: parameters are given new ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from needle.autograd import Gradient, Tensor
from needle.device import Array, array_namespace
from needle.dtype import float32, is_narrow
from needle.errors import DTypeError, ShapeError
from needle.lazy_state import lazy_state
from needle.nn.parameter import in_evaluation
from needle.optim import clipping, groups, state
from needle.optim.groups import check_setting
from needle.tracing import guard, host_effect, host_number

__all__ = ["Optimizer", "Parameters", "Rate"]

# A learning rate: a number, or a function from the number of the step (from 0) to one.
Rate: TypeAlias = "float | Callable[[int], float]"
Parameters: TypeAlias = "Iterable[Tensor] | Iterable[dict[str, Any]]"


class Optimizer:
    """Steps parameters along their gradients.

    Args:
        params: Tensors; or groups of them, dicts with "params" and any hyperparameters that differ for the group. Those
            that require no gradient are left alone.
        settings: the hyperparameters, each an attribute that may be set at any time, such as `opt.lr = 0.1`.

    Attributes:
        params: the parameters in order, as they were given.
        groups: the groups, dicts that may be changed at any time; one that holds all parameters where none were given.
        t: how many steps have been made.

    Raises:
        SettingError: no parameters, one that is in two groups, an unknown or impossible hyperparameter.
        DTypeError: something among `params` is not a Tensor of floating-point numbers.
        GradientError: none of the parameters requires a gradient.
    """

    # What is remembered of each parameter: an attribute of this name is a dict from parameter to Tensor.
    state_names: ClassVar[tuple[str, ...]] = ()
    # Whether weight_decay shrinks the weights beside the step instead of being part of the gradient.
    decouples_decay: ClassVar[bool] = False
    # Every optimizer has a learning rate: a number, or a schedule.
    lr: Any

    def __init__(self, params: Parameters, **settings: Any) -> None:
        settings = {"lr": 0.01, "weight_decay": 0.0, "l1_decay": 0.0, **settings}
        self.setting_names = tuple(settings)
        for name, value in settings.items():
            check_setting(type(self).__name__, name, value)
        self.params, self.groups = groups.make_groups(params, settings)
        self.t = 0
        self._warned: set[str] = set()
        for name, value in settings.items():
            setattr(self, name, value)
        for name in self.state_names:
            setattr(self, name, {})

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Return the new values of a parameter, and of its state.

        Args:
            theta: the parameter's values θ.
            g: its gradient, decay included.
            h: the hyperparameters, and the number of this step `t`, from 1.
            state: what is remembered of this parameter, in the order of `state_names`.
        """
        raise NotImplementedError(f"{type(self).__name__}.update is not written")

    def state_in_use(self, h: SimpleNamespace) -> tuple[str, ...]:
        """Return those of `state_names` that `update` needs with these hyperparameters: all, unless a subclass says."""
        return self.state_names

    def step(self) -> None:
        """Step every parameter that has a gradient, one that is reached twice once.

        Gradients keep their values. Their graphs are let go of: they end in values that are gone now.

        Raises:
            ShapeError: a gradient or a state has another shape than its parameter. Nothing is changed then.
            DTypeError: a gradient is no Tensor. Nothing is changed then.
        """
        self._step_all(None)

    def step_if(self, condition: Tensor) -> None:
        """Do what `step` does where a condition holds, and leave parameters and state as they are where not.

        Written without a branch on the condition, so that it can be compiled. The step counts in any case.

        Args:
            condition: a bool Tensor of no axes.

        Raises:
            ShapeError: the condition has axes; or as in `step`.
            DTypeError: the condition is not bool; or as in `step`.
        """
        if condition.shape != ():
            raise ShapeError(f"step_if: the condition has no axes, got shape {condition.shape}")
        if condition.dtype.kind != "b":
            raise DTypeError(f"step_if: the condition is a bool Tensor, got {condition.dtype}")
        with np.errstate(over="ignore", invalid="ignore"):  # a step that is not made may be one of NaNs
            self._step_all(condition.realize_cached_data())

    def _step_all(self, condition: Array | None) -> None:
        guard(self._membership, "an optimizer's groups")
        self._warn_of_mistakes()
        work = [(self._hyperparameters(group), self._operands(group)) for group in self.groups]
        host_effect(partial(self._count_steps, 1), partial(self._count_steps, -1))
        for h, operands in work:
            names = self.state_in_use(h)
            memories = [getattr(self, name) for name in names]
            for parameter, theta, g in operands:
                self._step_one(parameter, theta, g, h, memories, condition)

    def _warn_of_mistakes(self) -> None:
        """Warn, once, of what is hardly ever meant: gradients of an earlier step, a model in evaluation mode."""
        for mistake, is_made in _MISTAKES.items():
            if mistake not in self._warned and is_made(self.params):
                self._warned.add(mistake)
                warnings.warn(f"{type(self).__name__}.step: {mistake}", stacklevel=4)

    def _count_steps(self, steps: int) -> None:
        self.t += steps

    def reset_grad(self) -> None:
        """Forget all gradients."""
        guard(self._all_params, "an optimizer's parameters")
        for parameter in self.params:
            parameter.grad = None

    def clip_grad_norm(self, max_norm: float = 0.25) -> Tensor:
        """Scale all gradients by one factor, so that their common norm is at most `max_norm`.

        Formula::

            ‖g‖ = √(Σ g² over all parameters),   g ← g · min(1, max_norm / ‖g‖)

        Returns:
            The norm before scaling, a constant Tensor of no axes. It is not finite where a gradient is not; then the
            new gradients are not either.

        Raises:
            SettingError: `max_norm` is not above 0.

        Reference:
            R. Pascanu et al., "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
        """
        return clipping.clip_norm(self.parameters_with_gradient(), max_norm)

    def clip_grad_value(self, limit: float) -> None:
        """Limit every element of every gradient to [−limit, limit].

        Raises:
            SettingError: `limit` is not above 0.
        """
        clipping.clip_value(self.parameters_with_gradient(), limit)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a step depends on beside the parameters and their gradients.

        Returns:
            "t", the number of steps; "groups", the hyperparameters of each group (a schedule is code and not among
            them) and under "params" how many parameters it has; "arrays", NumPy arrays named by state and number of
            the parameter, such as "m.0".
        """
        return state.state_dict(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned; steps continue bit for bit.

        Raises:
            CheckpointError: it is the state of other parameters or of another optimizer: what differs is listed, and
                nothing is changed.
        """
        state.load_state_dict(self, saved)

    # ----------------------------------------------------------------------------------------------- details

    def _step_one(  # noqa: PLR0917  all of one step
        self,
        parameter: Tensor,
        theta: Array,
        g: Array,
        h: SimpleNamespace,
        memories: Sequence[dict[Tensor, Tensor]],
        condition: Array | None,
    ) -> None:
        xp = array_namespace(theta)
        if h.weight_decay and not self.decouples_decay:
            g = g + h.weight_decay * theta
        if h.l1_decay:
            g = g + h.l1_decay * xp.sign(theta)
        before = [lazy_state(memory, parameter, theta).realize_cached_data() for memory in memories]
        new_theta, *after = self.update(theta, g, h, *before)
        if condition is not None:
            new_theta = xp.where(condition, new_theta, theta)
            after = [xp.where(condition, new, old) for new, old in zip(after, before, strict=True)]
        # NumPy makes scalars of results without axes: `asarray` makes arrays of them again.
        parameter.cached_data = xp.asarray(new_theta, dtype=parameter.dtype)
        for memory, array in zip(memories, after, strict=True):
            memory[parameter].cached_data = xp.asarray(array, dtype=theta.dtype)
        if isinstance(parameter.grad, Gradient):
            parameter.grad.release_graph()

    def _membership(self) -> tuple[int, ...]:
        """Tell which groups there are, and which parameters are in them: by identity, for guards of compiled steps."""
        found: list[int] = []
        for group in self.groups:
            found.append(id(group))
            found += map(id, group["params"])
        return tuple(found)

    def _all_params(self) -> tuple[int, ...]:
        return tuple(map(id, self.params))

    def parameters_with_gradient(self) -> list[Tensor]:
        """Return the parameters that have a gradient, each once."""
        guard(self._all_params, "an optimizer's parameters")
        return list(dict.fromkeys(parameter for parameter in self.params if parameter.grad is not None))

    def _operands(self, group: dict[str, Any]) -> list[tuple[Tensor, Array, Array]]:
        """Return parameters with their values and gradients as the step takes them, or raise where they do not fit."""
        operands = []
        for parameter in dict.fromkeys(group["params"]):
            if parameter.grad is not None and parameter.requires_grad:
                operands.append((parameter, *_arrays(parameter)))
                self._check_state(parameter)
        return operands

    def _check_state(self, parameter: Tensor) -> None:
        for name in self.state_names:
            known = getattr(self, name).get(parameter)
            if known is not None and known.shape != parameter.shape:
                raise ShapeError(
                    f"{type(self).__name__}.step: the data of a parameter is now of shape {parameter.shape}, but its "
                    f"{name} of shape {known.shape}: a change of shape needs a new optimizer"
                )

    def _setting(self, group: Mapping[str, Any], name: str) -> Any:
        return group[name] if name in group else getattr(self, name)

    def _hyperparameters(self, group: dict[str, Any]) -> SimpleNamespace:
        """Return the settings of this step as numbers, and its number `t`, from 1."""
        values = {name: host_number(self._reader(group, name)) for name in self.setting_names}
        return SimpleNamespace(**values, t=host_number(lambda: self.t + 1))

    def _reader(self, group: dict[str, Any], name: str) -> Callable[[], Any]:
        """Return what reads a setting as a number: `_setting` written out, as compiled steps do so in each call."""

        def read() -> Any:
            value = group[name] if name in group else getattr(self, name)
            return value if type(value) is float else _number(value, self.t)

        return read


def _is_stale(params: Sequence[Tensor]) -> bool:
    return any(isinstance(p.grad, Gradient) and p.grad.is_released for p in params)


def _is_in_evaluation(params: Sequence[Tensor]) -> bool:
    return bool(in_evaluation) and all(p in in_evaluation for p in params)


_MISTAKES: dict[str, Callable[[Sequence[Tensor]], bool]] = {
    "a gradient is that of an earlier step: no backward() has reached its parameter since. Call reset_grad() before "
    "each backward(), so that old gradients are forgotten": _is_stale,
    "all parameters are of a model in evaluation mode, in which layers such as dropout and batch normalisation do not "
    "train. Call model.train() before training, and after each evaluation": _is_in_evaluation,
}


def _number(value: Any, step: int) -> Any:
    """Return a hyperparameter as a Python number: unlike NumPy's, it leaves float32 arrays float32."""
    if callable(value):
        value = value(step)
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _arrays(parameter: Tensor) -> tuple[Array, Array]:
    """Return a parameter's values and gradient in the dtype of the step: float32 for float16 and bfloat16."""
    if not isinstance(parameter.grad, Tensor):
        raise DTypeError(f"step: the gradient of a parameter is a Tensor, got {type(parameter.grad).__name__}")
    theta, g = parameter.realize_cached_data(), parameter.grad.realize_cached_data()
    if theta.shape != g.shape:
        raise ShapeError(f"step: a parameter of shape {theta.shape} has a gradient of shape {g.shape}")
    if is_narrow(theta.dtype):
        theta = array_namespace(theta).astype(theta, float32)
    return theta, g if g.dtype == theta.dtype else array_namespace(g).astype(g, theta.dtype)
