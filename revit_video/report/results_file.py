"""The shape of results.json, as far as the report reads it: any program may have written the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from revit_video.length import token_lengths

MOST = 1e15  # of a figure: none is larger, and charts of infinite ones fail

# Values that a place may hold, by what a message calls them. Under `?` a name may be missing, or hold null.
KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "a number": lambda value: _is_number(value, -MOST),
    "a number above 0": lambda value: _is_number(value, 0) and value > 0,
    "a percentage": lambda value: _is_number(value, 0) and value <= 100,
    "a whole number from 0": lambda value: type(value) is int and 0 <= value < MOST,
}
TEXT, FLAG, NUMBER, POSITIVE, PERCENT, COUNT = KINDS


class Each(dict[str, Any]):
    """The shape of an object under any names, whose values all have the shape `each`."""

    def __init__(self, each: Any) -> None:
        super().__init__(each=each)


SPEED = {
    "clips_per_sec?": POSITIVE,
    "clips_per_sec_quartiles?": [POSITIVE],
    "speedup?": POSITIVE,
    "speedup_quartiles?": [POSITIVE],
}
POLICY = {
    "top1": PERCENT,
    "top5?": PERCENT,
    "gmacs": POSITIVE,
    "macs_speedup?": POSITIVE,
    "length_counts?": Each(COUNT),
    "policy?": TEXT,
    **SPEED,
}
CERTIFICATE = {"max_drop": NUMBER, "confidence": NUMBER, "videos": COUNT, "holds": FLAG, "needed?": COUNT}
HYBRID = {
    "threshold": NUMBER,
    "averaged": FLAG,
    "assigner_gmacs": NUMBER,
    "path_counts": Each(COUNT),
    "certificate?": CERTIFICATE,
}
RESULTS = {
    "dataset?": TEXT,
    "split?": TEXT,
    "videos?": COUNT,
    "skipped?": COUNT,
    "classes?": [TEXT],
    "lengths": [TEXT],
    "command?": TEXT,
    "remarks?": [TEXT],
    "verdict?": [TEXT],
    "learning_curve?": [{"clips": COUNT, "top1": PERCENT}],
    "static": Each(POLICY),
    "adaptive?": POLICY,
    "policies?": Each(POLICY),
    "clock?": {"control?": SPEED},
    "curves?": Each([{"gmacs": POSITIVE, "top1": PERCENT, "threshold?": NUMBER, "mix?": [NUMBER]}]),
    "environment?": Each(TEXT),
}


def check_results(results: Any) -> None:
    """ValueError with the place, unless `results` have the shape that the report reads."""
    check_shape(results, RESULTS)
    count = len(token_lengths(results["lengths"]))
    for name, points in (results.get("curves") or {}).items():
        if any(len(point.get("mix") or ()) not in (0, count) for point in points):
            raise ValueError(f"curves.{name}: each mix must hold a share for each length")
    adaptive = results.get("adaptive")
    if adaptive and adaptive.get("policy") == "hybrid":
        check_shape(adaptive, HYBRID, "adaptive")
    control = (results.get("clock") or {}).get("control")
    if control and (control.get("speedup") is None or len(control.get("speedup_quartiles") or ()) != 2):
        raise ValueError("clock.control must hold speedup and its two quartiles")


def check_shape(value: Any, shape: Any, place: str = "") -> None:
    """ValueError with the place, unless `value` has a shape: a kind, a list, or an object by names."""
    if isinstance(shape, str):
        if not KINDS[shape](value):
            raise ValueError(f"{place} must be {shape}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{place} must be a list")
        for number, element in enumerate(value):
            check_shape(element, shape[0], f"{place}[{number}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{place or 'it'} must be an object with names")
        _check_object(value, shape, place)


def _check_object(value: dict[str, Any], shape: dict[str, Any], place: str) -> None:
    if isinstance(shape, Each):
        shape = dict.fromkeys(value, shape["each"])
    for name, part in shape.items():
        key = name.removesuffix("?")
        within = f"{place}.{key}" if place else key
        if value.get(key) is None and name.endswith("?"):
            continue
        if key not in value:
            raise ValueError(f"{within} is missing")
        check_shape(value[key], part, within)


def _is_number(value: Any, low: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < MOST
