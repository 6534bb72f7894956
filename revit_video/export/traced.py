"""One graph per token length, that of the assigner, and the policy as JSON: what `runtime` answers with."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import simplejson
import torch
from torch import Tensor, nn

import revit_video
from revit_video.adaptive.policies import At, Policy, Predicted, Worthiest
from revit_video.export import runtime
from revit_video.length import TokenLength
from revit_video.models.base import ResizableModel
from revit_video.models.untrusted import one_line
from revit_video.runtime.output_dir import atomic_write_text

if TYPE_CHECKING:
    from revit_video.predict import Predictor

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
INLINE = 1 << 30  # bytes of weights beyond which they lie beside an ONNX graph, which may have 2 GiB
EXAMPLE = 2  # clips that a graph is traced with; it takes any number


def export(predictor: Predictor, folder: str, to: str) -> dict[str, float]:
    """Write the graphs, `policy.json` and the runtime to `folder`, in single precision.

    Args:
        to: one of `SUFFIXES`.

    Returns:
        Largest difference of each graph's outputs from the model's, by file name.

    Raises:
        ValueError: a package is missing, the policy has no graph form, or the model cannot be traced.
    """
    if to not in SUFFIXES:
        raise ValueError(f"export to {to!r}: there are {', '.join(SUFFIXES)}")
    needed = ("onnx", "onnxscript", "onnxruntime") if to == "onnx" else ()
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ValueError(f"export to {to}: needs {', '.join(missing)}; pip install 'revit_video[export]'")
    content = policy_content(predictor, to)
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, runtime.POLICY)
    with suppress(FileNotFoundError):
        os.unlink(target)  # what is interrupted is not taken for whole
    model = _plain(predictor.model)
    graphs: dict[str, nn.Module] = {str(length): _AtLength(model, length) for length in model.lengths}
    if (assigner := predictor.engine.assigner) is not None:
        graphs["assigner"] = _plain(assigner)
    clips = torch.randn(EXAMPLE, 3, model.num_frames, model.img_size, model.img_size)
    differences = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished_") as own:  # no link leads out of it
        for name, graph in graphs.items():
            file = name + SUFFIXES[to]
            with _told(file):
                run = _write(graph, clips, os.path.join(own, file), to)
                more = torch.cat([clips, clips.flip(0)])[:3]  # another number than was traced
                differences[file] = float((graph(more) - run(more)).abs().max())
        shutil.copyfile(runtime.__file__, os.path.join(own, os.path.basename(runtime.__file__)))
        for name in os.listdir(own):
            os.replace(os.path.join(own, name), os.path.join(folder, name))
    atomic_write_text(target, simplejson.dumps(content, indent=1) + "\n")
    return differences


def policy_content(predictor: Predictor, to: str) -> dict[str, Any]:
    """What `policy.json` holds: the policy, the costs, and how clips are made."""
    policy, costs = predictor.engine.policy, predictor.engine.costs
    assigner = predictor.engine.assigner
    return {
        "format": runtime.FORMAT,
        "written_by": f"revit_video {revit_video.__version__}",
        "graphs": to,
        "model": predictor.identity,
        "lengths": [str(length) for length in predictor.model.lengths],
        "class_names": predictor.class_names,
        "multi_label": predictor.model.config.multi_label,
        "policy": {
            "name": predictor.policy,
            "start": _start(policy, predictor.policy),
            "thresholds": policy.thresholds,
            "temperatures": policy.temperatures,
            "averaged": policy.averaged,
            "usable": policy.usable,
            "assigner": None if assigner is None else assigner.objective,
        },
        "gmacs": costs.gmacs,
        "assigner_gmacs": costs.assigner,
        "certificate": predictor.certificate,
        "clips": asdict(predictor.data),
    }


def _start(policy: Policy, name: str) -> dict[str, Any]:
    """The rule for the first length of a view."""
    match policy.start:
        case At(i):
            return {"length": i}
        case Predicted(threshold, per_view):
            return {"threshold": threshold, "per_view": per_view}
        case Worthiest(_, prices, per_view):
            return {"prices": list(prices), "per_view": per_view}
    raise ValueError(f"policy {name}: cannot be exported")


class _AtLength(nn.Module):
    """A model at one length: clips -> logits."""

    def __init__(self, model: ResizableModel, length: TokenLength) -> None:
        super().__init__()
        self.model, self.length = model, length

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips, self.length).logits


def _plain(module: nn.Module) -> Any:
    """A copy on the CPU, in single precision, without gradients."""
    return copy.deepcopy(module).cpu().float().eval().requires_grad_(False)


def _write(graph: nn.Module, clips: Tensor, path: str, to: str) -> Callable[[Tensor], Tensor]:
    """Write a graph for any number of clips; returns what reads it back and runs it."""
    shapes = {"clips": {0: torch.export.Dim("batch")}}
    program = torch.export.export(graph.eval(), (clips,), dynamic_shapes=shapes)
    if to == "torch_export":
        torch.export.save(program, path)
        return torch.export.load(path).module()
    size = sum(weight.nbytes for weight in program.state_dict.values())
    options: dict[str, Any] = {"input_names": ["clips"], "output_names": ["logits"], "dynamic_shapes": shapes}
    options |= {"dynamo": True, "verbose": False, "external_data": size > INLINE}
    torch.onnx.export(program, (), path, **options)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


@contextmanager
def _told(file: str) -> Iterator[None]:
    """Silence of the exporters, and their failures in one line."""
    loud = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loud]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loud:
                logger.setLevel(logging.ERROR)
            yield
    except OSError:
        raise
    except Exception as error:  # tracing fails in many ways
        raise ValueError(f"{file}: this model cannot be exported: {one_line(error)}") from error
    finally:
        for logger, level in zip(loud, before, strict=True):
            logger.setLevel(level)
