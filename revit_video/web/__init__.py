"""A page on this machine that classifies the videos that are dropped on it: `revit-video web MODEL`."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from revit_video.data.clips import VideoViews, open_video
from revit_video.data.isolate import isolated
from revit_video.data.video import DecodeError
from revit_video.models.assigner import small_frames
from revit_video.predict import TIMEOUT, check_kind
from revit_video.predict.stream import file_views
from revit_video.predict.timeline_page import timeline_page
from revit_video.runtime.html import rendered

if TYPE_CHECKING:
    from revit_video.predict import Predictor, VideoPrediction

TEMPLATES = Path(__file__).parent
TOP = 5  # classes that are shown
KIND = "application/octet-stream"  # which no form of another site can send
# What the page may do: run its own script, ask this server, show what it was given.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "media-src blob:; connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """Of an upload: bytes, seconds until it has arrived, minutes of video, and how many may wait at once."""

    upload: int = 200 << 20
    arrival: float = 120.0
    minutes: float = 10.0
    at_once: int = 8


class Refused(Exception):
    """What was asked for is not done; the message says why, the code is HTTP's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Desk:
    """The predictor behind the page, which answers one question at a time."""

    def __init__(self, predictor: Predictor, bounds: Bounds) -> None:
        self.predictor, self.bounds = predictor, bounds
        self.shipped, self.shares = predictor.policy, budget_shares(predictor)
        self._busy = threading.Lock()
        largest = 3 * predictor.grid.num_views * predictor.sampling.num_frames * predictor.grid.crop_size**2
        self._views = isolated(self._read_views, 0, largest, TIMEOUT)
        self._seconds = isolated(_duration, 0, 0, TIMEOUT)

    def _read_views(self, _: None, path: str) -> VideoViews:
        return file_views(path, self.predictor.sampling, self.predictor.grid)

    def answer(self, path: str, name: str, budget: str) -> dict[str, Any]:
        """What the page shows of a video.

        Args:
            name: of the file on the other machine.
            budget: share of the longest length's cost; empty for the policy as shipped.

        Raises:
            DecodeError: the file cannot be decoded.
            ValueError: there is no such budget.
        """
        with self._busy:
            predictor = self.predictor
            wish = f"budget={budget}" if budget else self.shipped
            if budget and not self.shares:
                raise Refused(422, "this model has no budgets: its run's folder holds no calibration.pyth")
            if predictor.policy != wish:
                predictor.policy = wish
            check_kind(path, predictor.sampling)
            seconds = self._seconds(None, path)
            if seconds > 60 * self.bounds.minutes:
                raise Refused(
                    413, f"{seconds / 60:.1f} minutes long; up to {self.bounds.minutes:g} are taken"
                )
            shown = _in_words(predictor.predict(path), wish) | self._frames(path)
            if seconds >= 2 * predictor.sampling.duration:
                timeline = predictor.timeline(path)
                page = timeline_page(timeline, predictor.model.lengths, "")
                shown["timeline"] = page.replace(os.path.basename(path), name)
            return shown

    def _frames(self, path: str) -> dict[str, Any]:
        """The frames of the first view that the assigner sees, in its size; else a few of the view."""
        clip = self._views(None, path).clips[:1].float()
        assigner = self.predictor.engine.assigner
        asked = assigner is not None and self.predictor.engine.policy.asks_assigner
        if assigner is not None and asked:
            frames = small_frames(clip, assigner.num_frames, assigner.input_size)
        else:
            frames = small_frames(clip, 3, clip.shape[-1])
        pictures = frames.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return {"frames": [_data_uri(picture) for picture in pictures], "asked": asked}


