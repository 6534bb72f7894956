"""What a checkpoint says is checked before anything is built from it: anyone may have written the file."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

LARGEST = 1e18  # of a number: a tensor of any kind can hold it
STRETCHED = 1 << 26  # bytes that a tensor may claim without having them
Module = TypeVar("Module", bound=nn.Module)


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message has the path and the reason."""


@contextmanager
def believed(path: str, part: str) -> Iterator[None]:
    """Turns every error that the content of the file at `path` causes into a `CheckpointError` of one line.

    Args:
        part: what is used of it, for the message.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # content of any kind raises any kind
        if isinstance(error, ValueError) and path in str(error):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise CheckpointError(f"{path}: its {part} cannot be used: {kind}{one_line(error)}") from error


def one_line(error: Exception) -> str:
    """First line of an error's message, or its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def filled(build: Callable[[], Module], weights: Any) -> Module:
    """A module with these weights, in evaluation mode.

    Raises:
        ValueError: see `check_weights`; before any memory is taken for the module.
    """
    with torch.device("meta"):
        outline = build()
    check_weights(outline, weights)
    module = build()
    module.load_state_dict(weights)
    return module.eval()


def check_weights(module: nn.Module, weights: Any) -> None:
    """ValueError unless `weights` are the module's in names, shapes and kinds, and all finite."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"weights are a {type(weights).__name__}, not tensors by name")
    expected = module.state_dict()
    for words, names in (("missing", expected.keys() - weights), ("unknown", weights.keys() - expected)):
        if names:
            raise ValueError(f"{words} weights: {', '.join(sorted(map(str, names))[:4])}")
    for name, own in expected.items():
        given = weights[name]
        if not isinstance(given, Tensor) or given.layout != torch.strided:
            raise ValueError(f"weight {name} is no plain tensor")
        if given.shape != own.shape or given.is_floating_point() != own.is_floating_point():
            raise ValueError(
                f"weight {name} is {_kind(given)}, not {_kind(own)}",
            )
        if not given.is_meta and not bool(given.isfinite().all()):
            raise ValueError(f"weight {name} holds values that are not finite")


def check_tensors(path: str, weights: Mapping[str, Tensor]) -> None:
    """CheckpointError unless all weights of the file at `path` are plain numbers, as many as they claim."""
    for name, value in weights.items():
        problem = ""
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            problem = f"is no plain tensor: {str(value.dtype).removeprefix('torch.')}, {value.layout}"
        elif value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), STRETCHED):
            problem = f"claims {'x'.join(map(str, value.shape))} values, of which the file does not hold all"
        elif not value.is_meta and not bool(value.isfinite().all()):
            problem = "holds values that are not finite"
        if problem:
            raise CheckpointError(f"{path}: weight {shown(name)} {problem}")


def _kind(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'one'} of {str(tensor.dtype).removeprefix('torch.')}"


# ---- Plain values ----------------------------------------------------------------------------------------


def whole(name: str, value: Any, low: int, high: int) -> None:
    """ValueError unless `value` is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {shown(value)}")


def number(name: str, value: Any, low: float = -math.inf) -> None:
    """ValueError unless `value` is a finite number, at least `low`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -LARGEST < value < LARGEST or value < low:
        least = f", at least {low:g}" if low > -math.inf else ""
        raise ValueError(f"{name} must be a finite number{least}, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message, at most 60 characters of it."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # an integer of more digits than Python writes, a foreign type
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlong, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60, 60
