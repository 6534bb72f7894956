"""Reading weights of every kind, refusing the rest in one line, and training from them."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import simplejson
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError

from revit_video.from_cfg.model import build_model, data_spec
from revit_video.from_cfg.resolve import resolved
from revit_video.models import checkpoint, saved_epochs, timm_weights, transformers_folder
from revit_video.models.pretrained import at_length, initialise
from revit_video.models.sources import described, read_source
from tests.peers import random_timesformer, random_vit
from tests.tiny import tiny_revit
from tests.toy import LENGTHS, last_checkpoint, run_toy, tool, toy_cfg

TOY_VIT = dict(embed_dim=16, depth=1, num_heads=2, mlp_ratio=4, num_classes=6, patch_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """transformers' TimeSformer with class names, mean and standard deviation."""
    path = tmp_path / "folder"
    peer = random_timesformer(id2label={n: name for n, name in enumerate("abcde")})
    peer.save_pretrained(path)
    norm = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (path / "preprocessor_config.json").write_text(simplejson.dumps(norm))
    return path


def edit(path: Path, **changes: object) -> None:
    path.write_text(simplejson.dumps(simplejson.loads(path.read_text()) | changes))


# ---- Recognised by its content ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrapping", ["bare", "model", "state_dict", "module.", "safetensors"])
def test_an_image_models_file(wrapping: str, tmp_path: Path) -> None:
    state, path = random_vit().state_dict(), tmp_path / "vit.any"
    if wrapping == "safetensors":
        safetensors.torch.save_file(state, path)
    elif wrapping == "module.":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save(state if wrapping == "bare" else {wrapping: state, "epoch": 3}, path)
    source = read_source(str(path))
    assert source.attention is None and described(str(path))[0] == {}
    assert source.states[0].keys() == state.keys()
    assert all(torch.equal(source.states[0][name], value) for name, value in state.items())


@pytest.mark.parametrize("attention", ["divided_space_time", "joint_space_time", "space_only"])
@pytest.mark.parametrize("prefix", ["model.", "module.model.", ""])
def test_timesformers_own_file(prefix: str, attention: str, tmp_path: Path) -> None:
    model = tiny_revit(attention=attention).float()
    state = {f"{prefix}{name}": value for name, value in at_length(model, 0).items()}
    path = str(tmp_path / "official.pyth")
    checkpoint.save(path, {"epoch": 14, "model_state": state, "optimizer_state": {}, "cfg": "TRAIN: ..."})
    source = read_source(path)
    assert source.attention == attention
    assert described(path)[0] == {"mean": [0.45] * 3, "std": [0.225] * 3}
    again = tiny_revit(seed=1, attention=attention).float()
    initialise(again, source)
    clips = torch.rand(1, 3, 3, 32, 32)
    torch.testing.assert_close(again(clips, 8).cls, model(clips, 8).cls)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers(file: str, folder: Path) -> None:
    if file == "pytorch_model.bin":
        torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / file)
        (folder / "model.safetensors").unlink()
    source = read_source(str(folder))
    assert (source.attention, source.num_heads) == ("divided_space_time", 3)
    expected = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "class_names": list("abcde")}
    assert source.data == described(str(folder))[0] == expected


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers_with_its_weights_in_several_files(file: str, folder: Path) -> None:
    whole = read_source(str(folder)).states[0]
    peer = random_timesformer()
    (folder / "model.safetensors").unlink()
    peer.save_pretrained(folder, max_shard_size="20KB")
    index = folder / f"{file}.index.json"
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    if file == "pytorch_model.bin":
        places = simplejson.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        index.write_text(
            simplejson.dumps({"weight_map": {k: v.replace("safetensors", "bin") for k, v in places.items()}})
        )
        (folder / "model.safetensors.index.json").unlink()
        for shard in shards:
            torch.save(safetensors.torch.load_file(shard), shard.with_suffix(".bin"), pickle_protocol=4)
            shard.unlink()
    state = read_source(str(folder)).states[0]
    assert state.keys() == whole.keys() and all(torch.equal(state[name], whole[name]) for name in whole)
    first = next(iter(sorted(folder.glob("*-00001-of-*"))))
    first.unlink()
    with pytest.raises(
        ValueError, match=f"{index.name} names {len(shards)} files, of which '{first.name}' is not"
    ):
        read_source(str(folder))
    for foreign in ("../other.bin", "/etc/hostname", "..", 3, ["a"]):
        index.write_text(simplejson.dumps({"weight_map": {"head.weight": foreign}}))
        with pytest.raises(ValueError, match="is no name of a file in this folder"):
            read_source(str(folder))


