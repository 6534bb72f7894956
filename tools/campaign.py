"""Attacks a toy run for some minutes and counts what held: `python tools/campaign.py kills --minutes 5`.

Exit code 0: all held; 1: something did not, and is shown; 2: a mistake in the command.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import _environment  # noqa: F401
from campaign import damage, interruptions
from campaign.toy import HELD, Attack, Toy

from revit_video.cli import clear_errors

CAMPAIGNS: dict[str, Callable[[Toy, random.Random], Iterator[Attack]]] = {
    "kills": interruptions.kills,
    "signals": interruptions.signals,
    "disk": interruptions.disk,
    "damage": damage.damage,
    "hostile": damage.hostile,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", nargs="+", metavar="CAMPAIGN", help=", ".join(CAMPAIGNS))
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="of each (default: 1)")
    parser.add_argument(
        "--attacks", type=int, default=0, metavar="N", help="of each, at most (default: 0, any)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the attacks (default: 0)")
    parser.add_argument("--briefly", action="store_true", help="count by campaign, not by kind of attack")
    arguments = parser.parse_args()
    with clear_errors():
        if unknown := [name for name in arguments.campaigns if name not in CAMPAIGNS]:
            raise ValueError(f"no campaign {unknown[0]!r}; there are {', '.join(CAMPAIGNS)}")
        counts: Counter[tuple[str, str]] = Counter()
        with tempfile.TemporaryDirectory(prefix="campaign_") as folder:
            toy = Toy.made(Path(folder), arguments.seed)
            for name in arguments.campaigns:
                counts += _counted(name, toy, arguments)
        print(_table(counts))
    raise SystemExit(0 if all(how in HELD for _, how in counts) else 1)


def _counted(name: str, toy: Toy, arguments: argparse.Namespace) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + 60 * arguments.minutes
    for kind, how, more in CAMPAIGNS[name](toy, random.Random(arguments.seed)):
        counts[name if arguments.briefly else f"{name}: {kind}", how] += 1
        if how not in HELD:
            print(f"{name}: {kind}: {how}\n{more}\n", flush=True)
        if time.monotonic() > end or counts.total() == arguments.attacks:
            break
    return counts


def _table(counts: Counter[tuple[str, str]]) -> str:
    rows = [f"| {kind} | {how} | {count} |" for (kind, how), count in sorted(counts.items())]
    return "\n".join(["| attack | came to | times |", "|---|---|---|", *rows])


if __name__ == "__main__":
    main()
