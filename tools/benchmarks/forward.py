"""Inference speed: against transformers, against FLOPs, and adaptive against static."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks import decode
from benchmarks.timesformer import (
    LENGTHS,
    PRODUCT_GMACS,
    base,
    clock,
    gmacs,
    peer,
    products,
    random_clips,
    videomae,
)
from benchmarks.timing import Effort, Measurement, Target, Timing, interleaved, milliseconds, ratio
from revit_video import flops
from revit_video.adaptive.engine import Engine, Prediction
from revit_video.adaptive.policies import Costs, Policy, static
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.inference import for_inference, inference_dtype, logits_at

SHORT_SHARES = (0, 25, 45, 75, 100)  # percent of clips
ADAPTIVE_CLIPS, ADAPTIVE_BATCH = 20, 4
Action = Callable[[], object]


@torch.inference_mode()
def forward(device: torch.device, effort: Effort) -> list[Measurement]:
    """Full length against transformers' TimeSformer with the same weights, and against matrix products."""
    model = base(device, LENGTHS[:1])
    theirs = peer(model)
    on_cpu = device.type == "cpu"
    quick = inference_dtype("auto", model)
    readers = {name(dtype): for_inference(model, dtype) for dtype in dict.fromkeys((torch.float32, quick))}
    their_dtype = torch.float32 if on_cpu else quick
    theirs.to(their_dtype)
    rows = []
    for _, batch in effort.parts({f"batch {n}": n for n in ((1, 8) if on_cpu else (1, 8, 32))}):
        clips = random_clips(model, batch)
        swapped = clips.transpose(1, 2).to(their_dtype)
        actions: dict[str, Action] = {"transformers": lambda x=swapped: theirs(x).logits}  # type: ignore[misc]
        for name_, reader in readers.items():
            actions[name_] = partial(logits_at, reader, clips, LENGTHS[0])
        for dtype in {their_dtype, quick, torch.float32}:
            actions |= {f"{way} {name(dtype)}": do for way, do in products(device, dtype).items()}
        rounds = effort.rounds if batch == 1 else max(3, effort.rounds // 3)
        times = interleaved(actions, effort, device, clock(device), rounds)
        rows += _forward_rows(batch, times, readers, gmacs(model, 0), their_dtype, on_cpu)
    return rows


def _forward_rows(
    batch: int,
    times: dict[str, Timing],
    readers: dict[str, ResizableModel],
    clip_gmacs: float,
    their_dtype: torch.dtype,
    on_cpu: bool,
) -> list[Measurement]:
    rows = [milliseconds(f"transformers {name(their_dtype)}, batch {batch}", times["transformers"])]
    for dtype in readers:
        ours = times[dtype]
        rows.append(milliseconds(f"ours {dtype}, batch {batch}", ours))
        faster = 1.7 if on_cpu else 2.0
        target = Target(at_least=faster) if dtype == "bfloat16" else None
        rows.append(ratio(f"transformers / ours {dtype}, batch {batch}", times["transformers"], ours, target))
        ways = {way: times[f"{way} {dtype}"] for way in ("torch", "ours")}
        for way, product in ways.items():
            rate = [PRODUCT_GMACS / seconds for seconds in product.seconds]
            rows.append(Measurement.of(f"a matrix product, {way} {dtype}", rate, "GMACs/s"))
        floor = min(ways.values(), key=lambda timing: timing.median)
        shares = [
            100 * batch * clip_gmacs / PRODUCT_GMACS * product / seconds
            for product, seconds in zip(floor.seconds, ours.seconds, strict=True)
        ]
        wanted = 85 if on_cpu and dtype == "float32" else 50 if batch == 32 and dtype == "bfloat16" else None
        target = Target(at_least=wanted) if wanted else None
        title = f"ours {dtype}, batch {batch}: of the faster product's rate"
        rows.append(Measurement.of(title, shares, "%", target))
    return rows


@torch.inference_mode()
def lengths(device: torch.device, effort: Effort) -> list[Measurement]:
    """Time ratio of each length against its FLOPs ratio."""
    model = base(device)
    batch = 4 if device.type == "cpu" else 32
    clips = random_clips(model, batch)
    rows = []
    for precision, dtype in effort.parts(
        {name(d): d for d in (inference_dtype("auto", model), torch.float32)}
    ):
        reader = for_inference(model, dtype)
        actions: dict[str, Action] = {length: partial(logits_at, reader, clips, length) for length in LENGTHS}
        times = interleaved(actions, effort, device, clock(device))
        for i, length in enumerate(LENGTHS):
            title = f"{length} {precision}, batch {batch}"
            rows.append(milliseconds(title, times[length], batch))
            if i:
                promised = gmacs(model, i) / gmacs(model, 0)
                each = _ratios(times[length], times[LENGTHS[0]], promised)
                rows.append(Measurement(f"{title}: FLOPs ratio", promised, ""))
                rows.append(
                    Measurement.of(f"{title}: time ratio / FLOPs ratio", each, "", Target(at_most=1.10))
                )
    return rows


@torch.inference_mode()
def backbones(device: torch.device, effort: Effort) -> list[Measurement]:
    """TimeSformer-base and VideoMAE-B at each length: promised and measured speed-up, and the floor."""
    rows = []
    batch = 1 if device.type == "cpu" else 32
    for title, make in effort.parts({"TimeSformer-base": base, "VideoMAE-B": videomae}):
        model = make(device)
        dtype = inference_dtype("auto", model)
        reader, clips = for_inference(model, dtype), random_clips(model, batch)
        actions: dict[str, Action] = {length: partial(logits_at, reader, clips, length) for length in LENGTHS}
        actions |= products(device, dtype)
        times = interleaved(actions, effort, device, clock(device))
        floor = min((times[way] for way in ("torch", "ours")), key=lambda timing: timing.median)
        for i, length in enumerate(LENGTHS):
            own, promised = times[length], gmacs(model, 0) / gmacs(model, i)
            rows.append(milliseconds(f"{title} {length}, {name(dtype)}, batch {batch}", own, batch))
            shares = [
                100 * batch * gmacs(model, i) / PRODUCT_GMACS * product / seconds
                for product, seconds in zip(floor.seconds, own.seconds, strict=True)
            ]
            rows.append(Measurement.of(f"{title} {length}: of the faster product's rate", shares, "%"))
            if i:
                measured = [1 / each for each in _ratios(own, times[LENGTHS[0]], 1)]
                rows.append(Measurement(f"{title} {length}: speed-up by FLOPs", promised, "x"))
                rows.append(Measurement.of(f"{title} {length}: measured speed-up", measured, "x"))
    return rows


@torch.inference_mode()
def adaptive(device: torch.device, effort: Effort) -> list[Measurement]:
    """Adaptive evaluation against static full length, for several shares of clips on the short length."""
    model = base(device, (LENGTHS[0], LENGTHS[-1]))
    reader = for_inference(model, inference_dtype("auto", model))
    assigner = TokenLengthAssigner(2).to(device).for_inference()
    count, batch = (ADAPTIVE_CLIPS, ADAPTIVE_BATCH) if device.type == "cpu" else (20 * 32, 32)
    clips = random_clips(model, batch)
    cost = [gmacs(model, i) for i in range(2)]
    costs = Costs(cost)
    actions: dict[str, Action] = {
        "static": partial(stream, Engine(reader, static(0), costs, None, batch), clips, count),
        "assigner": lambda: [assigner(clips) for _ in range(count // batch)],
        "copying": lambda: clips.index_select(0, torch.arange(batch, device=device)),
        "short": partial(logits_at, reader, clips, LENGTHS[-1]),
        "short alone": partial(logits_at, reader, clips[:1], LENGTHS[-1]),
    }
    for share in SHORT_SHARES:
        policy = short_share(count, share)
        actions[str(share)] = partial(stream, Engine(reader, policy, costs, None, batch), clips, count)
    with TemporaryDirectory() as folder:
        path = decode.write_moving_texture(Path(folder) / "a.mp4")
        actions["decoding"] = lambda: decode.ours(path, "pyav")
        rounds = effort.rounds if device.type == "cuda" else max(2, effort.rounds // 2)  # each takes minutes
        times = interleaved(actions, effort, device, clock(device), rounds)
    asking = flops.assigner_macs(assigner, model.num_frames, model.img_size).gmacs
    rows = [
        milliseconds("static 14x14", times["static"], count),
        milliseconds("the assigner", times["assigner"], count),
        milliseconds("copying into a bucket", times["copying"], batch),
        milliseconds(f"7x7, in batches of {batch}", times["short"], batch),
        milliseconds("7x7, alone", times["short alone"]),
        milliseconds("decoding (PyAV)", times["decoding"]),
    ]
    for share in SHORT_SHARES:
        rows += _adaptive_rows(share, times, cost, asking, count)
    return rows


def _adaptive_rows(
    share: int, times: dict[str, Timing], cost: list[float], asking: float, count: int
) -> list[Measurement]:
    short = share / 100
    mixed = (1 - short) * cost[0] + short * cost[1]
    promised = cost[0] / mixed
    adaptive_ = times[str(share)].seconds
    columns = zip(
        times["static"].seconds, adaptive_, times["assigner"].seconds, times["decoding"].seconds, strict=True
    )
    alone, asked, decoded = [], [], []
    for longest, model, assigner, decoding in columns:
        alone.append(longest / model / promised)
        asked.append(longest / (model + assigner) / (cost[0] / (mixed + asking)))
        decoded.append((longest + count * decoding) / (model + assigner + count * decoding))
    title = f"{share} % of clips at 7x7"
    return [
        Measurement(f"{title}: speed-up by FLOPs", promised, "x"),
        Measurement.of(f"{title}: measured / promised, model", alone, "", Target(at_least=0.95)),
        Measurement.of(f"{title}: measured / promised, with assigner", asked, "", Target(at_least=0.90)),
        Measurement.of(f"{title}: speed-up, with assigner and decoding in turn", decoded, "x"),
    ]


def evenly_mixed(count: int, share: int) -> Tensor:
    """1 for each clip of the short length, else 0: `share` percent of ones, evenly interleaved."""
    edges = torch.arange(count + 1) * share // 100
    return edges.diff()


def short_share(count: int, share: int) -> Policy:
    """Of each `count` clips, those of `evenly_mixed` at the second length and the others at the first."""
    lengths = evenly_mixed(count, share)
    return Policy(lambda known: lengths[known.rows % count])


def stream(engine: Engine, clips: Tensor, count: int) -> list[Prediction]:
    """Submits `clips` again and again, `count` in all, as an evaluation would."""
    done: list[Prediction] = []
    for _ in range(count // len(clips)):
        done += engine.submit(clips)
    return [*done, *engine.flush()]


def _ratios(above: Timing, below: Timing, promised: float) -> list[float]:
    return [a / b / promised for a, b in zip(above.seconds, below.seconds, strict=True)]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