def test_numbered_labels_are_no_names(folder: Path) -> None:
    edit(folder / "config.json", id2label={str(n): f"LABEL_{n}" for n in range(5)})
    assert "class_names" not in described(str(folder))[0]


def test_a_name_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm_weights, "hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False: create(name))
    source = read_source("timm:deit_tiny_patch16_224.fb_in1k")
    assert (source.num_heads, source.attention, source.num_classes) == (3, None, 1000)
    assert source.data == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_a_name_of_timm_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False) -> Any:
        if pretrained:
            raise OSError("no route to host\nsecond line")
        return create(name)

    monkeypatch.setattr(timm_weights, "hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"cannot be had here \(no route to host\); name a local file") as e:
        read_source("timm:vit_tiny_patch16_224")
    assert "TRAIN.CHECKPOINT_FILE_PATH ''" in str(e.value) and "\n" not in str(e.value)
    assert described("timm:vit_tiny_patch16_224")[0]["mean"] == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_bose_patch16_224", "timm has no such model; the nearest: vit_base_patch16_224"),
        ("vit_tiny_patch16_224.nonsense", "Invalid pretrained tag"),
        ("resnet18", "it is a ResNet, not a VisionTransformer"),
        ("deit_tiny_distilled_patch16_224", "it is a VisionTransformerDistilled, not"),
        ("vit_base_patch16_siglip_224", "it pools with 'map', not by the class token"),
        ("vit_base_patch16_rope_224", "it is a Eva, not a VisionTransformer"),
    ],
)
def test_names_of_timm_that_do_not_fit(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm_weights, "hub_answers", lambda: True)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False: create(name))
    with pytest.raises(ValueError, match=message) as refused:
        read_source(f"timm:{name}")
    assert str(refused.value).startswith(f"timm:{name}") and "\n" not in str(refused.value)


# ---- As other trainers write them ------------------------------------------------------------------------

KEYS = ("model_state_dict", "state_dict", "state_dict_ema", "net", "weights", "model", "module")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "model.net.", "module.backbone."])
@pytest.mark.parametrize("key", KEYS)
def test_weights_in_wrappers_under_prefixes(key: str, prefix: str, tmp_path: Path) -> None:
    state, path = random_vit().state_dict(), str(tmp_path / "vit.pth")
    wrapped = {f"{prefix}{name}": value for name, value in state.items() if not name.startswith("head")}
    wrapped |= {f"model.{name}": value for name, value in state.items() if name.startswith("head")}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 3, "optimizer": optimizer, key: wrapped}, path)
    source = read_source(path)
    assert source.states[0].keys() == state.keys()
    assert all(torch.equal(source.states[0][name], value) for name, value in state.items())


def test_a_compiled_part_and_a_wrapper_in_a_wrapper(tmp_path: Path) -> None:
    state, path = random_vit().state_dict(), str(tmp_path / "vit.pth")
    inner = {re.sub(r"(blocks\.\d\.)", r"\1_orig_mod.", name): value for name, value in state.items()}
    torch.save({"ema": {"module": inner}, "iteration": 7}, path)
    assert read_source(path).states[0].keys() == state.keys()


def test_of_several_sets_the_log_says_which_and_a_key_picks_another(tmp_path: Path) -> None:
    path, sets = str(tmp_path / "vit.pth"), {}
    for n, key in enumerate(("state_dict_ema", "state_dict")):
        sets[key] = {name: value + n for name, value in random_vit().state_dict().items()}
    torch.save(sets, path)
    for key, taken in (("", "state_dict"), ("state_dict_ema", "state_dict_ema")):
        source = read_source(path, key)
        assert torch.equal(source.states[0]["cls_token"], sets[taken]["cls_token"])
        other = next(name for name in sets if name != taken)
        assert f"{taken} taken; TRAIN.CHECKPOINT_KEY picks another: {other}" in source.notes
    with pytest.raises(ValueError, match="TRAIN.CHECKPOINT_KEY ema: .* it has state_dict_ema, state_dict$"):
        read_source(path, "ema")


class Ran(Exception):
    pass


def touched(*_: object) -> None:
    raise Ran