def budget_shares(predictor: Predictor) -> list[float]:
    """The costs that a budget can ask for, in shares of the longest length's; none without a calibration."""
    choices = predictor.choices
    if not os.path.isfile(choices.calibration):
        return []
    points, _ = choices.kept
    shares = {-(-point.gmacs // (choices.costs.gmacs[0] / 100)) / 100 for point in points}
    return sorted(share for share in shares if 0 < share <= 1)


def _in_words(answer: VideoPrediction, wish: str) -> dict[str, Any]:
    factor, unit = (1.0, "GMACs") if answer.longest_gmacs >= 1 else (1000.0, "MMACs")
    return {
        "classes": [[name, f"{100 * share:.1f} %", share] for name, share in answer.classes[:TOP]],
        "length": str(answer.length),
        "cost": f"{factor * answer.gmacs:.3g} of {factor * answer.longest_gmacs:.3g} {unit}, "
        f"{answer.saved:.0f} % saved",
        "policy": wish,
    }


def _duration(_: None, path: str) -> float:
    return float(open_video(path).duration)


def _data_uri(picture: Any) -> str:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def create_app(predictor: Predictor, bounds: Bounds, hosts: list[str]) -> Starlette:
    """The web application.

    Args:
        hosts: names under which it may be asked; others (of a site that points to this machine) are refused.
    """
    desk = Desk(predictor, bounds)
    here: set[Request] = set()  # uploads that arrive or wait; each takes room on the disk

    async def page(_: Request) -> Response:
        shares, engine = desk.shares, predictor.engine
        start = min(shares, key=lambda share: abs(share - 0.5)) if shares else 1.0
        html = rendered(
            TEMPLATES,
            "page.html",
            model=repr(predictor),
            shares=shares,
            start=shares.index(start) if shares else 0,
            megabytes=bounds.upload >> 20,
            most=bounds.upload,
            minutes=bounds.minutes,
            frames="The frames that the assigner saw"
            if engine.policy.asks_assigner
            else "Frames of the clip",
        )
        return HTMLResponse(html, headers=HEADERS)

    async def answer(request: Request) -> Response:
        name = os.path.basename(request.query_params.get("name", "")) or "video"
        folder = tempfile.TemporaryDirectory(prefix="revit_video_web_")
        path = os.path.join(folder.name, f"upload{_suffix(name)}")
        here.add(request)
        try:
            if len(here) > bounds.at_once:
                raise Refused(503, f"{bounds.at_once} videos are waiting here already; try again later")
            await _received(request, path, bounds)
            work = lambda: desk.answer(path, name, request.query_params.get("budget", ""))  # noqa: E731
            return JSONResponse(await run_in_threadpool(work), headers=HEADERS)
        except Refused as error:
            return _error(error.code, str(error), folder.name)
        except DecodeError as error:
            return _error(422, f"{name} cannot be read: {error.reason}", folder.name)
        except ValueError as error:
            return _error(422, str(error), folder.name)
        except ClientDisconnect:
            return _error(400, "the upload was broken off", folder.name)
        except OSError as error:
            logger.error("no answer for an upload: %s", error)
            return _error(503, f"there is no room for it here: {error.strerror}", folder.name)
        except Exception:
            logger.exception("no answer for an upload")
            return _error(500, "no answer, by a fault of this program; its terminal says which", folder.name)
        finally:
            here.discard(request)
            folder.cleanup()

    routes = [Route("/", page), Route("/answer", answer, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


async def _received(request: Request, path: str, bounds: Bounds) -> None:
    """Write the request's body to `path`; `Refused` if it is too large or too slow."""
    if request.headers.get("content-type") != KIND:
        raise Refused(415, f"the body must be the file itself, as {KIND}")
    too_large = Refused(413, f"larger than the {bounds.upload >> 20} MB that are taken")
    if int(request.headers.get("content-length") or 0) > bounds.upload:
        raise too_large

    async def write() -> int:
        size = 0
        with open(path, "wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > bounds.upload:
                    raise too_large
                file.write(part)
        return size

    try:
        size = await asyncio.wait_for(write(), bounds.arrival)
    except asyncio.TimeoutError:
        raise Refused(408, f"the upload took longer than {bounds.arrival:g} s") from None
    if not size:
        raise Refused(422, "the file is empty")


def _suffix(name: str) -> str:
    """The end of a file's name, as far as it says a kind of file."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 6 else ".mp4"


def _error(code: int, message: str, folder: str) -> Response:
    """A message, in which no place on this machine is named."""
    private: Mapping[str, str] = {folder: "…", os.getcwd(): "…", os.path.expanduser("~"): "~"}
    for place, shown in private.items():
        message = message.replace(place, shown)
    return JSONResponse({"error": message}, code, headers=HEADERS)
