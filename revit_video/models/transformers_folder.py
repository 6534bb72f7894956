"""Folders of transformers: its TimeSformer, VideoMAE and ViViT, local or from the hub.

Their configuration is read here, and what they leave open is filled in; the weights are renamed by `layouts`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError

from revit_video.models.config import CHOICES, NORM_EPS, ReViTConfig
from revit_video.models.layouts import (
    KERNEL,
    VIDEOMAE,
    Weights,
    fixed_places,
    from_transformers,
    without_decoder,
)
from revit_video.models.pretrained import PretrainedWeights, single_length
from revit_video.models.timm_weights import hub_answers
from revit_video.models.untrusted import CheckpointError, believed, number, one_line, shown, whole
from revit_video.models.vit_layouts import TRANSFORMERS_VITS
from revit_video.runtime.output_dir import open_ordinary, parsed_json

HUB = "hf:"
AT_ONCE = 0.8  # seconds for the hub's first answer
CONFIG, PREPROCESSORS = "config.json", ("preprocessor_config.json", "video_preprocessor_config.json")
SAFETENSORS, TORCH_BIN = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # after either name: where the weights are in several files

# What a config of each model may not change, and what it is where the config does not say.
FIXED: dict[str, dict[str, Any]] = {
    "timesformer": {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS, "qkv_bias": True, "num_channels": 3},
    "videomae": {"num_channels": 3},
    "vivit": {"num_channels": 3},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "timesformer": {"num_frames": 8, "patch_size": 16, "attention_type": "divided_space_time"},
    "videomae": {
        "num_frames": 16,
        "patch_size": 16,
        "tubelet_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "use_mean_pooling": True,
    },
    "vivit": {
        "num_frames": 32,
        "tubelet_size": [2, 16, 16],
        "hidden_act": "gelu_fast",
        "layer_norm_eps": 1e-6,
    },
}
ACTS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
SPACE_ONLY_NOTE = (
    "transformers gives logits for every frame of a space-only model; here, as in TimeSformer's own code, "
    "the frames' class tokens are averaged"
)
DECODER_NOTE = (
    "a pretrained VideoMAE: its decoder and mask token are left out, its last norm and head are new"
)
SIZES = ("num_attention_heads", "image_size", "patch_size", "num_frames", "tubelet_size")
LARGEST = 4096  # of those
KINDS_OF_VALUES = {"use_mean_pooling": bool, "id2label": dict, "architectures": list}
MOST_PLACES = 1 << 17  # of a model whose file does not hold them; a VideoMAE has 1568
MOST_BYTES = 1 << 24  # of a JSON file
MOST_SHARDS = 1000  # files of weights; models of 10^12 parameters have a few hundred
PREPROCESSING = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


def weights_of(path: str, folder: str, state: Weights) -> PretrainedWeights:
    """The model in `folder`, whose weights are `state`; `path` names it in messages."""
    config = read_config(path, folder)
    kind, data = config["model_type"], clips_of(folder, config)
    renamed, notes = from_transformers(state), tuple[str, ...]()
    settings = settings_of(config)
    if kind == "timesformer" and settings["attention"] == "space_only":
        notes = (SPACE_ONLY_NOTE,)
    steps = 1 if kind == "timesformer" else settings["num_frames"] // settings["tubelet"]
    if kind == "videomae" and KERNEL in renamed:
        count = steps * (settings["img_size"] // config["patch_size"]) ** 2
        whole("the number of its tokens", count, 1, MOST_PLACES)
        renamed = without_decoder(renamed) | {"pos_embed": fixed_places(renamed, count)}
        if "head.weight" not in renamed:
            notes = (DECODER_NOTE,)
            renamed = {name: value for name, value in renamed.items() if not name.startswith("norm.")}
    if kind == "vivit":
        renamed = {name: value for name, value in renamed.items() if not name.startswith("pooler.")}
    source = single_length(path, renamed, data=data, notes=notes, steps=steps, **settings)
    _check_patches(path, config, source)
    return source


def _check_patches(path: str, config: dict[str, Any], source: PretrainedWeights) -> None:
    size, patch, side = config["image_size"], config["patch_size"], source.lengths[0].h
    kernel = tuple(source.states[0][KERNEL].shape[2:])
    if size != side * patch or kernel != (patch, patch):
        raise CheckpointError(
            f"{path}: {CONFIG} says image_size {size} and patch_size {patch}, "
            f"its weights are of {side}x{side} patches of {'x'.join(map(str, kernel))} pixels"
        )


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of `ReViTConfig` that a `config` of `read_config` tells."""
    kind = config["model_type"]
    known = dict(
        num_heads=config["num_attention_heads"],
        num_frames=config["num_frames"],
        img_size=config["image_size"],
    )
    if kind == "timesformer":
        return known | dict(attention=config["attention_type"])
    known |= dict(
        tubelet=config["tubelet_size"], act=ACTS[config["hidden_act"]], norm_eps=config["layer_norm_eps"]
    )
    if kind == "vivit":
        return known | dict(attention="joint_space_time", positions="joint", pool="cls")
    pooled = config["use_mean_pooling"] or _pretrained(config)  # whose own is no pooling to be fine-tuned
    after = dict(pool="mean", head_norm_eps=1e-5) if pooled else dict(pool="first")
    return known | VIDEOMAE | after


