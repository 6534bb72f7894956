"""The exported policy on numpy has the engine's lengths, logits and costs; the graphs have the model's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import revit_video
from revit_video import flops
from revit_video.adaptive.policies import Policy, assigned, cascade, hybrid
from revit_video.commands.export_model import export_command
from revit_video.commands.predict_files import SHIPPED
from revit_video.data.clips import eval_views
from revit_video.export.runtime import Runtime, _check, _read
from revit_video.export.traced import export, policy_content
from revit_video.models import checkpoint
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import DataSpec
from revit_video.predict import Predictor
from tests.tiny import CLASSES, SIZE, tiny_dvt, tiny_frozen, tiny_revit
from tests.toy import ROOT

WARM = [0.8, 1.3, 1.1]
POLICIES: dict[str, Callable[[], Policy]] = {
    "assigned": lambda: assigned(0.6),
    "assigned, each view": lambda: assigned(0.6, per_view=True),
    "most probable": lambda: assigned(None),
    "cascade": lambda: cascade([1, 0.9, 0.6]),
    "hybrid": lambda: hybrid([0, 1, 2], 0.8, WARM, [1, 0.5, 0]),
    "hybrid, each view": lambda: hybrid([0, 1, 2], 0.8, WARM, [1, 0.5, 0], per_view=True),
    "hybrid, the last answer": lambda: hybrid([0, 2], 0.4, WARM, [1, 0.5, 0], averaged=False),
    "hybrid without an assigner": lambda: hybrid([0, 1], 0.8, WARM),
}
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the packages of the extra `export` are not installed",
)


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return revit_video.load(SHIPPED, "cpu")


@pytest.fixture(scope="module")
def undecided(clips: Tensor) -> Predictor:
    """The shipped model, whose assigner says something else of each clip."""
    predictor = revit_video.load(SHIPPED, "cpu")
    assigner = predictor.new_engine(8, assigned(0.5)).assigner
    assert assigner is not None
    with torch.no_grad():
        logits = assigner(predictor.normalize(clips))
        assigner.head.bias -= logits.median(dim=0).values
        scale = 3 / logits.std(dim=0)
        assigner.head.weight *= scale[:, None]
        assigner.head.bias *= scale
    return predictor


@pytest.fixture(scope="module")
def clips(shipped: Predictor) -> Tensor:
    """24 clips, easy and hard: the shipped ones, ever more noisy."""
    own = torch.cat([eval_views(str(p), shipped.sampling, shipped.grid).clips for p in SHIPPED.glob("*.mp4")])
    noise = torch.randint(256, (8, *own.shape), generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 0.6, 8).view(-1, 1, 1, 1, 1, 1)
    return ((1 - share) * own + share * noise).round().byte().flatten(0, 1)


def saved(model: ResizableModel, folder: Path) -> Predictor:
    """A predictor of a tiny model, with a cascade."""
    data = DataSpec(None, [0.4] * 3, [0.2] * 3, model.num_frames, 1, 30.0, "time", SIZE, 1, 1)
    payload = checkpoint.model_payload(model.float(), data, flops.cost_table(model, 1))
    payload["policy"] = {"cascade_threshold": [0.0, *[0.7] * (len(model.lengths) - 1)]}
    checkpoint.save(str(folder / "model.pyth"), payload)
    return revit_video.load(folder, "cpu", dtype="float32", policy="cascade")


def in_torch(predictor: Predictor) -> Runtime:
    """The runtime, with the model itself in place of its graphs."""

    def graph(run: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
        return torch.inference_mode()(lambda inputs: run(torch.from_numpy(inputs)).numpy())

    model, assigner = predictor.model, predictor.engine.assigner
    graphs = [graph(lambda x, length=length: model(x, length).logits) for length in model.lengths]  # type: ignore[misc]
    return Runtime(
        policy_content(predictor, "onnx"), graphs, graph(assigner) if assigner else None, batch_size=5
    )


@pytest.mark.parametrize("name", POLICIES)
def test_the_policy_is_the_engines(undecided: Predictor, clips: Tensor, name: str) -> None:
    undecided.engine = undecided.new_engine(8, POLICIES[name]())
    _check(content := policy_content(undecided, "onnx"), content["policy"], content["clips"])
    videos = torch.arange(len(clips)) // 2
    expected = undecided.engine(undecided.normalize(clips), videos)
    views = in_torch(undecided)(clips.numpy(), videos.numpy())
    assert views.lengths.tolist() == expected.lengths.tolist() and len(set(views.lengths)) > 1
    assert np.allclose(views.logits, expected.logits, atol=1e-4) and np.allclose(views.gmacs, expected.gmacs)


BAD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a place elsewhere": lambda content: content["lengths"].__setitem__(0, "../../6x6"),
    "a place at all": lambda content: content["lengths"].__setitem__(0, "/etc/6x6"),
    "a length that is none": lambda content: content["lengths"].__setitem__(0, 6),
    "no lengths": lambda content: content.update(lengths=[]),
    "a length too few": lambda content: content["gmacs"].pop(),
    "a usable length that is not there": lambda content: content["policy"].update(usable=[0, 9]),
    "half a usable length": lambda content: content["policy"].update(usable=[0.5]),
    "no start": lambda content: content["policy"].update(start={}),
    "a start of another kind": lambda content: content["policy"].update(start=[1]),
    "a start without an assigner": lambda content: content["policy"].update(assigner=None),
    "another assigner": lambda content: content["policy"].update(assigner="os.system"),
    "thresholds that are text": lambda content: content["policy"].update(thresholds=["a", "b", "c"]),
    "a threshold that is not finite": lambda content: content["policy"].update(thresholds=[0, 0, 1e999]),
    "a spread of nothing": lambda content: content["clips"].update(std=[0.1, 0.0, 0.1]),
    "names that are numbers": lambda content: content.update(class_names=[1, 2]),
    "another version": lambda content: content.update(format="revit_video export 0"),
    "nothing": lambda content: content.clear(),
}


@pytest.mark.parametrize("case", BAD)
def test_a_strangers_policy_is_told(undecided: Predictor, tmp_path: Path, case: str) -> None:
    undecided.engine = undecided.new_engine(8, POLICIES["hybrid"]())
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy_content(undecided, "onnx")))
    content = json.loads(path.read_text())
    assert _read(str(path))["lengths"] == content["lengths"]
    BAD[case](content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: no policy, or damaged: "):
        _read(str(path))


@pytest.mark.parametrize("text", ["", "[]", "1", "{" * 100_000, '{"format": ' + "9" * 9999 + "}", "\\ud800"])
def test_a_policy_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.json").write_text(text)
    with pytest.raises(ValueError, match=r"^.*policy\.json: [^\n]+$"):
        _read(str(tmp_path / "policy.json"))


@pytest.mark.parametrize("make", [tiny_revit, tiny_dvt, tiny_frozen])
@pytest.mark.parametrize("multi_label", [False, True])
def test_every_kind_of_model(tmp_path: Path, make: Any, multi_label: bool) -> None:
    predictor = saved(make(multi_label=multi_label), tmp_path)
    model = predictor.model
    shape = (12, 3, model.num_frames, SIZE, SIZE)
    clips = torch.randint(256, shape, generator=torch.Generator().manual_seed(1)).byte()
    expected = predictor.engine(predictor.normalize(clips))
    views = in_torch(predictor)(clips.numpy())
    assert views.lengths.tolist() == expected.lengths.tolist() and views.logits.shape == (12, CLASSES)
    assert np.allclose(views.logits, expected.logits, atol=1e-4)


def test_the_runtime_needs_no_torch() -> None:
    script = "import sys; import revit_video.export.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@needs_onnx
@pytest.mark.parametrize("policy", ["hybrid", "assigned", "cascade", "4x4"])
def test_onnx_answers_as_predict(clips: Tensor, policy: str, onnx: Path) -> None:
    predictor = revit_video.load(SHIPPED, "cpu", policy=policy)
    graphs = Runtime.read(str(onnx))
    assigner = graphs.assigner if predictor.engine.assigner else None
    runtime = Runtime(policy_content(predictor, "onnx"), graphs.graphs, assigner)
    for path in sorted(SHIPPED.glob("*.mp4")):
        alone = predictor.predict(path)
        answer = runtime.predict(eval_views(str(path), predictor.sampling, predictor.grid).clips.numpy())
        assert answer.classes[0] == (alone.classes[0][0], pytest.approx(alone.classes[0][1], abs=1e-4))
        assert answer.length == str(alone.length) and answer.gmacs == pytest.approx(alone.gmacs)
        assert np.allclose(answer.logits, alone.logits, atol=1e-4)
    expected = predictor.engine(predictor.normalize(clips))
    views = runtime(clips.numpy())
    assert views.lengths.tolist() == expected.lengths.tolist()
    assert np.allclose(views.logits, expected.logits, atol=1e-4)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as ONNX, with its shipped policy, which asks the assigner."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    differences = export(revit_video.load(SHIPPED, "cpu", dtype="float32"), str(folder), "onnx")
    assert max(differences.values()) < 1e-4 and "assigner.onnx" in differences
    return folder


@needs_onnx
def test_the_folder_answers_alone(onnx: Path) -> None:
    """The copied runtime, in another process, beside nothing of the package."""
    script = (
        "import runtime, numpy, sys; m = runtime.Runtime.read('.'); "
        "print(m.predict(numpy.zeros((1, 3, 4, 48, 48), numpy.uint8)).length); "
        "assert not {'torch', 'revit_video'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=onnx, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("6x6", "4x4", "3x3")


def test_torch_export(tmp_path: Path) -> None:
    predictor = saved(tiny_revit(), tmp_path)
    differences = export(predictor, str(tmp_path / "graphs"), "torch_export")
    assert list(differences) == ["8x8.pt2", "4x4.pt2"] and max(differences.values()) < 1e-4
    graph = torch.export.load(tmp_path / "graphs" / "4x4.pt2").module()
    one = torch.randn(1, 3, 3, SIZE, SIZE)
    assert torch.allclose(graph(one), predictor.model(one, "4x4").logits, atol=1e-4)


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {str(tmp_path): "holds neither model.pyth"}
    if find_spec("onnxruntime") is None:
        sources[str(SHIPPED)] = "pip install 'revit_video[export]'"
    for source, told in sources.items():
        with pytest.raises(SystemExit, match="2"):
            export_command(ArgumentParser(), [source, str(tmp_path / "to"), "--to", "onnx"])
        assert told in capsys.readouterr().err
    predictor = saved(tiny_revit(), tmp_path)
    predictor.engine = predictor.new_engine(1, Policy(lambda known: known.rows))
    with pytest.raises(ValueError, match="policy cascade: cannot be exported"):
        export(predictor, str(tmp_path), "torch_export")
