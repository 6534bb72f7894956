"""Weights as other trainers write them: wrapped, with prefixes, several sets, beside their settings."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from revit_video.models.accounting import patterns
from revit_video.models.layouts import KERNEL
from revit_video.models.untrusted import CheckpointError, check_tensors

# Names of sets of weights, the likeliest to be meant first.
WRAPPERS = (
    *("model_state", "state_dict", "model_state_dict", "model", "module", "net", "weights"),
    *("state_dict_ema", "model_ema", "ema"),
)
DEEPEST = 3  # wrappers around each other
PREFIXES = re.compile(r"^(?:(?:_orig_mod|module|model|backbone|net)\.)+|(?<=\.)_orig_mod\.")

# What only another task than classification reads: decoders, heads of self-supervision, losses.
BESIDE = re.compile(r"decoder\w*(\.|$)|(?!head\.)\w+_head\.|criterion\.|loss\w*\.|projector\.|predictor\.")


class StandIn:
    """What is read of an object that is no tensor and no plain value: nothing."""

    def __new__(cls, *_: object) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


SETTINGS = (  # objects that trainers leave beside the weights
    *("argparse.Namespace", "types.SimpleNamespace", "typing.Any"),
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    *("numpy.ndarray", "numpy.dtype", "builtins.frozenset", "builtins.list", "builtins.dict", "builtins.int"),
    *("datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone", "uuid.UUID"),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
)
DICTIONARIES = (  # of settings, likewise
    *("yacs.config.CfgNode", "fvcore.common.config.CfgNode", "easydict.EasyDict", "addict.addict.Dict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "ml_collections.config_dict.config_dict.ConfigDict"),
)


def no_default(*_: object) -> OrderedDict[Any, Any]:
    """What is read of a `collections.defaultdict`: its entries."""
    return OrderedDict()


def stand_ins() -> AbstractContextManager[Any]:
    """Reads objects of `SETTINGS` as `StandIn`, `DICTIONARIES` as plain ones: nothing of theirs is run."""
    if not hasattr(torch.serialization, "safe_globals"):  # before PyTorch 2.5
        return nullcontext()
    kinds = [name.rpartition(".") for name in SETTINGS]
    return torch.serialization.safe_globals(
        [
            *(type(name, (StandIn,), {"__module__": module}) for module, _, name in kinds),
            *((OrderedDict, name) for name in DICTIONARIES),
            (no_default, "collections.defaultdict"),
        ]
    )


def weights_in(path: str, payload: Mapping[str, Any], key: str = "") -> tuple[str, dict[str, Tensor], str]:
    """The set of weights in a file, its names without the prefixes of wrapping modules.

    Args:
        key: of the set, in dots where it is deeper; empty for the likeliest.

    Returns:
        The key that was taken (empty for the whole file), the weights, and a note if there are others.

    Raises:
        CheckpointError: there is none, or not this one, or it holds more than finite numbers.
    """
    sets = dict(_sets(payload))
    if not sets:
        others = [name for name, value in payload.items() if not isinstance(value, Tensor)]
        raise CheckpointError(
            f"{path} holds no weights, or more than those: {', '.join(map(str, others[:4]))}"
        )
    if key and key not in sets:
        raise CheckpointError(
            f"TRAIN.CHECKPOINT_KEY {key}: {path} holds no such set of weights; "
            f"it has {', '.join(sets) if any(sets) else 'a single one, without a name'}"
        )
    taken = key or min(sets, key=_rank)
    others = [name for name in sets if name != taken]
    check_tensors(path, sets[taken])
    note = f"{taken} taken; TRAIN.CHECKPOINT_KEY picks another: {', '.join(others)}" if others else ""
    return taken, _without_prefixes(path, sets[taken]), note


def network_in(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """A transformer's weights out of those of a larger model, without what is trained beside it.

    Returns:
        Its weights without the prefix that they share, and a note that names what was left out, if any was.
    """
    kernels = [name for name in state if name.endswith(KERNEL)]
    prefix = kernels[0].removesuffix(KERNEL) if len(kernels) == 1 else ""
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if prefix:
        inside |= {name: value for name, value in state.items() if re.match(r"head\.|fc_norm\.", name)}
    kept = {name: value for name, value in inside.items() if not BESIDE.match(name)}
    outside = [n for n in state if not n.startswith(prefix) and n not in kept] + [*(inside.keys() - kept)]
    note = f"left out, trained beside the network: {', '.join(patterns(outside))}" if outside else ""
    return kept, note


def _rank(name: str) -> tuple[int, int]:
    parts = name.split(".")
    return max(WRAPPERS.index(part) if part in WRAPPERS else len(WRAPPERS) for part in parts), len(parts)


def _sets(
    payload: Mapping[str, Any], name: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping from names to tensors alone, by its place in the file."""
    if payload and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in payload.items()):
        if not name or any("." in key for key in payload):
            yield name, dict(payload)
        return
    for key, value in payload.items():
        if isinstance(key, str) and isinstance(value, Mapping) and depth < DEEPEST:
            yield from _sets(value, f"{name}.{key}" if name else key, depth + 1)


def _without_prefixes(path: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    bare = {PREFIXES.sub("", name): value for name, value in weights.items()}
    if len(bare) < len(weights):
        raise CheckpointError(f"{path}: two of its weights have one name without their prefixes")
    return bare
