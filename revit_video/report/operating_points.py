"""The points of the trade-off curve, one of which the slider of the page shows."""

from __future__ import annotations

import math
from typing import Any

from revit_video.meters import interval
from revit_video.report.files import Missing, Run
from revit_video.report.results_table import PolicyResult, cost_unit, headline, policy_results

# Policy of a curve -> the key that sets its threshold.
KEYS = {
    "assigned": "ADAPTIVE.POLICY cumulative ADAPTIVE.THRESHOLD",
    "cascade": "ADAPTIVE.CASCADE_THRESHOLD",
}


def operating_points(run: Run) -> tuple[list[dict[str, Any]], int]:
    """The points of the shown policy's curve as texts, cheapest first, and which of them ships.

    Raises:
        Missing: there is no curve of it.
    """
    results = run.results
    chosen, longest = headline(results)
    name = (chosen.policy or "assigned") if chosen and chosen.name == "adaptive" else "cascade"
    points = sorted((results.get("curves") or {}).get(name) or [], key=lambda point: point["gmacs"])
    if not points or chosen is None or longest is None:
        raise Missing("results.json has no trade-off curve of the policy that ships")
    rows = [_texts(point, name, run, chosen, longest) for point in points]
    distances = [(abs(p["gmacs"] - chosen.gmacs), abs(p["top1"] - chosen.top1)) for p in points]
    return rows, distances.index(min(distances))


def _texts(
    point: dict[str, Any], curve: str, run: Run, chosen: PolicyResult, longest: PolicyResult
) -> dict[str, Any]:
    """What the page says of one point."""
    results, lengths = run.results, run.results["lengths"]
    factor, unit = cost_unit(max(one.gmacs for one in policy_results(results).values()))
    share = point["gmacs"] / longest.gmacs
    accuracy = f"{point['top1']:.1f} %"
    if videos := results.get("videos"):
        low, high = interval(round(point["top1"] / 100 * videos), videos)
        accuracy += f" (95 %: {low:.1f} to {high:.1f})"
    speed = "not measured"
    if chosen.clips_per_sec:
        faster = chosen.gmacs / point["gmacs"]
        speed = f"about {chosen.clips_per_sec * faster:,.0f} clips/s"
        if chosen.speedup:
            speed += f", {chosen.speedup * faster:.2f}× those of {longest.name}"
    mix = point.get("mix")
    asked = min(1.0, math.ceil(100 * share) / 100)
    key = None if _has_own_thresholds(run) else KEYS.get(curve)
    keys = f"{key} {point.get('threshold', 0.0):.6g}" if key else f"ADAPTIVE.BUDGET {asked:g}"
    return {
        "top1": accuracy,
        "points": f"{point['top1'] - longest.top1:+.1f} points to always {longest.name}".replace("-", "−"),
        "cost": f"{factor * point['gmacs']:.1f} {unit} a view, {100 * share:.0f} % of {longest.name}",
        "speed": speed,
        "mix": ", ".join(f"{name} {100 * part:.0f} %" for name, part in zip(lengths, mix, strict=True))
        if mix
        else "not recorded",
        "keys": keys,
        "policy": "" if key else f"budget={asked:g}",
        "place": (factor * point["gmacs"], point["top1"]),
    }


def _has_own_thresholds(run: Run) -> bool:
    """Whether each length has its own threshold, which no key sets (DVT)."""
    try:
        group = run.config.get("DVT")
    except Missing:
        return False
    return isinstance(group, dict) and group.get("ENABLE") is True
