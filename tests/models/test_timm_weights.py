"""Without a network: one answer at once, and weights that were downloaded before."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import safetensors.torch
import timm
import torch

from revit_video.models import timm_weights
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.timm_weights import hub_answers, pretrained_network

NAME = "tinynet_e"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine without a network; the requests that were tried."""
    tried: list[str] = []

    def fail(request: Any, timeout: float) -> None:
        tried.append(request.full_url)
        raise URLError(OSError("Name or service not known"))

    monkeypatch.setattr(timm_weights, "urlopen", fail)
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *_, **__: None)
    return tried


def test_without_network_and_cache_there_is_one_request(requests: list[str]) -> None:
    with pytest.raises(OSError, match="^no network, and not downloaded before$"):
        pretrained_network(NAME)
    assert len(requests) == 1


def test_an_assigner_then_starts_from_random_weights(
    requests: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    TokenLengthAssigner(2, model=NAME, stages=2, pretrained=True)
    (message,) = caplog.messages
    assert (
        message
        == f"no ImageNet weights for {NAME}, starting from random ones: no network, and not downloaded before"
    )


def test_without_pretrained_weights_nothing_is_asked(requests: list[str]) -> None:
    TokenLengthAssigner(2, model=NAME, stages=2)
    assert not requests


def test_weights_in_the_cache_are_used(
    requests: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = timm.create_model(NAME)
    path = str(tmp_path / "model.safetensors")
    safetensors.torch.save_file(saved.state_dict(), path)
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *_, **__: path)
    loaded = pretrained_network(NAME)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in saved.state_dict().items())


def http_error() -> HTTPError:
    return HTTPError("url", 403, "Forbidden", {}, io.BytesIO())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (lambda: io.BytesIO(), True),
        (http_error, True),
        (lambda: URLError(OSError("unreachable")), False),
        (lambda: TimeoutError(), False),
    ],
)
def test_any_answer_counts(answer: Callable[[], Any], there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(request: Any, timeout: float) -> Any:
        result = answer()
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(timm_weights, "urlopen", reply)
    assert hub_answers() == there