def test_settings_beside_the_weights_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is run: not even what a class does when it is given a state."""
    path, state = tmp_path / "trained.pth", random_vit().state_dict()
    args = argparse.Namespace(lr=0.1, out=Path("a/b"), best=np.float64(81.5), when=np.int64(3))
    beside = {"args": args, "best": np.float32(0.5), "out": path, "history": np.ones(3)}
    torch.save({"model": state, **beside, "epoch": 3}, path)
    monkeypatch.setattr(argparse.Namespace, "__setstate__", touched, raising=False)
    monkeypatch.setattr(argparse.Namespace, "__init__", touched)
    source = read_source(str(path))
    assert source.states[0].keys() == state.keys()


def test_what_is_refused_says_how_to_keep_the_weights(tmp_path: Path) -> None:
    torch.save({"model": random_vit().state_dict(), "hook": Ran}, tmp_path / "trained.pth")
    with pytest.raises(
        ValueError, match=r"refused: .*Ran\).*torch.save\(torch.load\('a.pth', weights_only=Fa"
    ):
        read_source(str(tmp_path / "trained.pth"))


# ---- The hub ---------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A network that swallows every request; the names that were looked for in the hub's cache."""
    looked: list[str] = []

    def silent(request: Any, timeout: float) -> None:
        time.sleep(30)
        raise OSError("timed out")

    def cached(repository: str, name: str, revision: str | None = None) -> str | None:
        looked.append(f"{repository} {name} {revision}")
        path = tmp_path / "cache" / name
        return str(path) if path.exists() else None

    monkeypatch.setattr(timm_weights, "urlopen", silent)
    monkeypatch.setattr(transformers_folder, "try_to_load_from_cache", cached)
    monkeypatch.setattr(transformers_folder, "hf_hub_download", lambda *_, **__: pytest.fail("a download"))
    return looked


def test_without_a_network_it_is_one_line_within_a_second(no_network: list[str]) -> None:
    for read in (read_source, described):
        start = time.monotonic()
        with pytest.raises(ValueError, match="^hf:MCG-NJU/videomae-base: the hub does not answer") as refused:
            read("hf:MCG-NJU/videomae-base")
        assert time.monotonic() - start < 1.0 and "\n" not in str(refused.value)
    assert no_network == ["MCG-NJU/videomae-base config.json None"] * 2
    with pytest.raises(ValueError, match="name a model of the hub as hf:<owner>/<name>"):
        read_source("hf:videomae-base")


def test_without_a_network_what_was_downloaded_is_read(
    no_network: list[str], folder: Path, tmp_path: Path
) -> None:
    folder.rename(tmp_path / "cache")
    source = read_source("hf:a/b@v1")
    assert source.name == "hf:a/b@v1" and source.attention == "divided_space_time"
    assert (
        described("hf:a/b@v1")[0]["class_names"] == list("abcde") and "a/b model.safetensors v1" in no_network
    )
    (tmp_path / "cache" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="hf:a/b is not whole in the cache, and the hub does not answer"):
        read_source("hf:a/b")