def _pretrained(config: dict[str, Any]) -> bool:
    names = config.get("architectures") or ()
    return bool(names) and not any("ForVideoClassification" in name for name in names)


# ---- A folder of our model -------------------------------------------------------------------------------


def kind_of(config: ReViTConfig) -> str:
    """The type of transformers' model that comes nearest to `config`."""
    if config.positions == "separate":
        return "timesformer"
    return "vivit" if config.pool == "cls" else "videomae"


def inexpressible(config: ReViTConfig, kind: str) -> list[str]:
    """`stem conv`, each setting that a transformers' model of this kind cannot have."""
    expressible: dict[str, tuple[Any, ...]] = {name: (getattr(ReViTConfig, name),) for name in PARTS}
    last: tuple[float, ...] = (0.0, config.norm_eps)
    if kind != "timesformer":
        expressible["tubelet"] = (config.tubelet,)
        expressible["norm_eps"] = (config.norm_eps,)
        expressible["act"] = tuple(ACTS.values())
        expressible["attention"] = ("joint_space_time",)
    if kind == "vivit":
        expressible["positions"] = ("joint", "fixed")
    if kind == "videomae":
        expressible |= {"positions": ("fixed",), "pool": ("mean", "first")}
        last = (1e-5,) if config.pool == "mean" else last
    expressible["head_norm_eps"] = last
    values = config.to_dict()
    return [f"{name} {values[name]}" for name, able in expressible.items() if values[name] not in able]


PARTS = (
    *("stem", "qkv_bias", "residual_scale", "dense_head", "norm_eps", "token_at_longest", "tubelet"),
    *("positions", "pool", "registers", "pre_norm", "act"),
)
CLASSES = {"timesformer": "Timesformer", "videomae": "VideoMAE", "vivit": "Vivit"}


def config_for(config: ReViTConfig, kind: str, labels: Sequence[str]) -> dict[str, Any]:
    """The `config.json` of a model that `inexpressible` has nothing against."""
    patch = config.img_size // config.lengths[0].h
    said = FIXED[kind] | {
        "architectures": [f"{CLASSES[kind]}ForVideoClassification"],
        "model_type": kind,
        "image_size": config.img_size,
        "num_frames": config.num_frames,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.mlp_ratio * config.embed_dim),
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
    }
    if kind == "timesformer":
        return said | {"attention_type": config.attention, "patch_size": patch}
    act = next(theirs for theirs, ours in ACTS.items() if ours == config.act)
    said |= {"hidden_act": act, "layer_norm_eps": config.norm_eps}
    if kind == "vivit":
        return said | {"tubelet_size": [config.tubelet, patch, patch], "qkv_bias": True}
    pooling = {"use_mean_pooling": config.pool == "mean", "qv_bias": True, "qkv_bias": True}
    return said | {"tubelet_size": config.tubelet, "patch_size": patch} | pooling


