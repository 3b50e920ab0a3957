"""What all optimizers share: the walk over parameters, hyperparameters, state, clipping.

A subclass says what it remembers of each parameter (`state_names`, all starting at 0) and how one step goes
(`update`). The base finds the gradient, adds what `weight_decay` and `l1_decay` ask for, and puts the new values in
place. It never changes an array that somebody else may hold: parameters are given new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import numpy as np

from needle.autograd import Gradient, Tensor
from needle.device import Array, array_namespace
from needle.dtype import float32, is_narrow
from needle.errors import CheckpointError, DTypeError, SettingError

__all__ = ["Optimizer", "Rate"]

# A learning rate: a number, or a function from the number of the step (from 0) to one.
Rate: TypeAlias = "float | Callable[[int], float]"
Parameters: TypeAlias = "Iterable[Tensor] | Iterable[dict[str, Any]]"


class Optimizer:
    """Steps parameters along their gradients.

    Args:
        params: Tensors; or groups of them, dicts with "params" and any hyperparameters that differ for the group.
        settings: the hyperparameters, each an attribute that may be set at any time, such as `opt.lr = 0.1`.

    Attributes:
        params: the parameters in order, as they were given.
        t: how many steps have been made.

    Raises:
        SettingError: no parameters, an unknown or impossible hyperparameter.
        DTypeError: something among `params` is not a Tensor that requires a gradient.
    """

    # What is remembered of each parameter: an attribute of this name is a dict from parameter to Tensor.
    state_names: ClassVar[tuple[str, ...]] = ()
    # Whether weight_decay shrinks the weights beside the step instead of being part of the gradient.
    decouples_decay: ClassVar[bool] = False
    # Every optimizer has a learning rate: a number, or a schedule.
    lr: Any

    def __init__(self, params: Parameters, **settings: Any) -> None:
        self.setting_names = tuple(settings)
        self.groups = _as_groups(params, settings)
        self.params: list[Tensor] = [parameter for group in self.groups for parameter in group["params"]]
        self.t = 0
        for name, value in settings.items():
            check_setting(type(self).__name__, name, value)
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

    def step(self) -> None:
        """Step every parameter that has a gradient, one that is reached twice once."""
        self.t += 1
        stepped: set[Tensor] = set()
        for group in self.groups:
            h = self._hyperparameters(group)
            for parameter in group["params"]:
                if parameter.grad is not None and parameter not in stepped:
                    stepped.add(parameter)
                    self._step_one(parameter, h)

    def reset_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.params:
            parameter.grad = None

    def clip_grad_norm(self, max_norm: float = 0.25) -> Tensor:
        """Scale all gradients by one factor, so that their common norm is at most `max_norm`.

        Formula::

            ‖g‖ = √(Σ g² over all parameters),   g ← g · min(1, max_norm / ‖g‖)

        Returns:
            The norm before scaling, a Tensor of no axes.

        Raises:
            SettingError: `max_norm` is not above 0.

        Reference:
            R. Pascanu et al., "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
        """
        if not max_norm > 0:
            raise SettingError(f"clip_grad_norm: max_norm is above 0, got {max_norm}")
        gradients = [(parameter, _wide(parameter.grad.realize_cached_data())) for parameter in self._with_gradient()]
        if not gradients:
            return Tensor(0.0, dtype=float32, requires_grad=False)
        xp = array_namespace(gradients[0][1])
        norm = xp.sqrt(sum(xp.sum(g * g) for _, g in gradients))
        factor = max_norm / xp.maximum(norm, xp.asarray(max_norm, dtype=norm.dtype))
        for parameter, g in gradients:
            dtype = parameter.grad.dtype
            parameter.grad = Tensor.make_const(xp.astype(g * factor, dtype))
        return Tensor.make_const(xp.asarray(norm))

    def clip_grad_value(self, limit: float) -> None:
        """Limit every element of every gradient to [−limit, limit].

        Raises:
            SettingError: `limit` is not above 0.
        """
        if not limit > 0:
            raise SettingError(f"clip_grad_value: the limit is above 0, got {limit}")
        for parameter in self._with_gradient():
            g = parameter.grad.realize_cached_data()
            parameter.grad = Tensor.make_const(array_namespace(g).clip(g, -limit, limit).astype(g.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Return all that a step depends on beside the parameters and their gradients.

        Returns:
            "t", the number of steps; "groups", the hyperparameters of each group (a schedule is code and not among
            them); "arrays", NumPy arrays named by state and number of the parameter, such as "m.0".
        """
        arrays = {
            f"{name}.{number}": memory[parameter].numpy()
            for name in self.state_names
            for number, parameter in enumerate(self.params)
            if parameter in (memory := getattr(self, name))
        }
        groups = [
            {name: value for name in self.setting_names if not callable(value := self._setting(group, name))}
            for group in self.groups
        ]
        return {"t": self.t, "groups": groups, "arrays": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` returned; steps continue bit for bit.

        Raises:
            CheckpointError: it is the state of other parameters or of another optimizer; nothing is changed then.
        """
        memories = self._checked_memories(state)
        self.t = int(state["t"])
        for group, saved in zip(self.groups, state["groups"], strict=True):
            group.update(saved)
        if len(self.groups) == 1:
            for name, value in state["groups"][0].items():
                setattr(self, name, value)
                self.groups[0].pop(name, None)
        for name, memory in memories.items():
            setattr(self, name, memory)

    # ----------------------------------------------------------------------------------------------- details

    def _step_one(self, parameter: Tensor, h: SimpleNamespace) -> None:
        theta = parameter.realize_cached_data()
        g = parameter.grad.realize_cached_data()
        dtype = theta.dtype
        if is_narrow(dtype):
            theta, g = _wide(theta), _wide(g)
        if h.weight_decay and not self.decouples_decay:
            g = g + h.weight_decay * theta
        if h.l1_decay:
            g = g + h.l1_decay * array_namespace(theta).sign(theta)
        memories = [getattr(self, name) for name in self.state_names]
        state = [_remembered(memory, parameter, theta) for memory in memories]
        new_theta, *new_state = self.update(theta, g, h, *state)
        parameter.cached_data = new_theta if new_theta.dtype == dtype else new_theta.astype(dtype)
        for memory, array in zip(memories, new_state, strict=True):
            memory[parameter].cached_data = array
        if isinstance(parameter.grad, Gradient):
            # The parameter has moved on, so that this gradient cannot be differentiated any more.
            parameter.grad.release_graph()

    def _with_gradient(self) -> Iterator[Tensor]:
        return iter(dict.fromkeys(parameter for parameter in self.params if parameter.grad is not None))

    def _setting(self, group: dict[str, Any], name: str) -> Any:
        return group.get(name, getattr(self, name))

    def _hyperparameters(self, group: dict[str, Any]) -> SimpleNamespace:
        h = SimpleNamespace(**{name: self._setting(group, name) for name in self.setting_names}, t=self.t)
        if callable(h.lr):
            h.lr = h.lr(self.t - 1)
        return h

    def _checked_memories(self, state: dict[str, Any]) -> dict[str, dict[Tensor, Tensor]]:
        missing = {"t", "groups", "arrays"} - set(state)
        if missing:
            raise CheckpointError(f"{type(self).__name__}: the saved state lacks {', '.join(sorted(missing))}")
        if len(state["groups"]) != len(self.groups):
            raise CheckpointError(
                f"{type(self).__name__}: the saved state has {len(state['groups'])} parameter groups, "
                f"this optimizer {len(self.groups)}"
            )
        problems = []
        memories: dict[str, dict[Tensor, Tensor]] = {name: {} for name in self.state_names}
        for key, array in state["arrays"].items():
            name, _, number = key.rpartition(".")
            if name not in memories or not number.isdigit() or int(number) >= len(self.params):
                problems.append(f"{key} is unexpected")
                continue
            parameter = self.params[int(number)]
            if tuple(array.shape) != parameter.shape:
                problems.append(f"{key} has shape {tuple(array.shape)}, its parameter {parameter.shape}")
            memories[name][parameter] = Tensor(array, device=parameter.device, requires_grad=False)
        if problems:
            raise CheckpointError(f"{type(self).__name__}: the saved state does not fit: {'; '.join(problems)}")
        return memories


def _as_groups(params: Parameters, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return parameters as groups: dicts with "params" and the hyperparameters that differ."""
    if isinstance(params, Tensor):
        raise DTypeError("an optimizer takes a list of Tensors: put this one in brackets")
    listed: Sequence[Any] = list(params)
    if not listed:
        raise SettingError("an optimizer needs at least one parameter, got an empty list")
    groups = [dict(one) for one in listed] if isinstance(listed[0], dict) else [{"params": listed}]
    for number, group in enumerate(groups):
        if "params" not in group:
            raise SettingError(f'parameter group {number} has no "params"')
        group["params"] = list(group["params"])
        for name, value in group.items():
            if name != "params" and name not in settings:
                raise SettingError(
                    f"parameter group {number}: no hyperparameter {name!r}; there are {sorted(settings)}"
                )
            if name != "params":
                check_setting(f"parameter group {number}", name, value)
        for place, parameter in enumerate(group["params"]):
            if not isinstance(parameter, Tensor):
                raise DTypeError(f"parameter {place} of group {number} is no Tensor but {type(parameter).__name__}")
            if not parameter.requires_grad:
                raise DTypeError(f"parameter {place} of group {number} requires no gradient, so it cannot be trained")
    return groups


# Hyperparameters that lie between 0 and 1, 1 itself left out.
_FRACTIONS = frozenset({"momentum", "beta1", "beta2", "alpha"})


def check_setting(owner: str, name: str, value: Any) -> None:
    """Check one hyperparameter.

    Raises:
        SettingError: it is negative, infinite or no number, or not below 1 where it must be.
    """
    if isinstance(value, bool) or (name == "lr" and callable(value)):
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SettingError(f"{owner}: {name} is a number, got {value!r}") from None
    if not math.isfinite(number) or number < 0:
        raise SettingError(f"{owner}: {name} is 0 or more and finite, got {value}")
    if name in _FRACTIONS and number >= 1:
        raise SettingError(f"{owner}: {name} is below 1, got {value}")


def _remembered(memory: dict[Tensor, Tensor], parameter: Tensor, theta: Array) -> Array:
    """Return what is remembered of a parameter: zeros at first."""
    if parameter not in memory:
        memory[parameter] = Tensor.make_const(array_namespace(theta).zeros_like(theta))
    return memory[parameter].realize_cached_data()


def _wide(array: Array) -> Array:
    """Return a float16 or bfloat16 array as float32, others as they are."""
    return array.astype(np.float32) if is_narrow(array.dtype) else array
