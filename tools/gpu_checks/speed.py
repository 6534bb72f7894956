"""Where the time goes: attention, training steps, inference with and without graphs, compilation."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.timesformer import base, gmacs, random_clips, videomae
from benchmarks.training import TimedStep
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_checks.report import Report, distance
from revit_video.models.inference import for_inference, logits_at
from revit_video.models.revit import ReViT
from revit_video.models.stem import project_by_product
from revit_video.runtime.ranks import Ranks
from revit_video.train.losses import Distillation
from revit_video.train.optim import make_optimizer
from revit_video.train.steps import MixedLengthStep

TITLE = "TimeSformer-base, 14x14 + 7x7"
RATE = 800e12  # operations/s of bfloat16 products that an H100 or H200 reaches
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
SUITES = ("adaptive", "forward", "many_files", "kinetics")
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def temporal_attention(report: Report) -> None:
    """Attention of 8 clips over 8 frames (floors on an H100: 0.03 ms, both ways 0.09) and 197 tokens."""
    clips, heads, width = (1, 4, 24) if report.tiny else (8, 12, 64)
    tokens = 49 if report.tiny else 196
    over_time, in_space = (clips, 8, tokens * heads, width), (clips * 8, tokens + 1, heads, width)
    ways: dict[str, Attention] = {"default": F.scaled_dot_product_attention}
    ways |= {name: _by(backend) for name, backend in BACKENDS.items()} if report.is_gpu else {}
    ours = {"ours": _fused} if report.is_gpu else {}
    for title, shape, more in (("time", over_time, ours), ("space", in_space, {})):
        inputs = [torch.randn(shape, device=report.device, dtype=torch.bfloat16) for _ in range(3)]
        for x in inputs:
            x.requires_grad_()
        for name, way in (ways | more).items():
            try:
                _time_attention(report, f"{title}, {name}", way, inputs)
            except RuntimeError as error:
                report.figure(f"{title}, {name}: {str(error).splitlines()[0][:90]}")


def _time_attention(report: Report, title: str, way: Attention, inputs: list[Tensor]) -> None:
    q, k, v = (x.transpose(1, 2) for x in inputs)
    error = distance(way(q, k, v), F.scaled_dot_product_attention(q.double(), k.double(), v.double()))
    up = torch.randn_like(q)
    with torch.no_grad():
        forward = report.milliseconds(lambda: way(q, k, v), 10)
    report.peak_gib()
    both = report.milliseconds(lambda: torch.autograd.grad(way(q, k, v), inputs, up), 10)
    report.figure(title, forward_ms=forward, both_ms=both, error=error, peak_gib=report.peak_gib())


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from revit_video.models.fused_time import attend_over_time

    return attend_over_time(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def _by(backend: SDPBackend) -> Attention:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return attend


def training(report: Report) -> None:
    """A step in bfloat16, eager: TimeSformer-base at two lengths and one, VideoMAE-B; its dearest kernels."""
    for title, model, batch in _trained(report):
        step = _step(report, model, batch)
        report.peak_gib()
        _tell_step(report, title, step, batch)
        _profile(report, step, 10 if title == TITLE else 0)
        del step, model
        if report.is_gpu:
            torch.cuda.empty_cache()


def graphed(report: Report) -> None:
    """Training passes as graphs and launched one by one: the same losses and gradients, with other clips."""
    batch, told = (1 if report.tiny else 8), []
    for as_graphs in (False, True):
        model = base(report.device, ("14x14", "7x7"), 1 if report.tiny else 12).train()
        step = _step(report, model, batch)
        if not as_graphs:
            step.step.graphed.recorded.clear()  # type: ignore[attr-defined]
        elif report.is_gpu:
            report.check("both lengths are recorded", len(step.step.graphed.recorded) == 2)  # type: ignore[attr-defined]
        step()
        step.clips = -step.clips
        losses = _losses(step())
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        told.append((losses, torch.cat(gradients)))
    for name, own, other in zip(("losses", "gradients"), *told, strict=True):
        error = distance(other, own)
        report.check(name, error < 2e-2, error=error)


def _trained(report: Report) -> list[tuple[str, ReViT, int]]:
    two, depth, batch = ("14x14", "7x7"), *((1, 1) if report.tiny else (12, 8))
    cases = [(TITLE, base(report.device, two, depth), batch)]
    if not report.tiny:
        cases.append(("TimeSformer-base, 14x14", base(report.device, two[:1], depth), 4 * batch))
        cases.append(("VideoMAE-B, 14x14 + 7x7", videomae(report.device, two, depth), batch))
    return cases


def _step(report: Report, model: ReViT, batch: int) -> TimedStep:
    ranks = Ranks(0, 1, report.device)
    step = MixedLengthStep(model.train(), Distillation(), ranks, autocast=torch.bfloat16)
    return TimedStep(model, step, ranks, batch, make_optimizer(model, "sgd", 1e-3, 1e-4))


def _tell_step(report: Report, title: str, step: TimedStep, batch: int) -> None:
    took = report.milliseconds(step, 8, 3)
    (model,) = step.model.parts
    operations = 6e9 * batch * sum(gmacs(model, i) for i in range(len(model.lengths)))
    rate = operations / took * 1e3
    figures = {
        "ms": took,
        "clips_per_s": 1e3 * batch / took,
        "TFLOP_per_s": rate / 1e12,
        "of_800": rate / RATE,
    }
    report.figure(f"{title}, batch {batch}", **figures, peak_gib=report.peak_gib())


def _profile(report: Report, step: TimedStep, shown: int) -> None:
    """The device's work in one step, and its dearest kernels; profile.txt has all."""
    if not report.is_gpu:
        return
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        step()
        report.wait()
    averages = seen.key_averages()
    if shown:
        table = averages.table(sort_by="self_cuda_time_total", row_limit=200, max_name_column_width=160)
        (report.folder / "profile.txt").write_text(table)
    kernels = [
        e for e in averages if e.self_device_time_total and not e.key.startswith(("aten::", "autograd::"))
    ]
    together = sum(event.self_device_time_total for event in kernels)
    report.figure("the device's work", ms=together / 1e3, kernels=sum(event.count for event in kernels))
    for event in sorted(kernels, key=lambda e: -e.self_device_time_total)[:shown]:
        report.figure(event.key[:90], ms=event.self_device_time_total / 1e3, calls=event.count)