def preprocessor_for(size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The `preprocessor_config.json` of clips of `size` pixels."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


# ---- Files of a folder -----------------------------------------------------------------------------------


def read_config(path: str, folder: str) -> dict[str, Any]:
    """Its `config.json`, completed; frames and pixels as numbers.

    Raises:
        CheckpointError: it is none, or of another model.
    """
    file = os.path.join(folder, CONFIG)
    if not os.path.isfile(file):
        raise CheckpointError(
            f"{path}: a folder without {CONFIG}; name a folder of transformers, or a file, such as a run's "
            "model.pyth"
        )
    said = read_object(file)
    kind = said.get("model_type")
    if not isinstance(kind, str) or kind not in FIXED:
        others = ", ".join(f"'{name}'" for name in FIXED)
        file = os.path.join(folder, SAFETENSORS)
        alone = f"; its weights may be read alone, {file}" if os.path.isfile(file) else ""
        raise CheckpointError(
            f"{path} is a model of type {shown(kind)}, not {others.replace(', ', ' or ')}, "
            f"nor one of the image models {', '.join(TRANSFORMERS_VITS)}{alone}"
        )
    config = {"num_attention_heads": 12, "image_size": 224} | DEFAULTS[kind] | FIXED[kind] | said
    differing = [f"{k} {shown(config[k])} (here: {v!r})" for k, v in FIXED[kind].items() if config[k] != v]
    if kind != "timesformer" and config["hidden_act"] not in list(ACTS):
        differing.append(f"hidden_act {shown(config['hidden_act'])} (here: {' or '.join(ACTS)})")
    if differing:
        raise CheckpointError(f"{path} has another arithmetic: {', '.join(differing)}")
    with believed(path, CONFIG):
        if kind == "vivit":
            frames, *patch = config["tubelet_size"]
            config |= {"tubelet_size": frames, "patch_size": patch}
        for name in ("image_size", "patch_size"):
            sides = config[name] if isinstance(config[name], list) else [config[name]]
            one = sides[0] if sides == sides[:1] * len(sides) and kind != "timesformer" else config[name]
            config[name] = one
        _check_values(config)
    return config


def _check_values(config: dict[str, Any]) -> None:
    """ValueError unless what is used of a completed config has the right kinds, and sizes that can be."""
    for name in SIZES:
        value = config.get(name, 1)
        for side in value if isinstance(value, list) else [value]:
            whole(name, side, 1, LARGEST)
    number("layer_norm_eps", config["layer_norm_eps"], 0)
    for name, kind in KINDS_OF_VALUES.items():
        if not isinstance(config.get(name), kind | None):
            raise ValueError(f"{name} must be a {kind.__name__}, got {shown(config[name])}")
    kinds = CHOICES["attention"]
    if (attention := config.get("attention_type", kinds[0])) not in kinds:
        raise ValueError(f"attention_type must be one of {', '.join(kinds)}, got {shown(attention)}")


def clips_of(folder: str, config: dict[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation from the preprocessor; class names where labels are more than numbers."""
    data: dict[str, Any] = {}
    for preprocessor in (os.path.join(folder, name) for name in reversed(PREPROCESSORS)):
        if os.path.isfile(preprocessor):
            with believed(preprocessor, "normalisation"):
                data |= _normalisation(read_object(preprocessor))
    labels = {int(n): str(label) for n, label in config.get("id2label", {}).items()}
    names = [labels[n] for n in sorted(labels)]
    if names and names != [f"LABEL_{n}" for n in range(len(names))]:
        data["class_names"] = names
    return data


def _normalisation(said: dict[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation of pixels from 0 to 1, where the preprocessor tells them.

    ViViT's first scales pixels to -1 .. 1 and then normalises those.
    """
    if "image_mean" not in said or "image_std" not in said:
        return {}
    shifts = str(said.get("video_processor_type")).startswith("Vivit")  # whose config does not say so
    how = PREPROCESSING | {"offset": shifts} | said
    number("rescale_factor", how["rescale_factor"], 1e-9)
    scale = 255 * how["rescale_factor"] if how["do_rescale"] else 255.0
    mean, std = (how["image_mean"], how["image_std"]) if how["do_normalize"] else ([0.0] * 3, [1.0] * 3)
    offset = 1.0 if how["offset"] and how["do_rescale"] else 0.0
    if (scale, offset) != (1.0, 0.0):
        mean, std = [(value + offset) / scale for value in mean], [value / scale for value in std]
    for name, values, low in (("image_mean", mean, -1e6), ("image_std", std, 1e-6)):
        if len(values) != 3:
            raise ValueError(f"{name} must be 3 numbers, got {shown(values)}")
        for value in values:
            number(name, value, low)
    return {"mean": mean, "std": std}


def weights_files(path: str, folder: str) -> dict[str, set[str]]:
    """The files of weights in `folder`: one, or those of its index, each with the names that it must hold.

    Raises:
        CheckpointError: there is none, or not all of them.
    """
    for name in (SAFETENSORS, TORCH_BIN):
        whole = os.path.join(folder, name)
        if os.path.isfile(whole):
            return {whole: set()}
        if os.path.isfile(whole + INDEX):
            shards = shards_in(whole + INDEX)
            if absent := [each for each in shards if not os.path.isfile(os.path.join(folder, each))]:
                raise CheckpointError(
                    f"{path}: {name}{INDEX} names {len(shards)} files, of which "
                    f"{', '.join(map(shown, absent[:3]))} {'is' if len(absent) == 1 else 'are'} not there"
                )
            return {os.path.join(folder, each): names for each, names in shards.items()}
    raise CheckpointError(
        f"{path} holds neither {SAFETENSORS} nor {TORCH_BIN}, and no index ({SAFETENSORS}{INDEX})"
    )


def shards_in(index: str) -> dict[str, set[str]]:
    """The files in the folder of `index` over which the weights are spread, each with their names."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index}: no weight_map, from weights to files")
    shards: dict[str, set[str]] = {}
    for weight, name in places.items():
        if not isinstance(name, str) or os.path.basename(name) != name or name in ("", ".", ".."):
            raise CheckpointError(f"{index}: {shown(name)} is no name of a file in this folder")
        shards.setdefault(name, set()).add(weight)
    if len(shards) > MOST_SHARDS:
        raise CheckpointError(f"{index} names {len(shards)} files; at most {MOST_SHARDS} are read")
    return dict(sorted(shards.items()))


def read_object(path: str) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        with open_ordinary(path, "r", encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise CheckpointError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no such file is")
        content = parsed_json(text)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {one_line(error)}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not an object with keys")
    return content


# ---- The hub ---------------------------------------------------------------------------------------------


def hub_folder(path: str, weights: bool = True) -> str:
    """The local folder with the files of `hf:<owner>/<name>[@revision]`, downloaded where they are not yet.

    Args:
        weights: the weights too, not only what describes them.

    Raises:
        CheckpointError: one line, at once where the hub does not answer; nothing is tried twice.
    """
    repository, _, revision = path.removeprefix(HUB).partition("@")
    if repository.count("/") != 1:
        raise CheckpointError(f"{path}: name a model of the hub as hf:<owner>/<name> or with @<revision>")
    online = not constants.HF_HUB_OFFLINE and hub_answers(AT_ONCE)

    def found(name: str) -> str | None:
        if not online:
            cached = try_to_load_from_cache(repository, name, revision=revision or None)
            return cached if isinstance(cached, str) else None
        try:
            return hf_hub_download(repository, name, revision=revision or None)
        except EntryNotFoundError:
            return None

    try:
        config = found(CONFIG)
        if config is None and not online:
            raise CheckpointError(
                f"{path}: the hub does not answer, and it was not downloaded before; name a folder of it"
            )
        for name in PREPROCESSORS:
            found(name)
        if weights and not _weights_found(found):
            where = "has neither" if online else "is not whole in the cache, and the hub does not answer: no"
            raise CheckpointError(f"{path} {where} {SAFETENSORS} nor {TORCH_BIN}")
    except CheckpointError:
        raise
    except Exception as error:  # the hub's client has many kinds
        raise CheckpointError(f"{path}: cannot be had from the hub: {one_line(error)}") from None
    if config is None:
        raise CheckpointError(f"{path} has no {CONFIG}: it is no model of transformers")
    return os.path.dirname(config)


def _weights_found(found: Callable[[str], str | None]) -> bool:
    """Whether the weights are there, in one file or in all those of an index; `found` downloads them."""
    for name in (SAFETENSORS, TORCH_BIN):
        if found(name) is not None:
            return True
        if (index := found(name + INDEX)) is not None:
            return all(found(shard) is not None for shard in shards_in(index))
    return False
