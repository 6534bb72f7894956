"""An exported model and its policy, on numpy and onnxruntime alone.

`revit-video export MODEL exported --to onnx` writes the graphs, `policy.json` and a copy of this file, which
needs no other file of the package: `Runtime.read("exported").predict(clips)`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FORMAT = "revit_video export 1"
LARGEST = 1 << 26  # characters of a policy
POLICY = "policy.json"
Graph = Callable[[np.ndarray], np.ndarray]
"""Normalised clips `(B, 3, T, H, W)` -> logits `(B, classes)`; of the assigner `(B, lengths)`."""


class Views(NamedTuple):
    """Answers for B views: logits `(B, classes)`; the lengths' positions, and GMACs `(B,)`."""

    logits: np.ndarray
    lengths: np.ndarray
    gmacs: np.ndarray


class Answer(NamedTuple):
    """The answer for one video: `(name, probability)` of its classes, best first; see `VideoPrediction`."""

    classes: list[tuple[str, float]]
    length: str
    gmacs: float
    logits: np.ndarray


class Runtime:
    """A model with its policy; lengths are positions in `lengths`, longest first."""

    def __init__(
        self,
        content: Mapping[str, Any],
        graphs: Sequence[Graph],
        assigner: Graph | None,
        batch_size: int = 32,
    ) -> None:
        self.content, self.graphs, self.assigner, self.batch_size = content, graphs, assigner, batch_size
        self.lengths, self.policy = content["lengths"], content["policy"]
        usable = self.policy["usable"]
        self._usable = list(range(len(graphs))) if usable is None else usable
        scale = 1 / (255 * np.array(content["clips"]["std"], np.float32))
        shift = -np.array(content["clips"]["mean"], np.float32) * 255 * scale
        self._scale, self._shift = scale.reshape(3, 1, 1, 1), shift.reshape(3, 1, 1, 1)

    @classmethod
    def read(
        cls, folder: str | os.PathLike[str], providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> Runtime:
        """The model in a folder of `revit-video export --to onnx`; `providers` are onnxruntime's.

        Raises:
            ValueError: there is none, or one that is damaged.
        """
        import onnxruntime

        content = _read(os.path.join(folder, POLICY))

        def graph(name: str) -> Graph:
            path = os.path.join(folder, f"{name}.onnx")
            try:
                session = onnxruntime.InferenceSession(path, providers=list(providers))
            except Exception as error:  # onnxruntime has many kinds
                raise ValueError(f"{path}: no graph: {str(error).splitlines()[0]}") from None
            return lambda clips: session.run(None, {"clips": clips})[0]

        assigner = graph("assigner") if content["policy"]["assigner"] else None
        return cls(content, [graph(length) for length in content["lengths"]], assigner)

    def predict(self, clips: np.ndarray) -> Answer:
        """The answer for a video, from all of its views, uint8 `(V, 3, T, H, W)`."""
        views = self(clips, np.zeros(len(clips), np.int64))
        mean = views.logits.mean(axis=0)
        if self.content["clips"]["ensemble"] == "logits":
            scores = self._probabilities(mean)
        else:
            scores = self._probabilities(views.logits).mean(axis=0)
        order = np.argsort(-scores, kind="stable")
        classes = [(self.content["class_names"][n], float(scores[n])) for n in order]
        return Answer(classes, self.lengths[views.lengths[0]], float(views.gmacs.sum()), mean)

    def __call__(self, clips: np.ndarray, videos: np.ndarray | None = None) -> Views:
        """Answers for views, uint8 `(B, 3, T, H, W)`.

        Args:
            videos: number of each view's video `(B,)`; by default every view is its own video.
        """
        count, policy = len(clips), self.policy
        inputs = clips * self._scale + self._shift
        start, gmacs = self._start(inputs, np.arange(count) if videos is None else videos)
        lengths, gmacs, waiting = start.copy(), gmacs.copy(), np.ones(count, bool)
        logits, sums, run = (
            np.zeros((count, len(self.content["class_names"])), np.float32) for _ in range(3)
        )
        for i in sorted(self._usable, reverse=True):
            here = np.flatnonzero(waiting & (start >= i))
            if not len(here):
                continue
            answers = self._run(self.graphs[i], inputs[here])
            gmacs[here] += self.content["gmacs"][i]
            if policy["temperatures"]:
                answers = self._log_probabilities(self._probabilities(answers), policy["temperatures"][i])
            if policy["averaged"]:
                sums[here], run[here] = sums[here] + answers, run[here] + 1
                answers = sums[here] / run[here]
            logits[here], lengths[here] = answers, i
            if policy["thresholds"] is None or i == self._usable[0]:
                waiting[here] = False
            else:
                waiting[here] = self._confidence(answers) < np.float32(policy["thresholds"][i])
        return Views(logits, lengths, gmacs)

    def _start(self, inputs: np.ndarray, videos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first length of each view, and the GMACs of choosing it `(B,)`."""
        rule, count = self.policy["start"], len(inputs)
        if self.assigner is None:
            return np.full(count, rule["length"]), np.zeros(count)
        asked = self._run(self.assigner, inputs)
        if self.policy["assigner"] == "label":
            suffices = _sums_from_the_shortest(_softmax(asked))
        else:
            suffices = _sigmoid(asked)
        if not rule["per_view"]:
            numbers, own = np.unique(videos, return_inverse=True)
            suffices = np.stack([suffices[own == n].mean(axis=0) for n in range(len(numbers))])[own]
        if "prices" in rule:
            worth = suffices - np.array(rule["prices"], np.float32)
            start = np.array(self._usable)[worth[:, self._usable].argmax(axis=1)]
        elif rule["threshold"] is None:
            start = (suffices - np.pad(suffices[:, 1:], ((0, 0), (0, 1)))).argmax(axis=1)
        else:
            enough = suffices >= np.float32(rule["threshold"])
            enough[:, 0] = True
            start = len(self.graphs) - 1 - enough[:, ::-1].argmax(axis=1)
        return start, np.full(count, self.content["assigner_gmacs"])

    def _run(self, graph: Graph, clips: np.ndarray) -> np.ndarray:
        size = self.batch_size
        return np.concatenate([graph(clips[n : n + size]) for n in range(0, len(clips), size)])

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        return _sigmoid(logits) if self.content["multi_label"] else _softmax(logits)

    def _log_probabilities(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        least = np.finfo(np.float32).tiny
        logs = np.log(scores.clip(least))
        if self.content["multi_label"]:
            return (logs - np.log((1 - scores).clip(least))) / np.float32(temperature)
        logs = logs / np.float32(temperature)
        logs = logs - logs.max(axis=-1, keepdims=True)
        return logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))

    def _confidence(self, answers: np.ndarray) -> np.ndarray:
        scores = self._probabilities(answers)
        if not self.content["multi_label"]:
            return scores.max(axis=-1)
        return np.exp(np.log(np.maximum(scores, 1 - scores)).mean(axis=-1))


def _read(path: str) -> dict[str, Any]:
    """A policy as `export` writes it; ValueError for anything else, perhaps of a stranger."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.loads(file.read(LARGEST))
        if content["format"] != FORMAT or content["graphs"] != "onnx":
            raise ValueError("not written by `revit-video export --to onnx` of this version")
        _check(content, content["policy"], content["clips"])
    except (OSError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no policy, or damaged: {type(error).__name__} {error}") from None
    return content


def _check(content: Any, policy: Any, clips: Any) -> None:
    """An error where a value has another kind or count than the lengths, of which names of files are made."""
    lengths, start = content["lengths"], policy["start"]
    each = range(len(lengths))
    usable = list(each) if policy["usable"] is None else policy["usable"]
    places = [*usable, start.get("length", 0)]
    numbers = [*content["gmacs"], content["assigner_gmacs"], *clips["mean"], *clips["std"]]
    optional = [policy["thresholds"], policy["temperatures"], start.get("prices")]
    numbers += [value for values in optional if values for value in values] + [start.get("threshold") or 0]
    wrong = {
        "lengths": not lengths or not all(re.fullmatch(r"\d+(x\d+){1,2}", name) for name in lengths),
        "usable": not usable or any(type(place) is not int or place not in each for place in places),
        "policy": policy["assigner"] not in (None, "label", "sufficiency")
        or ("length" not in start and not {"per_view"} < start.keys() & {"per_view", "threshold", "prices"})
        or (policy["assigner"] is None and "length" not in start),
        "counts": any(values and len(values) != len(each) for values in [*optional, content["gmacs"]])
        or [len(clips["mean"]), len(clips["std"])] != [3, 3],
        "numbers": not all(type(value) in (int, float) and abs(value) < 1e30 for value in numbers)
        or min(clips["std"]) <= 0,
        "class_names": not all(isinstance(name, str) for name in content["class_names"]),
    }
    if names := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise ValueError(f"its {', '.join(names)}")


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _sums_from_the_shortest(values: np.ndarray) -> np.ndarray:
    return values[:, ::-1].cumsum(axis=1)[:, ::-1]