def reading(report: Report) -> None:
    """Inference, launched one by one and with graphs of small passes: how fast, and the same answers."""
    trained = _model(report, ("14x14", "10x10", "7x7"))
    model = for_inference(trained, torch.bfloat16)
    graphs = model.cuda_graphs
    with torch.inference_mode():
        for batch in (1,) if report.tiny else (1, 3, 8, 32, 64):
            clips = random_clips(model, batch)
            for i, length in enumerate(model.lengths):
                times, answers = {}, []
                for name, own in {"eager_ms": None, "graph_ms": graphs}.items():
                    model.cuda_graphs = own
                    times[name] = report.milliseconds(partial(logits_at, model, clips, length), 10)
                    answers.append(logits_at(model, -clips, length))
                rate = 2e12 * batch * gmacs(trained, i) / min(times.values())
                report.figure(f"{length}, batch {batch}", **times, of_800_TFLOP_per_s=rate / RATE)
                error = distance(answers[1], answers[0])
                report.check(f"{length}, batch {batch}: the same answers", error < 3e-2, error=error)
    if graphs is not None:
        recorded = [f"{length}x{size}" for (length, size), pass_ in graphs.recorded.items() if pass_]
        report.check(f"graphs recorded: {' '.join(recorded)}", graphs.work and bool(recorded))


def patches(report: Report) -> None:
    """Patch embedding as the convolution that it is, and as one matrix product: the same, and how fast."""
    for side in (16,) if report.tiny else (16, 23, 32):
        size = (2 if report.tiny else 64, 3, *(side * (224 // side),) * 2)
        frames = torch.randn(size, device=report.device, dtype=torch.bfloat16)
        weight = 0.02 * torch.randn(768, 3, side, side, device=report.device, dtype=torch.bfloat16)
        weight.requires_grad_()
        ways: dict[str, Callable[[], Tensor]] = {
            "convolution": partial(_convolution, frames, weight),
            "product": partial(project_by_product, frames, weight, None),
        }
        error = distance(ways["product"](), ways["convolution"]())
        report.check(f"the same, {side} px", error < 1e-2, error=error)
        up = torch.randn_like(ways["product"]())
        for name, once in ways.items():
            both = report.milliseconds(partial(_back, once, weight, up), 10)
            report.figure(f"{name}, {side} px", forward_ms=report.milliseconds(once, 10), both_ms=both)


def _convolution(frames: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(frames, weight, stride=weight.shape[2:]).flatten(2).transpose(1, 2)


def _back(forward: Callable[[], Tensor], weight: Tensor, up: Tensor) -> None:
    torch.autograd.grad(forward(), weight, up)


def compiled(report: Report) -> None:
    """torch.compile: losses within 2e-2 of eager ones; what the first step costs and the others gain."""
    batch = 1 if report.tiny else 8
    plain = _model(report, ("14x14", "7x7")).train()
    expected = _losses(_step(report, plain, batch)())
    del plain
    for mode in ("default", "reduce-overhead"):
        model = _model(report, ("14x14", "7x7")).train()
        model.compile(mode=mode)
        step, start = _step(report, model, batch), time.monotonic()
        error = distance(_losses(step()), expected)
        report.figure(f"{mode}: the first step", seconds=time.monotonic() - start)
        report.check(f"{mode}: losses", error < 2e-2, error=error)
        report.peak_gib()
        _tell_step(report, f"{mode}: {TITLE}", step, batch)
        _profile(report, step, 0)


def _losses(told: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([told[name] for name in told if name.startswith("loss")]).clone()


def _model(report: Report, lengths: Sequence[str]) -> ReViT:
    return base(report.device, lengths, 1 if report.tiny else 12).eval()


def suites(report: Report) -> None:
    """Suites of tools/benchmark.py with targets of their own, as long as there is time."""
    if report.tiny:
        return
    tool = Path(__file__).parents[1] / "benchmark.py"
    for suite in SUITES:
        if report.left < 20:
            report.left_out.append(f"suite {suite}")
            continue
        command = [sys.executable, str(tool), suite, "--device", report.device.type, "--rounds", "3"]
        command += ["--minutes", f"{report.left / 60:.2f}", "--json", str(report.folder / f"{suite}.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=report.left + 30)
        report.check(f"suite {suite}", done.returncode == 0)
        print(done.stdout[-3500:] or done.stderr[-1500:], flush=True)
