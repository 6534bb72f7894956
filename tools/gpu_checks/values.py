"""Right answers: the device's numbers against the CPU's, every stage of a run, waits of the host, NCCL."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist
from benchmarks.timesformer import base, random_clips
from torch import Tensor

from gpu_checks.report import Report, distance
from revit_video.commands.make_demo import CONFIG
from revit_video.commands.predict_files import SHIPPED
from revit_video.config.shipped import find_config
from revit_video.data.synthetic import write_dataset
from revit_video.from_cfg.resolve import load_checked
from revit_video.models.inference import for_inference, logits_at_all
from revit_video.models.revit import ReViT
from revit_video.predict import load
from revit_video.runtime.gradients import Gradients
from revit_video.runtime.ranks import Ranks
from revit_video.stages.run import STAGES, run
from revit_video.train.losses import Distillation
from revit_video.train.steps import MixedLengthStep

CPU = torch.device("cpu")
LENGTHS = ("14x14", "10x10", "7x7")
COUNTS = {"train": 48, "mine": 24, "val": 24, "test": 24}  # videos
SMALL = ("MODEL.DEPTH", 2, "MODEL.EMBED_DIM", 256, "MODEL.NUM_HEADS", 4, "TENSORBOARD.ENABLE", False)
CASES: dict[str, tuple[object, ...]] = {
    "plain": ("TEST.DTYPE", "float32"),
    "averaged, accumulated, recomputed, mixed": (
        *("TRAIN.EMA_DECAY", 0.9, "TRAIN.ACCUMULATE", 2, "MODEL.ACT_CHECKPOINT", True),
        *("SOLVER.CLIP_GRADIENT", 1.0, "MIXUP.CUTMIX_ALPHA", 1.0),
    ),
    "DVT": ("DVT.ENABLE", True, "MINE.ENABLE", False, "ASSIGNER.ENABLE", False),
}


def environment(report: Report) -> None:
    """The device, and the rates of a large product and a large copy: the floors of all that follows."""
    name = torch.cuda.get_device_name() if report.is_gpu else "CPU"
    report.figure(
        f"{name}, Python {sys.version.split()[0]}, torch {torch.__version__}", cores=os.cpu_count() or 0
    )
    size = 512 if report.tiny else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, device=report.device, dtype=dtype) for _ in range(2))
        took = report.milliseconds(lambda a=a, b=b: a @ b, 10)  # type: ignore[misc]
        report.figure(f"product {size}^3, {dtype}", ms=took, TFLOP_per_s=2 * size**3 / took / 1e9)
    source = torch.randn(1 << (20 if report.tiny else 28), device=report.device)
    took = report.milliseconds(source.clone, 10)
    report.figure("copy, bytes read and written", TB_per_s=8 * len(source) / took / 1e9)


def logits_and_gradients(report: Report) -> None:
    """TimeSformer-base at each length: float32 within 1e-5 (gradients 1e-4), bfloat16 3e-2 (5e-2)."""
    model = base(CPU, LENGTHS[::2] if report.tiny else LENGTHS, depth=1 if report.tiny else 2)
    clips = random_clips(model, 1 if report.tiny else 2)
    expected = logits_at_all(for_inference(model), clips)
    expected_gradients = _gradients(model, clips, None)
    model = model.to(report.device)
    conv = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for dtype, near, near_gradients in ((torch.float32, 1e-5, 1e-4), (torch.bfloat16, 3e-2, 5e-2)):
            error = distance(logits_at_all(for_inference(model, dtype), clips.to(report.device)), expected)
            report.check(f"logits, {dtype}", error < near, error=error)
            autocast = None if dtype == torch.float32 else dtype
            error = distance(_gradients(model, clips, autocast), expected_gradients)
            report.check(f"gradients, {dtype}", error < near_gradients, error=error)
    finally:
        torch.backends.cudnn.allow_tf32 = conv


def _gradients(model: ReViT, clips: Tensor, autocast: torch.dtype | None) -> Tensor:
    """Of a step at all lengths, in one row."""
    model.train().zero_grad()
    step = MixedLengthStep(model, Distillation(), Ranks(0, 1, model.device), autocast=autocast)
    step(clips.to(model.device), torch.tensor([3, 5][: len(clips)], device=model.device))
    rows = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
    model.eval().zero_grad()
    return torch.cat(rows)


def pipeline(report: Report) -> None:
    """All stages of small runs; then the same weights on the CPU: at most one answer in 24 may differ."""
    for name, changes in CASES.items():
        stages = ["train", "test"] if name == "DVT" else list(STAGES)
        folder = _run(report, name, stages, *changes)
        report.check(f"stages, {name}", (folder / "results.json").is_file())
    answers = _answers(folder := report.folder / "plain")
    _run(report, "plain", ["test"], *CASES["plain"], "DEVICE", "cpu")
    differ = sum(a != b for a, b in zip(answers, _answers(folder), strict=True))
    report.check("the CPU's answers", differ <= 1, differ=differ, of=len(answers))
    video = next((report.folder / "videos/test").rglob("*.mp4"))
    on_device, on_cpu = (
        load(str(folder), device).predict(str(video)) for device in (report.device.type, "cpu")
    )
    error = distance(on_device.logits, on_cpu.logits)
    report.check("predict, against the CPU", error < 1e-3, error=error)


def _run(report: Report, name: str, stages: list[str], *changes: object) -> Path:
    """Runs stages in this process on generated videos; what they say goes to run.txt."""
    videos, folder = report.folder / "videos", report.folder / name.split(",")[0]
    if not videos.exists():
        write_dataset(str(videos), COUNTS, processes=2)
    options: tuple[object, ...] = (
        *("DATA.PATH_TO_DATA_DIR", videos, "OUTPUT_DIR", folder, "SOLVER.MAX_EPOCH", 1),
        *("ASSIGNER.MAX_EPOCH", 2, "DATA_LOADER.NUM_WORKERS", 2, "DEVICE", report.device.type),
    )
    cfg = load_checked(find_config(CONFIG), [str(word) for word in (*options, *SMALL, *changes)])
    with open(report.folder / "run.txt", "a") as file, redirect_stdout(file), redirect_stderr(file):
        run(cfg, stages, "tools/gpu_check.py")
    return folder


def _answers(folder: Path) -> list[str]:
    """Of each video: its name, label, length and predictions."""
    return (folder / "predictions.csv").read_text().splitlines()


def waits(report: Report) -> None:
    """Places where the host waits for the device in every training iteration: met more often in more."""
    if not report.is_gpu:
        return
    few, many = (_waits(report, batch) for batch in (8, 4))
    more = {place: times - few[place] for place, times in many.items() if times > few[place]}
    report.check("no more in 12 iterations than in 6", not more, **more)
    report.figure("in a run of 12", **dict(many.most_common(12)))


def _waits(report: Report, batch: int) -> Counter[str]:
    """Of a training run of one epoch: how often, by place."""
    options = ("TRAIN.BATCH_SIZE", batch, "TRAIN.EVAL_PERIOD", 0, "LOG_PERIOD", 100)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            _run(report, f"waits{batch}", ["train"], *options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = [w for w in seen if "synchroniz" in str(w.message)]
    return Counter(f"{w.filename.split('revit_video/')[-1]}:{w.lineno}" for w in told)


def exchange(report: Report) -> None:
    """Gradients over NCCL: one real rank that is told it is one of two, so that sums are halved."""
    if not report.is_gpu:
        return
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29555", "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("cpu:gloo,cuda:nccl")
    try:
        ranks, model = Ranks(0, 2, report.device), base(report.device, LENGTHS[::2])
        with Gradients(model.parameters(), ranks) as gradients:

            def step() -> bool:
                gradients.clear()
                torch.stack([parameter.sum() for parameter in model.parameters()]).sum().backward()
                return gradients.sum(stop=True)

            stops = [step() for _ in range(3)]  # from the second on, sums start in the backward pass
            halved = all(bool((p.grad == 0.5).all()) for p in model.parameters() if p.grad is not None)
            report.check("gradients halved, stop told", all(stops) and halved)
            took = report.milliseconds(step, 5, 2)
        count = sum(parameter.numel() for parameter in model.parameters())
        report.figure(f"{count / 1e6:.0f} M gradients and their sum, no network", ms=took)
    finally:
        dist.destroy_process_group()


def demo_model(report: Report) -> None:
    """The model that ships with the package, on its three clips: right, and at the CPU's lengths."""
    on_device, on_cpu = (load(str(SHIPPED), device, "float32") for device in (report.device.type, "cpu"))
    for path in sorted(SHIPPED.glob("*.mp4")):
        answer, expected = on_device.predict(str(path)), on_cpu.predict(str(path))
        name = answer.classes[0][0]
        good = path.stem.endswith(name) and answer.length == expected.length
        report.check(
            f"{path.name}: {name} at {answer.length}", good, error=distance(answer.logits, expected.logits)
        )
    took = report.milliseconds(lambda: on_device.predict(str(path)), 10)
    report.figure("predict, one small file", ms=took)
