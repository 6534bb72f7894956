"""Networks of timm with their published weights, from the hub or, out of its reach, from its cache."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import timm
from huggingface_hub import constants, try_to_load_from_cache

PATIENCE = 5.0  # seconds for the hub's first answer; its own client retries for the better part of a minute
FILES = ("model.safetensors", "pytorch_model.bin")


def pretrained_network(name: str, **options: Any) -> Any:
    """timm's network `name` with its published weights.

    Args:
        options: of `timm.create_model`.

    Raises:
        OSError: the hub does not answer, and the weights are not in its cache.
        Exception: timm's, the hub's or the disk's, of their own kinds.
    """
    hub_id = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if hub_id and (constants.HF_HUB_OFFLINE or not hub_answers()):
        path = _cached(hub_id)
        if path is None:
            raise OSError("no network, and not downloaded before")
        options["pretrained_cfg_overlay"] = {"file": path}
    return timm.create_model(name, pretrained=True, **options)


def hub_answers() -> bool:
    """Whether the hub answers one request, by way of the proxy that the environment names, in time."""
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except (HTTPError, HTTPException):
        return True  # an error, but an answer
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # the hub's client may know other certificates
    except OSError:
        return False
    return True


def _cached(hub_id: str) -> str | None:
    """The file of the weights in the hub's cache, if it is there."""
    repository, _, revision = hub_id.partition("@")
    paths = (try_to_load_from_cache(repository, file, revision=revision or None) for file in FILES)
    return next((path for path in paths if isinstance(path, str)), None)
