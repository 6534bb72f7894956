"""Conversion between all formats of weights: the same logits, or an error of one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import simplejson
import torch
import transformers

import revit_video
from revit_video.models import checkpoint
from revit_video.models.revit import ReViT
from tests.peers import random_timesformer, random_vit
from tests.tiny import random_clips
from tests.toy import tool

HEADS = ("MODEL.NUM_HEADS", 3)


def converted(source: Path, destination: Path, to: str, *opts: object) -> str:
    finished = tool("convert", source, destination, "--to", to, *opts)
    assert finished.code == 0, finished.err
    assert finished.out.startswith(f"weights of {source}\n") and finished.out.endswith(f"\n{destination}\n")
    return finished.out


def refused(*arguments: object) -> str:
    finished = tool("convert", *arguments)
    said = [line for line in finished.err.splitlines() if "does not tell DATA." not in line]
    assert finished.code == 2 and len(said) == 1 and said[0].startswith("error: "), finished
    return said[0]


def model_in(path: Path) -> ReViT:
    return revit_video.load(str(path), "cpu").model


@pytest.fixture
def peer(tmp_path: Path) -> transformers.TimesformerForVideoClassification:
    """A TimeSformer saved in `tmp_path / "peer"`, with class names and normalisation."""
    peer = random_timesformer(id2label={n: name for n, name in enumerate("abcde")})
    peer.save_pretrained(tmp_path / "peer")
    norm = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "peer" / "preprocessor_config.json").write_text(simplejson.dumps(norm))
    return peer


@torch.no_grad()
def test_round_trip_of_a_timesformer_of_transformers(peer: torch.nn.Module, tmp_path: Path) -> None:
    clips = random_clips(2).float()
    expected = peer(clips.transpose(1, 2)).logits
    said = converted(tmp_path / "peer", tmp_path / "a.pyth", "revit")
    assert "\n  copied " in said and "\n  resampled 2: patch_embed.1, pos_embed.1\n" in said
    predictor = revit_video.load(str(tmp_path / "a.pyth"), "cpu")
    ours = predictor.model
    assert [str(length) for length in ours.lengths] == ["8x8", "4x4"] and predictor.class_names == list(
        "abcde"
    )
    torch.testing.assert_close(ours(clips, ours.lengths[0]).cls, expected, rtol=0, atol=1e-4)

    converted(tmp_path / "a.pyth", tmp_path / "back", "transformers")
    back, said_of = transformers.TimesformerForVideoClassification.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(said_of.values())
    assert torch.equal(back.eval()(clips.transpose(1, 2)).logits, expected)
    assert list(back.config.id2label.values()) == list("abcde")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "back")
    assert [*processor.image_mean, *processor.image_std] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert processor.crop_size["height"] == 32

    converted(tmp_path / "back", tmp_path / "b.pyth", "revit")
    first, second = (checkpoint.load_payload(str(tmp_path / name)) for name in ("a.pyth", "b.pyth"))
    weights, again = (payload["model"].pop("weights") for payload in (first, second))
    assert first == second and all(torch.equal(weights[name], again[name]) for name in weights)
    assert (first["data"]["mean"], first["data"]["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@torch.no_grad()
def test_round_trip_of_timesformers_format(attention: str, tmp_path: Path) -> None:
    torch.save(random_vit().state_dict(), tmp_path / "vit.pth")
    kind = ("TIMESFORMER.ATTENTION_TYPE", attention, "DATA.NUM_FRAMES", 3)
    converted(tmp_path / "vit.pth", tmp_path / "a.pyth", "revit", *kind, *HEADS)
    converted(tmp_path / "a.pyth", tmp_path / "official.pyth", "timesformer")
    state = checkpoint.load_payload(str(tmp_path / "official.pyth"))["model_state"]
    assert {"model.blocks.1.attn.qkv.weight", "model.pos_embed", "model.norm.bias"} < set(state)
    assert not [name for name in state if "dist" in name]
    # A space-only model's weights do not tell how many frames they are for.
    frames = ("DATA.NUM_FRAMES", 3) if attention == "space_only" else ()
    converted(tmp_path / "official.pyth", tmp_path / "b.pyth", "revit", *HEADS, *frames)
    clips = random_clips(2).float()
    one, other = model_in(tmp_path / "a.pyth"), model_in(tmp_path / "b.pyth")
    assert other.config.attention == attention
    for length in one.lengths:
        torch.testing.assert_close(one(clips, length).cls, other(clips, length).cls)


@torch.no_grad()
def test_an_image_model_reads_a_still_clip_as_before(tmp_path: Path) -> None:
    """Values that weights do not determine come from the config."""
    vit = random_vit()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    (tmp_path / "three.yaml").write_text(
        "DATA: {NUM_FRAMES: 2, TRAIN_CROP_SIZE: 32, TEST_CROP_SIZE: 32, SAMPLING_RATE: 4}\n"
        "MODEL: {EMBED_DIM: 24, DEPTH: 2, NUM_HEADS: 3, MLP_RATIO: 2, NUM_CLASSES: 0}\n"
        "REVIT: {TOKEN_LENGTHS: [8, 6, 4]}\n"
    )
    cfg = ("--cfg", tmp_path / "three.yaml", "DATA.TARGET_FPS", 8)
    converted(tmp_path / "vit.pth", tmp_path / "a.pyth", "revit", *cfg)
    model = model_in(tmp_path / "a.pyth")
    assert [str(length) for length in model.lengths] == ["8x8", "6x6", "4x4"]
    frame = random_clips(2, frames=1).float()
    still = frame.expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(model(still, 8).cls, vit(frame[:, :, 0]), rtol=0, atol=1e-4)
    data = checkpoint.load_payload(str(tmp_path / "a.pyth"))["data"]
    assert (data["sampling_rate"], data["target_fps"], data["mean"]) == (4, 8.0, [0.45] * 3)


def test_other_classes_are_said(peer: torch.nn.Module, tmp_path: Path) -> None:
    said = converted(tmp_path / "peer", tmp_path / "a.pyth", "revit", "MODEL.NUM_CLASSES", 3)
    assert "head (new: 3 classes, the source has 5)" in said and "  ignored 2: head\n" in said
    assert revit_video.load(str(tmp_path / "a.pyth"), "cpu").class_names == ["class 0", "class 1", "class 2"]


def test_a_run_s_model_keeps_what_it_knows(toy_run: Path, tmp_path: Path) -> None:
    path = toy_run / "model.pyth"
    assert "assigner" in converted(path, tmp_path / "a.pyth", "revit", "REVIT.TOKEN_LENGTHS", [4, 3])
    theirs, ours = checkpoint.load_payload(str(path)), checkpoint.load_payload(str(tmp_path / "a.pyth"))
    assert theirs["data"] == ours["data"] and ours["model"]["spec"]["lengths"] == ["4x4", "3x3"]
    assert theirs["model"]["spec"] | {"lengths": ["4x4", "3x3"]} == ours["model"]["spec"]
    converted(path, tmp_path / "folder", "transformers")
    with torch.no_grad():
        clips = torch.rand(1, 3, 2, 32, 32)
        peer = transformers.TimesformerForVideoClassification.from_pretrained(tmp_path / "folder").eval()
        expected = model_in(path)(clips, 4).cls
        torch.testing.assert_close(peer(clips.transpose(1, 2)).logits, expected, rtol=0, atol=1e-4)


def test_what_cannot_be_expressed(peer: torch.nn.Module, tmp_path: Path) -> None:
    source, to = tmp_path / "peer", tmp_path / "out"
    for lengths, message in (
        ("[4x2]", "4x2 cannot be exported: a TimeSformer's grid is square"),
        ("[7]", "32 px"),
    ):
        for kind in ("timesformer", "transformers"):
            assert message in refused(source, to, "--to", kind, "REVIT.TOKEN_LENGTHS", lengths)
    torch.save(random_vit().state_dict(), tmp_path / "vit.pth")
    still = ("TIMESFORMER.ATTENTION_TYPE", "space_only", *HEADS)
    assert "logits for every frame" in refused(tmp_path / "vit.pth", to, "--to", "transformers", *still)
    assert not to.exists()


def test_what_the_weights_do_not_tell(tmp_path: Path) -> None:
    path, to = tmp_path / "vit.pth", tmp_path / "a.pyth"
    torch.save(random_vit(num_classes=0).state_dict(), path)
    assert "give MODEL.NUM_HEADS n" in refused(path, to, "--to", "revit")
    assert "has no head" in refused(path, to, "--to", "revit", *HEADS)
    converted(path, to, "revit", *HEADS, "MODEL.NUM_CLASSES", 4)
    assert "no such checkpoint" in refused(tmp_path / "nowhere", to, "--to", "revit")


def test_what_is_in_the_way(peer: torch.nn.Module, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("old")
    folder.mkdir()
    assert str(folder) in refused(tmp_path / "peer", folder, "--to", "revit")
    assert str(file) in refused(tmp_path / "peer", file, "--to", "transformers")
    converted(tmp_path / "peer", file, "revit")  # a file is overwritten
    assert model_in(file).num_classes == 5
