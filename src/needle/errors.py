"""The errors that Needle raises, each a built-in error too, so that old `except` clauses still catch it.

A message has up to four parts: the name that the user called, the rule and the numbers that break it, every
operand as dtype, shape and device (never its contents), and the place in the model. The code that finds the
fault knows the rule; the operator call that encloses it adds the name and the operands
(`NeedleError.add_call`), and each module on the way out writes the path from itself to the innermost one. So no
check has to know where it stands.
"""

from __future__ import annotations

__all__ = [
    "AxisError",
    "CheckpointError",
    "CompileError",
    "DTypeError",
    "DataError",
    "DeviceError",
    "GradientError",
    "MissingExtraError",
    "NeedleError",
    "NonFiniteError",
    "SettingError",
    "ShapeError",
    "TraceError",
    "TrainingError",
]


class NeedleError(Exception):
    """The root of all errors that Needle raises on purpose."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule
        self.call: str | None = None
        self.operands: str | None = None
        self.module: object | None = None
        self.module_path = ""

    def add_call(self, name: str, operands: str) -> None:
        """Name the operator in which the fault was found, and its operands. The innermost call wins."""
        if self.call is None:
            self.call = name
            self.operands = operands

    def __str__(self) -> str:
        head = self.rule if self.call is None else f"{self.call}: {self.rule}"
        details = [self.operands] if self.operands else []
        if self.module is not None:
            type_name = type(self.module).__name__
            details.append(f"in {self.module_path} ({type_name})" if self.module_path else f"in {type_name}")
        return head if not details else head + "\n  " + "      ".join(details)


class ShapeError(NeedleError, ValueError):
    """Shapes that do not fit together or do not fit the operation."""


class AxisError(NeedleError, ValueError, IndexError):
    """An axis that the operand does not have, or that is named twice."""


class DTypeError(NeedleError, TypeError):
    """A data type, or a kind of argument, that the operation does not take."""


class DeviceError(NeedleError, ValueError):
    """Operands on different devices, or a device that is not there."""


class GradientError(NeedleError, RuntimeError):
    """A gradient that cannot be computed, or a `gradient` method that returned something impossible."""


class DataError(NeedleError, ValueError):
    """A data set, file or label that is not what it should be."""


class SettingError(NeedleError, ValueError):
    """A hyperparameter or option whose value makes no sense."""


class CheckpointError(NeedleError, ValueError):
    """Saved state that does not fit the object it is loaded into, or a file that cannot be read."""


class CompileError(NeedleError, RuntimeError):
    """A traced program that the compiler cannot turn into machine code."""


class TraceError(NeedleError, TypeError):
    """Something that needs an array's values, asked for where there is only its shape."""


class NonFiniteError(NeedleError, ArithmeticError):
    """An operator made a NaN or an infinity out of finite numbers, and somebody wants to know."""


class TrainingError(NeedleError, RuntimeError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class MissingExtraError(NeedleError, ImportError):
    """An optional package that is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: run `pip install 'needle-dl[{extra}]'`"
        )
