"""The toy run that a campaign attacks, in processes of its own, and what must come out of it."""

from __future__ import annotations

import hashlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import util
from pathlib import Path
from typing import Any

import simplejson

from revit_video.data.synthetic import write_dataset
from revit_video.models import checkpoint, saved_epochs
from revit_video.runtime import output_dir

TOOLS = Path(__file__).parents[1]
CONFIG = "Synthetic/ReViT_TimeSformer-tiny_divST_4x4_48"
COUNTS = {"train": 24, "mine": 12, "val": 12, "test": 12}  # clips
SMALL: dict[str, object] = {
    "DEVICE": "cpu",
    "TENSORBOARD.ENABLE": False,
    "TRAIN.BATCH_SIZE": 4,
    "TRAIN.EVAL_PERIOD": 1,
    "TRAIN.CHECKPOINT_MINUTES": 0.005,
    "DATA.NUM_FRAMES": 2,
    "MODEL.DEPTH": 1,
    "MODEL.EMBED_DIM": 16,
    "MODEL.NUM_HEADS": 2,
    "REVIT.TOKEN_LENGTHS": '["6x6", "3x3"]',
    "REVIT.DISTILL.MIN_TEACHER_TOP1": 0.0,
    "SOLVER.MAX_EPOCH": 2,
    "TEST.BATCH_SIZE": 4,
    "ASSIGNER.MAX_EPOCH": 2,
    "ADAPTIVE.ON_CLOCK": False,  # a clock is never the same
}
Changes = Mapping[str, object]  # values of config keys
NONE: Changes = {}
Attack = tuple[str, str, str]  # what was done, what it came to, and if it did not hold, more about that
HELD = (
    *("stopped in one line", "had ended", "then the same bits", "the same bits"),
    *("told, with the file", "left out of the page, with the file", "refused in one line", "answered"),
)
PATIENCE = 120.0  # seconds, after which a process counts as hung


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal and None where it hung, and what it said."""

    code: int | None
    said: str
    seconds: float

    @property
    def last_line(self) -> str:
        return (self.said.splitlines() or [""])[-1]

    @property
    def is_clean(self) -> bool:
        """Whether it ended by itself, without a traceback."""
        noise = ("Traceback", "Exception ignored", "Fatal Python error")
        return self.code is not None and self.code >= 0 and not any(word in self.said for word in noise)

    def __str__(self) -> str:
        """For what did not hold: the last lines."""
        return "\n".join([f"exit code {self.code} after {self.seconds:.1f} s", *self.said.splitlines()[-30:]])


class Process:
    """`tools/<name>.py` with arguments, in a forked process and a process group of its own.

    Args:
        before: called in the process first, for limits.
    """

    def __init__(
        self, name: str, arguments: Sequence[object], log: Path, before: Callable[[], object] = lambda: None
    ) -> None:
        self.log, self.started = log, time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            _run(name, arguments, before)

    def send(self, number: int, whole_group: bool) -> None:
        """A signal, as from a terminal or a scheduler to all processes, or to the first one alone."""
        (os.killpg if whole_group else os.kill)(self.pid, number)

    def ended(self, patience: float = PATIENCE) -> Ended | None:
        """How it ended; None if it still runs after `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                seconds = time.monotonic() - self.started
                return Ended(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"), seconds)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)

    def end(self, patience: float = PATIENCE) -> Ended:
        """Waits for it, and for all it has started; what is left then is killed, and counts as hung."""
        ended = self.ended(patience)
        if ended is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            return Ended(None, self.log.read_text(errors="replace"), time.monotonic() - self.started)
        return ended

    def left_overs(self, patience: float = 5.0) -> bool:
        """Whether a process of its group outlived it by `patience` seconds; kills those."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.01)
        os.killpg(self.pid, signal.SIGKILL)
        return True


def _run(name: str, arguments: Sequence[object], before: Callable[[], object]) -> None:
    code: Any = 1
    try:
        path = str(TOOLS / f"{name}.py")
        sys.argv = [path, *map(str, arguments)]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        runpy.run_path(path, run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        util._exit_function()  # type: ignore[attr-defined]
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


@dataclass(frozen=True)
class Toy:
    """A data folder, and runs of all stages on it."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, seed: int) -> Toy:
        write_dataset(folder / "videos", COUNTS, seed, size=48, num_frames=8, processes=1)
        return cls(folder)

    def start(
        self, output: Path, changes: Changes = NONE, before: Callable[[], object] = lambda: None
    ) -> Process:
        """All stages into `output`, with other values of some keys."""
        pairs = {**SMALL, "DATA.PATH_TO_DATA_DIR": self.folder / "videos", "OUTPUT_DIR": output, **changes}
        words = ["--cfg", CONFIG, *(word for pair in pairs.items() for word in pair)]
        return Process("run_net", words, output.with_suffix(".log"), before)

    def straight(self, changes: Changes = NONE) -> tuple[dict[str, str], float]:
        """What a run comes to that nothing disturbs, and how long it takes; made once."""
        return _straight(self, tuple(sorted(changes.items())))

    def straight_output(self, changes: Changes = NONE) -> Path:
        """Where that run is."""
        words = "_".join(f"{name}_{value}" for name, value in sorted(changes.items()))
        return self.folder / f"straight_{words}"


@cache
def _straight(toy: Toy, changes: tuple[tuple[str, object], ...]) -> tuple[dict[str, str], float]:
    output = toy.straight_output(dict(changes))
    ended = toy.start(output, dict(changes)).end()
    if ended.code:
        raise ValueError(f"the toy run fails by itself:\n{ended}")
    return outcome(output), ended.seconds


def outcome(output: Path) -> dict[str, str]:
    """A digest of all that a run comes to, but for times and its own path."""
    found = saved_epochs.latest(str(output / output_dir.CHECKPOINTS))
    assert found is not None
    payload = checkpoint.load_payload(found)
    weights = {"model": payload["model"]["weights"]}
    for name in (output_dir.ASSIGNER, output_dir.MODEL):
        part = checkpoint.load_payload(str(output / name))
        weights |= {f"{name} {kind}": part[kind]["weights"] for kind in ("model", "assigner") if kind in part}
    digests = {name: checkpoint.weights_digest(value) for name, value in weights.items()}
    digests["optimizer"] = _digest(repr(payload["training"]["optimizer"]["state"]))
    for name in (output_dir.LABELS, output_dir.PREDICTIONS):
        digests[name] = _digest((output / name).read_text().replace(str(output), ""))
    results = simplejson.loads((output / output_dir.RESULTS).read_text())
    digests["results.json"] = _digest(simplejson.dumps(_timeless(results)))
    return digests


def _timeless(tree: Any) -> Any:
    if isinstance(tree, dict):
        timed = [f"{name}{part}" for name in ("clips_per_sec", "speedup") for part in ("", "_quartiles")]
        timed += ["command", "environment"]
        return {name: _timeless(value) for name, value in tree.items() if name not in timed}
    return tree


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
