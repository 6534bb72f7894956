"""Weights of other projects that are not what they say: one line that names the file, and little taken."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import simplejson
import torch
from torch import Tensor

from revit_video.from_cfg.convert import convert
from revit_video.models import checkpoint
from revit_video.models.sources import described, read_source
from revit_video.models.untrusted import CheckpointError
from tests.models.test_layouts import peer_of
from tests.peers import random_timesformer, random_vit

KERNEL, HEAD = "patch_embed.proj.weight", "head.weight"
STATES: dict[str, Callable[[dict[str, Any]], None]] = {
    "no plain tensor: sparse": lambda state: state.update({HEAD: state[HEAD].to_sparse()}),
    "no plain tensor: complex": lambda state: state.update({HEAD: state[HEAD].to(torch.complex64)}),
    "claims": lambda state: state.update({HEAD: torch.zeros(1).expand(1 << 34)}),
    "not finite": lambda state: state[HEAD].view(-1)[0].fill_(math.nan),
    "IndexError": lambda state: state.update({"time_embed": torch.zeros(())}),
    "0-d": lambda state: state.update({KERNEL: torch.tensor(1.0)}),
    "RuntimeError": lambda state: state.update({"pos_embed": torch.cat([state["pos_embed"]] * 2)}),
    "has 5 values": lambda state: state.update({"blocks.0.ls1.gamma": torch.zeros(5)}),
    "holds no weights": lambda state: state.update({HEAD: [1]}),
    "lacks blocks.*.norm1": lambda state: state.update(
        {"blocks.-1.norm1.bias": state.pop("blocks.0.norm1.bias")}
    ),
}


def refused(path: Path, *opts: Any) -> str:
    """The message of reading and converting what is at `path`."""
    with pytest.raises(ValueError, match=".") as caught:
        convert(str(path), str(path.parent / "out.pyth"), "revit", None, opts)
    message = str(caught.value)
    assert str(path) in message and len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("words", STATES)
def test_a_state_that_lies(words: str, tmp_path: Path) -> None:
    state: dict[str, Any] = random_vit().state_dict()
    STATES[words](state)
    torch.save(state, tmp_path / "vit.pth")
    message = refused(tmp_path / "vit.pth", "MODEL.NUM_HEADS", 3)
    assert words.removeprefix("no plain tensor: ") in message or "no plain tensor" in message


CONFIGS: dict[str, dict[str, Any]] = {
    "a model of type ['a']": {"model_type": ["a"]},
    "a model of type {}": {"model_type": {}},
    "hidden_act []": {"hidden_act": []},
    "layer_norm_eps": {"layer_norm_eps": "1e-6"},
    "num_frames": {"num_frames": 10**12},
    "image_size": {"image_size": -1},
    "the number of its tokens": {"image_size": 4096, "patch_size": 4, "num_frames": 4096},
    "tubelet_size": {"tubelet_size": {"a": 1}},
    "patch_size": {"patch_size": [4, "x"]},
    "num_attention_heads": {"num_attention_heads": "three"},
    "use_mean_pooling": {"use_mean_pooling": "yes"},
    "id2label": {"id2label": [1, 2]},
    "ValueError: invalid literal": {"id2label": {"x": "y"}},
    "architectures": {"architectures": "VideoMAEForPreTraining"},
}


@pytest.mark.parametrize("words", CONFIGS)
def test_a_config_of_transformers_that_lies(words: str, tmp_path: Path) -> None:
    folder = tmp_path / "mae"
    peer_of("videomae").save_pretrained(folder)
    content = simplejson.loads((folder / "config.json").read_text()) | CONFIGS[words]
    (folder / "config.json").write_text(simplejson.dumps(content))
    assert words.removeprefix("ValueError: ") in refused(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a":' * 5000, "nested too deeply"),
        ("{" + " " * (1 << 24) + "}", "larger than 16 MiB"),
        ("[" * 3, "not JSON"),
        ('{"image_mean": [0.1], "image_std": [1, 1, 1]}', "image_mean must be 3 numbers"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}', "image_std must be a finite number"),
        ('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "rescale_factor": "x"}', "rescale_factor must"),
    ],
)
def test_a_preprocessor_that_lies(content: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "ts"
    random_timesformer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(content)
    message = refused(folder)
    assert words in message and "preprocessor_config.json" in message


def test_a_safetensors_file_of_holes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(random_vit().state_dict(), path)
    os.truncate(path, 10 << 30)
    if 512 * path.stat().st_blocks > 1 << 27:
        pytest.skip("this disk has no holes")
    assert "of which only" in refused(path)


# ---- Weights in several files ----------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    random_timesformer().save_pretrained(tmp_path / "ts", max_shard_size="20KB")
    return tmp_path / "ts"


def places_in(folder: Path) -> dict[str, Any]:
    return simplejson.loads((folder / INDEX).read_text())["weight_map"]


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-00001-*.safetensors"))


@pytest.mark.parametrize(
    "name",
    [
        *("../weights.bin", "/etc/hostname", "sub/a.bin", "..", ".", "", "a" * 5000, "a\0b", "a\nerror: b"),
        *("\ud800", 3, None, ["a"], {"a": "b"}, 1.5, True),
    ],
)
def test_an_index_names_files_of_its_folder_alone(name: Any, sharded: Path) -> None:
    weight = min(places_in(sharded))
    (sharded / INDEX).write_text(simplejson.dumps({"weight_map": places_in(sharded) | {weight: name}}))
    message = refused(sharded)
    assert "no name of a file in this folder" in message or "not there" in message
    assert len(message) < 1000 and message.isprintable()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not an object"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": ' * 20_000, "nested too deeply"),
        ('{"weight_map": ' + "9" * (1 << 20) + "}", "not JSON"),
        ('{"weight_map": {' + " " * (1 << 24) + "}}", "larger than 16 MiB"),
        (
            simplejson.dumps({"weight_map": {str(n): str(n) for n in range(1001)}}),
            "names 1001 files; at most",
        ),
        ("\x80\x02}.", "not JSON"),
    ],
)
def test_an_index_that_is_none(content: str, words: str, sharded: Path) -> None:
    (sharded / INDEX).write_bytes(content.encode("latin-1"))
    message = refused(sharded)
    assert words in message and INDEX in message


def test_a_shard_lacks_a_weight_or_has_another_ones(sharded: Path) -> None:
    places, first = places_in(sharded), first_shard(sharded)
    absent = {"weight_map": places | {"a.weight": first.name}}
    (sharded / INDEX).write_text(simplejson.dumps(absent))
    assert f"{first.name} lacks 'a.weight'" in refused(sharded)
    other, weight = next((name, weight) for weight, name in places.items() if name != first.name)
    (sharded / INDEX).write_text(simplejson.dumps({"weight_map": places}))
    own = safetensors.torch.load_file(first)
    safetensors.torch.save_file(own | {weight: torch.zeros(3)}, first)
    message = refused(sharded)
    assert f"'{weight}' is in two files" in message and other in message


def test_one_shard_in_the_place_of_all(sharded: Path) -> None:
    first, *others = sorted(set(places_in(sharded).values()))
    for other in others:
        (sharded / other).unlink()
        (sharded / other).symlink_to(first)
    assert "lacks" in refused(sharded)


@pytest.mark.parametrize("kind", ["cut", "empty", "pipe", "folder", "text", "pickle", "holes"])
def test_a_shard_that_is_none(kind: str, sharded: Path) -> None:
    shards = sorted({sharded / name for name in places_in(sharded).values()})
    first, content = shards[0], shards[0].read_bytes()
    first.unlink()
    if kind == "pipe":
        os.mkfifo(first)
    elif kind == "folder":
        first.mkdir()
    elif kind == "holes":  # each small enough, together many
        first.write_bytes(content)
        for shard in shards:
            os.truncate(shard, (1 << 28) - 1)
    else:
        pickled = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueR."
        kinds = {"cut": content[:-1], "empty": b"", "text": b"version https://git-lfs", "pickle": pickled}
        first.write_bytes(kinds[kind])
    assert ("of which only" if kind == "holes" else first.name) in refused(sharded)


# ---- Pickles ---------------------------------------------------------------------------------------------

PAIRS = b"X\x03\x00\x00\x00lol" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(1, 61))
SETS = b"".join(b"0(h%ch%c\x86\x91\x94" % (n, n) for n in range(40))
PICKLES = {
    "a pair of pairs, sixty times": b"\x80\x02}X\x05\x00\x00\x00model" + PAIRS + b"s.",
    "such a pair as a key": b"\x80\x02}" + PAIRS + b"K\x01s.",
    "a deep tuple as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "sets of sets as a key": b"\x80\x04}(\x91\x94" + SETS + b"K\x01s.",
    "what is not there": b"\x80\x02}\x87\x87.",
    "no mark": b"\x80\x02}t.",
    "no memory": b"\x80\x02h\x05.",
    "a list within itself": b"\x80\x02}X\x06\x00\x00\x00formatX\x0d\x00\x00\x00revit_video 1s"
    b"X\x05\x00\x00\x00model]q\x01h\x01as.",
    "a long number": b"\x80\x02}X\x06\x00\x00\x00format\x8a\xff" + b"\x7f" * 255 + b"s.",
}


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_never_ends(case: str, archive: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", PICKLES[case])
            file.writestr("a/version", "3\n")
    else:
        magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
        path.write_bytes(magic + PICKLES[case] + b"\x80\x02].")
    for read in (read_source, described, checkpoint.read):
        with pytest.raises(CheckpointError, match="a.pth"):
            read(str(path))


def test_large_pickles_are_not_refused(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {f"w{n}": torch.zeros(2, 3) for n in range(300)}
    content = {"weights": weights, "many": list(range(20_000)), "state": ((3, (*range(625), None)),) * 3}
    checkpoint.save(str(tmp_path / "a.pyth"), content)
    assert checkpoint.load_payload(str(tmp_path / "a.pyth"))["many"][-1] == 19_999