def test_what_is_at_the_hub_is_downloaded_once(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    asked: list[str] = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append(name)
        if not (folder / name).exists():
            raise EntryNotFoundError(name)
        return str(folder / name)

    monkeypatch.setattr(transformers_folder, "hub_answers", lambda patience: True)
    monkeypatch.setattr(transformers_folder, "hf_hub_download", download)
    assert described("hf:a/b")[0]["mean"] == [0.1, 0.2, 0.3]
    assert "model.safetensors" not in asked  # only what describes it
    assert read_source("hf:a/b").num_heads == 3 and "model.safetensors" in asked
    assert "pytorch_model.bin" not in asked
    (folder / "model.safetensors").unlink()
    random_timesformer().save_pretrained(folder, max_shard_size="20KB")
    assert read_source("hf:a/b").num_heads == 3
    assert {path.name for path in folder.glob("model-*.safetensors")} <= set(asked)

    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("401 Client Error\nlong")

    monkeypatch.setattr(transformers_folder, "hf_hub_download", broken)
    with pytest.raises(ValueError, match=r"^hf:a/b: cannot be had from the hub: 401 Client Error$"):
        read_source("hf:a/b")


# ---- Refused ---------------------------------------------------------------------------------------------


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")


Making = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such checkpoint"),
        (lambda path: path.write_text("some notes\n"), "not a checkpoint, or damaged"),
        (lambda path: path.write_text('{"a": 1}' + 8 * "{"), "not a checkpoint, or damaged"),
        (lambda path: path.write_bytes(b""), "not a checkpoint, or damaged"),
        (zip_of_text, "not a checkpoint, or damaged"),
        (lambda path: path.write_bytes(pickle.dumps(print, protocol=2)), "refused: it holds a Python object"),
        (lambda path: torch.save({"args": print, "model": {}}, path), "refused: it holds a Python object"),
        (lambda path: torch.save({"args": argparse.Namespace(), "model": {}}, path), "more than those: args"),
        (lambda path: torch.save({"weight": torch.ones(2)}, path), "holds no ViT or TimeSformer: it lacks"),
        (
            lambda path: torch.save({"cfg": "x", "model": 3}, path),
            "holds no weights, or more than those: cfg",
        ),
        (lambda path: torch.save([torch.ones(2)], path), "not a checkpoint: holds a list"),
        (lambda path: torch.save({"format": "revit_video 1"}, path), "holds no model; a run's model.pyth"),
        (lambda path: path.mkdir(), "a folder without config.json"),
    ],
)
def test_what_is_no_source(make: Making, message: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    make(path)
    for read in (read_source, described):
        with pytest.raises(ValueError, match=message) as refused:
            read(str(path))
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "swin"}, "is a model of type 'swin', not 'timesformer' or 'videomae' or 'vivit'"),
        ({"model_type": "vivit", "hidden_act": "relu"}, "hidden_act 'relu' (here: gelu or gelu_fast or"),
        ({"hidden_act": "gelu_new"}, "has another arithmetic: hidden_act 'gelu_new' (here: 'gelu')"),
        ({"layer_norm_eps": 1e-12, "qkv_bias": False}, "layer_norm_eps 1e-12 (here: 1e-06), qkv_bias False"),
        ({"image_size": 36}, "image_size 36 and patch_size 4, its weights are of 8x8 patches of 4x4"),
        ({"image_size": [32, 32]}, "image_size [32, 32] and patch_size 4"),
    ],
)
def test_folders_with_another_arithmetic(changes: dict[str, Any], message: str, folder: Path) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(ValueError) as refused:
        read_source(str(folder))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "model: timesformer", "not JSON"),
        ("config.json", "[]", "not an object with keys"),
        ("model.safetensors", None, "holds neither model.safetensors nor pytorch_model.bin"),
        ("model.safetensors", "short", "model.safetensors: not a checkpoint, or damaged"),
    ],
)
def test_damaged_folders(file: str, content: str | None, message: str, folder: Path) -> None:
    (folder / file).unlink()
    if content:
        (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_source(str(folder))
    assert "\n" not in str(refused.value)


# ---- Mean and standard deviation travel ------------------------------------------------------------------

OPEN = ("DATA.MEAN", [], "DATA.STD", [])


def mean(cfg: Any) -> Any:
    return cfg.DATA.MEAN[0], cfg.DATA.STD[0]


def test_a_run_normalises_as_the_checkpoint_it_uses_first(
    folder: Path, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = (*OPEN, "TRAIN.CHECKPOINT_FILE_PATH", folder)
    run, other = tmp_path / "run", tmp_path / "other.pyth"
    for path, value in ((run / "checkpoints" / "epoch_00001.pyth", 0.7), (other, 0.8)):
        cfg = toy_cfg(videos, tmp_path, "DATA.MEAN", [value] * 3)
        checkpoint.save(str(path), checkpoint.model_payload(build_model(cfg), data_spec(cfg, None), {}))
    fresh, begun = (toy_cfg(videos, where, *start) for where in (tmp_path / "fresh", run))
    assert mean(resolved(fresh, ["train", "test"])) == (0.1, 0.4)
    assert mean(resolved(begun, ["train"])) == (0.7, 0.1)  # goes on from its own
    anew = toy_cfg(videos, run, *start, "TRAIN.AUTO_RESUME", False)
    assert mean(resolved(anew, ["train"])) == (0.1, 0.4)
    assert mean(resolved(anew, ["test"])) == (0.7, 0.1)
    named = toy_cfg(videos, run, *start, "TEST.CHECKPOINT_FILE_PATH", other)
    assert mean(resolved(named, ["mine", "test"])) == (0.8, 0.1)
    assert mean(resolved(toy_cfg(videos, tmp_path / "none", *OPEN), ["train"])) == (0.45, 0.225)
    assert not caplog.records
    nowhere = toy_cfg(videos, tmp_path, *OPEN, "TRAIN.CHECKPOINT_FILE_PATH", "nowhere.pyth")
    assert mean(resolved(nowhere)) == (0.45, 0.225)  # no stage, no checkpoint
    with pytest.raises(ValueError, match="nowhere.pyth: no such checkpoint"):
        resolved(nowhere, ["train"])


def test_another_mean_than_the_checkpoints_is_said(
    folder: Path, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = ("DATA.MEAN", [0.5] * 3, "DATA.STD", [], "TRAIN.CHECKPOINT_FILE_PATH", folder)
    assert mean(resolved(toy_cfg(videos, tmp_path, *given), ["train"])) == (0.5, 0.4)
    (record,) = caplog.records
    assert f"DATA.MEAN is [0.5, 0.5, 0.5], but {folder} was trained with [0.1, 0.2, 0.3]" in record.message


def test_an_image_models_file_tells_no_mean(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "vit.pth"
    torch.save(random_vit().state_dict(), path)
    cfg = toy_cfg(videos, tmp_path, *OPEN, "TRAIN.CHECKPOINT_FILE_PATH", path)
    assert mean(resolved(cfg, ["train"])) == (0.45, 0.225)
    assert "does not tell DATA.MEAN" in caplog.text and "does not tell DATA.STD" in caplog.text


# ---- Training from them ----------------------------------------------------------------------------------


def test_training_starts_from_an_image_model(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a rate of next to nothing, what is saved is what was started from."""
    vit = random_vit(**TOY_VIT)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    start = (
        "TRAIN.CHECKPOINT_FILE_PATH",
        tmp_path / "vit.pth",
        "SOLVER.BASE_LR",
        1e-12,
        "TRAIN.EVAL_PERIOD",
        0,
    )
    run_toy(videos, tmp_path / "run", *start, stages=["train"])
    assert "weights of" in (said := capsys.readouterr().err) and "blocks.*.temporal_fc (zero)" in said
    weights = last_checkpoint(tmp_path / "run")["model"]["weights"]
    torch.testing.assert_close(weights["blocks.0.attn.qkv.weight"], vit.blocks[0].attn.qkv.weight.detach())
    torch.testing.assert_close(
        weights["blocks.0.temporal_attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"]
    )


def test_heads_that_nothing_tells_are_asked_for(videos: Path, tmp_path: Path) -> None:
    """A DeiT-S has 6 heads; read with the 12 of another preset, its weights fit and mean nothing."""
    torch.save(random_vit(**TOY_VIT | {"embed_dim": 128}).state_dict(), tmp_path / "vit.pth")
    start = ("TRAIN.CHECKPOINT_FILE_PATH", tmp_path / "vit.pth", "MODEL.EMBED_DIM", 128)
    message = (
        "^MODEL.NUM_HEADS: .*vit.pth does not tell .* 4 of .* 32 channels each.* such as MODEL.NUM_HEADS 2$"
    )
    with pytest.raises(ValueError, match=message):
        run_toy(videos, tmp_path / "run", *start, "MODEL.NUM_HEADS", 0, stages=["train"])
    sizes = (
        "MODEL: {ARCH: timesformer_tiny, EMBED_DIM: 128, DEPTH: 1}\nREVIT: {TOKEN_LENGTHS: ['4x4', '2x2']}\n"
    )
    (tmp_path / "a.yaml").write_text(sizes)
    crops = [word for key in ("TRAIN_JITTER_SCALES", "TRAIN_CROP_SIZE", "TEST_CROP_SIZE")
             for word in (f"DATA.{key}", [32, 32] if key.endswith("SCALES") else 32)]  # fmt: skip
    done = tool("convert", tmp_path / "vit.pth", tmp_path / "a.pyth", "--to", "revit", "--cfg",
                tmp_path / "a.yaml", *crops)  # fmt: skip
    assert done.code == 2 and "give their number, such as MODEL.NUM_HEADS 2" in done.err
    run_toy(videos, tmp_path / "run", *start, "MODEL.NUM_HEADS", 4, "TRAIN.EVAL_PERIOD", 0, stages=["train"])


def test_training_starts_from_a_model_of_other_classes_and_lengths(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, theirs = tmp_path / "start.pyth", toy_cfg(videos, tmp_path, "MODEL.NUM_CLASSES", 7)
    checkpoint.save(str(path), checkpoint.model_payload(build_model(theirs), data_spec(theirs, None), {}))
    changes = ("REVIT.TOKEN_LENGTHS", [LENGTHS[0], "3x3"], "DATA.NUM_FRAMES", 3)
    start = ("TRAIN.CHECKPOINT_FILE_PATH", path, "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, tmp_path / "run", *start, *changes, stages=["train"])
    said = capsys.readouterr().err
    assert "head (new: 6 classes, the source has 7)" in said and "time_embed" in said
    assert last_checkpoint(tmp_path / "run")["model"]["spec"]["lengths"] == ["4x4", "3x3"]


def test_another_model_is_refused_with_its_differences(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    path = saved_epochs.latest(str(toy_run / "checkpoints"))
    changes = ("TRAIN.CHECKPOINT_FILE_PATH", path, "MODEL.DEPTH", 2)
    with pytest.raises(ValueError, match=r"is of another model: depth 1 \(here: 2\)$"):
        run_toy(videos, tmp_path / "run", *changes, stages=["train"])
