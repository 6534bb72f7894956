"""Models as folders of the hub: the same bits come back, the card can be read, offline is said at once."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import simplejson
import torch
from huggingface_hub import HfApi, ModelCard

import revit_video
from revit_video.commands.predict_files import SHIPPED
from revit_video.models import transformers_folder
from revit_video.predict import Predictor


def saved(run: Path, folder: Path) -> Path:
    revit_video.load(run, "cpu").save_pretrained(folder, model_card_kwargs={"license": "apache-2.0"})
    return folder


def test_a_saved_model_is_the_same_bit_by_bit(tmp_path: Path) -> None:
    before, after = revit_video.load(SHIPPED, "cpu"), revit_video.load(saved(SHIPPED, tmp_path / "a"), "cpu")
    clip = next(SHIPPED.glob("*.mp4"))
    assert torch.equal(before.predict(clip).logits, after.predict(clip).logits)
    assert after.identity == before.identity and repr(after) == repr(before)
    old, new = before.payload(), after.payload()
    for part in ("model", "assigner"):
        weights = old[part].pop("weights"), new[part].pop("weights")
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert simplejson.dumps(old) == simplejson.dumps(new)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again: Predictor = Predictor.from_pretrained(tmp_path / "a", device="cpu", policy="longest")
    assert again.policy == "longest"


def test_the_card_tells_what_the_test_measured(toy_run: Path, tmp_path: Path) -> None:
    results = simplejson.loads((toy_run / "results.json").read_text())
    card = ModelCard.load(saved(toy_run, tmp_path) / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "revit_video")
    rows = dict(re.findall(r"^\| (.+?) \| ([\d.]+) % \|", card.text, re.MULTILINE))
    longest = results["lengths"][0]
    assert float(rows[f"always {longest}"]) == round(results["static"][longest]["top1"], 1)
    assert float(rows["adaptive (hybrid)"]) == round(results["adaptive"]["top1"], 1)
    assert "12 videos" in card.text and "certified: " in card.text and str(toy_run) not in card.text


def test_a_model_of_the_hub_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, and what is pushed is what is saved."""
    folder, pushed = saved(SHIPPED, tmp_path / "a"), tmp_path / "pushed"
    monkeypatch.setattr(transformers_folder, "hub_answers", lambda patience: True)

    def download(repository: str, name: str, revision: str | None) -> str:
        assert (repository, revision) == ("owner/name", "v1")
        return str(folder / name)

    monkeypatch.setattr(transformers_folder, "hf_hub_download", download)
    predictor = revit_video.load("hf:owner/name@v1", "cpu")
    assert predictor.identity == revit_video.load(SHIPPED, "cpu").identity

    class Created:
        repo_id = "owner/name"

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Created)
    monkeypatch.setattr(
        HfApi, "upload_folder", lambda *_, folder_path, **__: shutil.copytree(folder_path, pushed)
    )
    predictor.push_to_hub("owner/name")
    assert (pushed / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_offline_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(transformers_folder, "hub_answers", lambda patience: False)
    for ask in (revit_video.load, lambda name: Predictor.from_pretrained(name.removeprefix("hf:"))):
        start = time.monotonic()
        with pytest.raises(ValueError, match="^hf:nobody/nothing: the hub does not answer"):
            ask("hf:nobody/nothing")
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no model that revit_video saved"),
        ({"model": 3}, "its model is not settings by name"),
        ({"data": {"num_frames": 3}}, "its data cannot be used"),
    ],
)
def test_damaged_folders_are_told_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = saved(SHIPPED, tmp_path / "a")
    config = folder / "config.json"
    config.write_text(simplejson.dumps(simplejson.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        revit_video.load(folder, "cpu")


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    folder = saved(SHIPPED, tmp_path / "a")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="model.safetensors: cannot be read"):
        revit_video.load(folder, "cpu")
