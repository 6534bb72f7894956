"""The rules of a merged config: legal values of single keys, then rules across components."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.runtime.text import printable

MOST_CHARACTERS = 200  # of a value in a message


@dataclass(frozen=True)
class Mistake:
    """A broken rule: `message` is about the first of `keys`, the others are part of the rule."""

    keys: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{self.keys[0]}: {self.message}"


def find_mistakes(cfg: CfgNode) -> Iterator[Mistake]:
    """All rules that `cfg` breaks; its values must have the types of the defaults."""
    for key, rule in RULES.items():
        value = get(cfg, key)
        if not rule.holds(value):
            yield Mistake((key,), f"must be {rule.words}, got {brief(value)}")
        elif rule.most is not None and value > rule.most:
            yield Mistake((key,), f"must be at most {rule.most}, got {brief(value)}")
    for check in ACROSS_KEYS:
        yield from check(cfg)


def get(cfg: CfgNode, key: str) -> Any:
    """The value at a dotted key, such as `"REVIT.DISTILL.TAU"`."""
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def brief(value: Any) -> str:
    """A value for a message: its start, where it is long."""
    try:
        is_long = isinstance(value, str) and len(value) > MOST_CHARACTERS
        text = printable(value[: MOST_CHARACTERS + 1]) if is_long else repr(value)
    except ValueError:  # a number of thousands of digits
        return "a very large number"
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


# ---- Single keys -----------------------------------------------------------------------------------------

CLOSED_FORM = "frozen", "unfreeze"  # values of TRAIN.METHOD whose heads are solved, not trained from random


@dataclass(frozen=True)
class Rule:
    holds: Callable[[Any], bool]
    words: str
    most: int | None = None


def at_least(low: int, most: int | None = None) -> Rule:
    """Rule of a number; `most` is far above every sensible value, and low enough for memory and clocks."""
    return Rule(lambda value: value >= low, f"at least {low}", most)


def one_of(*values: Any) -> Rule:
    return Rule(lambda value: value in values, "one of " + ", ".join(map(str, values)))


def some_of(*values: str) -> Rule:
    return Rule(
        lambda chosen: set(chosen) <= set(values) and len(set(chosen)) == len(chosen),
        "different ones of " + ", ".join(values),
    )


def numbers(count: int, each: Rule) -> Rule:
    return Rule(
        lambda values: len(values) == count and all(map(each.holds, values)),
        f"{count} numbers, each {each.words}",
    )


def none_or(rule: Rule) -> Rule:
    return Rule(lambda values: not values or rule.holds(values), f"empty, or {rule.words}")


def _is_pattern(text: str) -> bool:
    try:
        return len(text) <= MOST_CHARACTERS and re.compile(text) is not None
    except re.error:
        return False


POSITIVE = Rule(lambda value: value > 0, "above 0")
FRACTION = Rule(lambda value: 0 <= value <= 1, "between 0 and 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
PERCENT = Rule(lambda value: 0 <= value <= 100, "between 0 and 100")
NOT_EMPTY = Rule(bool, "given")
FOLDS = Rule(lambda k: k == 0 or 2 <= k <= 1000, "0 or at least 2, and at most 1000")
RAND_AUGMENT = r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?)*"

RULES = {
    "NUM_GPUS": at_least(1, 4_096),
    "DEVICE": one_of("auto", "cpu", "cuda"),
    "RNG_SEED": at_least(0, 2**63 - 1),
    "OUTPUT_DIR": NOT_EMPTY,
    "LOG_PERIOD": at_least(1),
    "TRAIN.BATCH_SIZE": at_least(1, 1_000_000),
    "TRAIN.METHOD": one_of("revit_b", "revit_e", *CLOSED_FORM),
    "TRAIN.QUERY_SCALE": one_of("width", "head"),
    "TRAIN.ACCUMULATE": at_least(1, 1_000_000),
    "TRAIN.CHECKPOINT_PERIOD": at_least(1),
    "TRAIN.KEEP": at_least(0, 1_000_000),
    "TRAIN.CHECKPOINT_MINUTES": at_least(0),
    "TRAIN.DENSE_WEIGHT": at_least(0),
    "TRAIN.EMA_DECAY": BELOW_ONE,
    "TRAIN.FREEZE": Rule(
        lambda what: re.fullmatch(r"|backbone|\d{1,4}", what) is not None,
        "empty, backbone, or a number of blocks",
    ),
    "TRAIN.EVAL_PERIOD": at_least(0),
    "TEST.BATCH_SIZE": at_least(0, 100_000),
    "TEST.NUM_ENSEMBLE_VIEWS": at_least(1, 1_000),
    "TEST.NUM_SPATIAL_CROPS": one_of(1, 3),
    "TEST.ENSEMBLE": one_of("probabilities", "logits"),
    "TEST.SPLIT": NOT_EMPTY,
    "TEST.NAME": Rule(
        lambda name: not name or re.fullmatch(r"\w[\w.-]{0,99}", name) is not None,
        "empty, or a name of letters, digits, ., _ and -",
    ),
    "TEST.DTYPE": one_of("auto", "float32", "bfloat16"),
    "TEST.POLICIES": some_of("static", "assigned", "hybrid", "random", "cascade", "oracle"),
    "DATA.PATH_LABEL_SEPARATOR": NOT_EMPTY,
    "DATA.SAMPLING_RATE": at_least(1, 1_000_000),
    "DATA.TARGET_FPS": POSITIVE,
    "DATA.SPLIT": Rule(
        lambda shares: len(shares) == 4 and min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6),
        "4 shares that add up to 1",
    ),
    "DATA.FOLDS": FOLDS,
    "DATA.GROUP": Rule(_is_pattern, "empty, or a regular expression"),
    "DATA.MEAN": none_or(numbers(3, FRACTION)),
    "DATA.STD": none_or(numbers(3, POSITIVE)),
    "DATA.TRAIN_JITTER_SCALES": numbers(2, at_least(1)),
    "DATA.TRAIN_JITTER_SCALES_RELATIVE": Rule(
        lambda areas: not areas or (len(areas) == 2 and 0 < areas[0] <= areas[1] <= 1),
        "empty, or 2 ascending numbers, above 0 and at most 1",
    ),
    "DATA.TEST_CROP_SIZE": at_least(1, 16_384),
    "DATA.BRIGHTNESS": FRACTION,
    "DATA.CONTRAST": FRACTION,
    "DATA.SATURATION": FRACTION,
    "DATA.DECODING_BACKEND": one_of("pyav", "decord"),
    "DATA.FRAME_ORDER": one_of("time", "shuffled", "first", "last"),
    "DATA.SAMPLING": one_of("window", "uniform"),
    "DATA.SHORT_VIDEOS": one_of("spread", "last"),
    "DATA.FRAME_SPACING": one_of("time", "index"),
    "DATA.MAX_MEGAPIXELS": Rule(lambda value: 0 < value <= 2000, "above 0 and at most 2000"),
    "DATA.MAX_ASPECT": at_least(1, 10_000),
    "DATA.MAX_DECODING_GB": Rule(lambda value: 0 < value <= 1024, "above 0 and at most 1024"),
    "DATA.MAX_SKIPPED_FRACTION": FRACTION,
    "AUG.AA_TYPE": Rule(
        lambda words: not words or re.fullmatch(RAND_AUGMENT, words) is not None,
        "empty, or RandAugment in timm's words, such as rand-m9-mstd0.5-inc1",
    ),
    "AUG.REPEATS": at_least(1, 1_000),
    "AUG.RE_PROB": FRACTION,
    "MIXUP.ALPHA": at_least(0),
    "MIXUP.CUTMIX_ALPHA": at_least(0),
    "MIXUP.PROB": FRACTION,
    "MIXUP.SWITCH_PROB": FRACTION,
    "MIXUP.TOKEN_ALPHA": at_least(0),
    "DATA_LOADER.NUM_WORKERS": Rule({"auto", *map(str, range(1_025))}.__contains__, "auto, or 0 to 1024"),
    "DATA_LOADER.TIMEOUT": at_least(0, 1_000_000),
    "DATA_LOADER.PREFETCH_FACTOR": at_least(1, 1_000),
    "MODEL.NUM_CLASSES": at_least(0, 1_048_576),
    "MODEL.COMPILE": one_of("auto", "True", "False"),
    "REVIT.DISTILL.TAU": POSITIVE,
    "REVIT.DISTILL.LAMBDA": FRACTION,
    "REVIT.DISTILL.MIN_TEACHER_TOP1": PERCENT,
    "MINE.FOLDS": FOLDS,
    "MINE.NUM_CLIPS": at_least(1, 1_000),
    "DVT.UPSAMPLE": one_of("", "bilinear", "nearest"),
    "MINE.NONE_CORRECT": one_of("longest", "drop"),
    "ASSIGNER.OBJECTIVE": one_of("label", "sufficiency"),
    "ASSIGNER.AUGMENT": one_of("mirror", "turn"),
    "ASSIGNER.MODEL": NOT_EMPTY,
    "ASSIGNER.STAGES": at_least(0, 64),
    "ASSIGNER.NUM_FRAMES": at_least(1, 16_384),
    "ASSIGNER.INPUT_SIZE": at_least(1, 4_096),
    "ASSIGNER.CACHE_GB": at_least(0),
    "ASSIGNER.BATCH_SIZE": at_least(1, 1_000_000),
    "ASSIGNER.MAX_EPOCH": at_least(1, 1_000_000),
    "ASSIGNER.BASE_LR": POSITIVE,
    "ASSIGNER.WEIGHT_DECAY": at_least(0),
    "ASSIGNER.WARMUP_EPOCHS": at_least(0),
    "ADAPTIVE.POLICY": one_of("hybrid", "cumulative", "argmax"),
    "ADAPTIVE.THRESHOLD": FRACTION,
    "ADAPTIVE.CASCADE_THRESHOLD": FRACTION,
    "ADAPTIVE.MAX_DROP": at_least(0),
    "ADAPTIVE.SAFETY": at_least(0),
    "ADAPTIVE.BUDGET": FRACTION,
    "ADAPTIVE.LATENCY_MS": at_least(0),
    "ADAPTIVE.CONFIDENCE": Rule(lambda value: 0.5 <= value < 1, "at least 0.5 and below 1"),
    "ADAPTIVE.DECISION": one_of("video", "view"),
    "SOLVER.OPTIMIZING_METHOD": one_of("sgd", "adamw"),
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.BASE_LR_BATCH_SIZE": at_least(0),
    "SOLVER.LR_POLICY": one_of("steps_with_relative_lrs", "cosine"),
    "SOLVER.MAX_EPOCH": at_least(1, 1_000_000),
    "SOLVER.MIN_STEPS": at_least(0, 1_000_000),
    "SOLVER.MOMENTUM": BELOW_ONE,
    "SOLVER.BETAS": numbers(2, BELOW_ONE),
    "SOLVER.WEIGHT_DECAY": at_least(0),
    "SOLVER.LAYER_DECAY": Rule(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "SOLVER.HEAD_LR_FACTOR": POSITIVE,
    "SOLVER.WARMUP_EPOCHS": at_least(0),
    "SOLVER.WARMUP_START_LR": at_least(0),
    "SOLVER.COSINE_END_LR": at_least(0),
    "SOLVER.CLIP_GRADIENT": at_least(0),
    "SOLVER.LABEL_SMOOTHING": BELOW_ONE,
}


# ---- Rules across components -----------------------------------------------------------------------------


def check_crops(cfg: CfgNode) -> Iterator[Mistake]:
    scales, crop, test_crop = (
        get(cfg, key) for key in ("DATA.TRAIN_JITTER_SCALES", "DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE")
    )
    if crop != test_crop:
        yield Mistake(
            ("DATA.TEST_CROP_SIZE", "DATA.TRAIN_CROP_SIZE"),
            f"must equal DATA.TRAIN_CROP_SIZE {crop}, a model has one input size; got {test_crop}",
        )
    if 0 < cfg.DATA.TEST_SCALE < test_crop or not 0 <= cfg.DATA.TEST_SCALE <= 32_768:
        yield Mistake(
            ("DATA.TEST_SCALE", "DATA.TEST_CROP_SIZE"),
            f"must be 0, or at least DATA.TEST_CROP_SIZE {test_crop}; got {cfg.DATA.TEST_SCALE}",
        )
    if cfg.DATA.TRAIN_JITTER_SCALES_RELATIVE:
        return
    if scales != sorted(scales) or min(scales, default=crop) < crop or max(scales, default=0) > 32_768:
        yield Mistake(
            ("DATA.TRAIN_JITTER_SCALES", "DATA.TRAIN_CROP_SIZE"),
            f"must ascend from at least DATA.TRAIN_CROP_SIZE {crop} to at most 32768, got {scales}",
        )


def check_batches(cfg: CfgNode) -> Iterator[Mistake]:
    ranks = max(1, cfg.NUM_GPUS)
    if cfg.ASSIGNER.BATCH_SIZE % ranks:
        yield Mistake(
            ("ASSIGNER.BATCH_SIZE", "NUM_GPUS"),
            f"must be a multiple of NUM_GPUS {ranks}, got {cfg.ASSIGNER.BATCH_SIZE}",
        )
    if cfg.TRAIN.METHOD == "revit_e" and ranks > 1:
        lengths = len(cfg.REVIT.TOKEN_LENGTHS)
        if ranks % lengths:
            words = f"revit_e needs a rank for each token length, a multiple of {lengths}; got"
            yield Mistake(("NUM_GPUS", "TRAIN.METHOD", "REVIT.TOKEN_LENGTHS"), f"{words} {ranks}")
            return
        ranks //= lengths
    if _mixes(cfg) and cfg.TRAIN.BATCH_SIZE % (2 * ranks):
        yield Mistake(
            ("TRAIN.BATCH_SIZE", "NUM_GPUS", "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"),
            f"each of {ranks} shares (NUM_GPUS) must be even for MIXUP; got {cfg.TRAIN.BATCH_SIZE}",
        )
    parts = ranks * max(1, cfg.TRAIN.ACCUMULATE) * (2 if cfg.DATA.REVERSED_CLASSES else 1)
    if cfg.TRAIN.BATCH_SIZE % parts:
        keys = ("TRAIN.BATCH_SIZE", "NUM_GPUS", "TRAIN.METHOD", "TRAIN.ACCUMULATE", "DATA.REVERSED_CLASSES")
        twice = ", each clip being there twice (DATA.REVERSED_CLASSES)" if cfg.DATA.REVERSED_CLASSES else ""
        shared = f"{ranks} shares (NUM_GPUS) of {cfg.TRAIN.ACCUMULATE} parts (TRAIN.ACCUMULATE){twice}"
        yield Mistake(keys, f"must be a multiple of {parts}: {shared}; got {cfg.TRAIN.BATCH_SIZE}")


def _mixes(cfg: CfgNode) -> bool:
    return cfg.MIXUP.ALPHA > 0 or cfg.MIXUP.CUTMIX_ALPHA > 0


def check_reversed_classes(cfg: CfgNode) -> Iterator[Mistake]:
    key, pairs, count = "DATA.REVERSED_CLASSES", cfg.DATA.REVERSED_CLASSES, cfg.MODEL.NUM_CLASSES
    if any(not isinstance(pair, list) or [type(c) for c in pair] != [int, int] for pair in pairs):
        yield Mistake((key,), f"must be pairs of classes, like [[0, 1], [2, 3]], got {pairs}")
        return
    classes = [c for pair in pairs for c in pair]
    if len(set(classes)) < len(classes):
        yield Mistake((key,), f"a class may be in one pair only, got {pairs}")
    if outside := sorted({c for c in classes if not 0 <= c < count}):
        yield Mistake(
            (key, "MODEL.NUM_CLASSES"), f"classes are 0 to {count - 1} (MODEL.NUM_CLASSES), got {outside}"
        )


def check_solver(cfg: CfgNode) -> Iterator[Mistake]:
    solver = cfg.SOLVER
    if solver.LR_POLICY == "steps_with_relative_lrs":
        if len(solver.STEPS) != len(solver.LRS):
            yield Mistake(
                ("SOLVER.LRS", "SOLVER.STEPS"),
                f"one for each of SOLVER.STEPS {solver.STEPS} is needed, got {solver.LRS}",
            )
        if solver.STEPS[:1] != [0] or sorted(set(solver.STEPS)) != solver.STEPS:
            yield Mistake(("SOLVER.STEPS",), f"must start at 0 and ascend, got {solver.STEPS}")
    if solver.MIN_STEPS and solver.LR_POLICY != "cosine":
        words = (
            "stretches the schedule, which SOLVER.LR_POLICY cosine can be; with other policies it must be 0"
        )
        yield Mistake(("SOLVER.MIN_STEPS", "SOLVER.LR_POLICY"), words)
    for group in ("SOLVER", "ASSIGNER"):
        warmup, epochs = get(cfg, f"{group}.WARMUP_EPOCHS"), get(cfg, f"{group}.MAX_EPOCH")
        if warmup >= epochs:
            words = f"must end before the training, {group}.MAX_EPOCH {epochs}; got {warmup:g}"
            yield Mistake((f"{group}.WARMUP_EPOCHS", f"{group}.MAX_EPOCH"), words)
    if solver.OPTIMIZING_METHOD == "sgd" and solver.NESTEROV and solver.MOMENTUM == 0:
        yield Mistake(("SOLVER.NESTEROV", "SOLVER.MOMENTUM"), "needs SOLVER.MOMENTUM above 0")


def check_token_labels(cfg: CfgNode) -> Iterator[Mistake]:
    if cfg.MIXUP.TOKEN_ALPHA > 0 and _mixes(cfg):
        words = "mixes clips a second time, beside MIXUP.ALPHA or MIXUP.CUTMIX_ALPHA; one of them must be 0"
        yield Mistake(("MIXUP.TOKEN_ALPHA", "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"), words)
    if not cfg.DATA.TOKEN_LABELS:
        return
    if cfg.DATA.NUM_FRAMES != 1:
        words = f"label maps are of images; DATA.NUM_FRAMES must be 1, got {cfg.DATA.NUM_FRAMES}"
        yield Mistake(("DATA.TOKEN_LABELS", "DATA.NUM_FRAMES"), words)
    if cfg.DATA.REVERSED_CLASSES:
        words = "label maps are of images, which have no time to reverse; DATA.REVERSED_CLASSES must be empty"
        yield Mistake(("DATA.TOKEN_LABELS", "DATA.REVERSED_CLASSES"), words)
    if _mixes(cfg):
        words = "pixels that are mixed have no label maps; mix tokens with MIXUP.TOKEN_ALPHA instead"
        yield Mistake(("DATA.TOKEN_LABELS", "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA"), words)


def check_assigner(cfg: CfgNode) -> Iterator[Mistake]:
    own = cfg.ASSIGNER
    if own.OBJECTIVE == "sufficiency" and own.CLASS_WEIGHTS:
        words = "weights the labels, of which the objective sufficiency has none; give label or False"
        yield Mistake(("ASSIGNER.CLASS_WEIGHTS", "ASSIGNER.OBJECTIVE"), words)
    if own.OBJECTIVE == "sufficiency" and cfg.ADAPTIVE.POLICY == "argmax":
        words = "takes the most probable label, of which the objective sufficiency has none; give cumulative"
        yield Mistake(("ADAPTIVE.POLICY", "ASSIGNER.OBJECTIVE"), words)


def check_budget(cfg: CfgNode) -> Iterator[Mistake]:
    adaptive, wishes = cfg.ADAPTIVE, ("ADAPTIVE.BUDGET", "ADAPTIVE.LATENCY_MS")
    given = [key for key in wishes if get(cfg, key) > 0]
    if len(given) == 2:
        yield Mistake(wishes, "are two budgets; one must be 0")
    for budget in given:
        for key in ("ADAPTIVE.THRESHOLD", "ADAPTIVE.CASCADE_THRESHOLD"):
            if get(cfg, key) > 0:
                yield Mistake((budget, key), f"chooses thresholds, but {key} gives one; one must be 0")
        if adaptive.CERTIFY:
            words = "spends a budget whatever the drop, which ADAPTIVE.CERTIFY is to bound; one must be off"
            yield Mistake((budget, "ADAPTIVE.CERTIFY"), words)
        if adaptive.POLICY == "argmax":
            words = "chooses a threshold, which the policy argmax does not have; take cumulative"
            yield Mistake((budget, "ADAPTIVE.POLICY"), words)


def check_dvt(cfg: CfgNode) -> Iterator[Mistake]:
    if not cfg.DVT.ENABLE:
        return
    for key, needed in (("TRAIN.METHOD", ["revit_b"]), ("MODEL.COMPILE", ["False", "auto"])):
        if get(cfg, key) not in needed:
            yield Mistake((key, "DVT.ENABLE"), f"must be {needed[0]} with DVT.ENABLE, got {get(cfg, key)}")
    if cfg.ADAPTIVE.CASCADE_THRESHOLD > 0:
        words = "must be 0 with DVT.ENABLE: each length has its own, solved for ADAPTIVE.BUDGET or MAX_DROP"
        yield Mistake(("ADAPTIVE.CASCADE_THRESHOLD", "DVT.ENABLE"), words)


def check_frozen(cfg: CfgNode) -> Iterator[Mistake]:
    method = cfg.TRAIN.METHOD
    for key, off, methods in (("DATA.FOLDS", 0, ("frozen",)), ("DATA.SQUASH", False, CLOSED_FORM)):
        if method not in methods and get(cfg, key) != off:
            yield Mistake((key, "TRAIN.METHOD"), f"is for TRAIN.METHOD {' or '.join(methods)}, got {method}")
    if method not in CLOSED_FORM:
        return
    needed = {"DVT.ENABLE": False, "MINE.FOLDS": 0, "DATA.REVERSED_CLASSES": [], "DATA.MULTI_LABEL": False}
    if cfg.MODEL.COMPILE != "auto":
        needed["MODEL.COMPILE"] = "False"
    if cfg.DATA.FOLDS:
        needed |= {"ASSIGNER.ENABLE": False, "TEST.NUM_ENSEMBLE_VIEWS": 1, "TEST.NUM_SPATIAL_CROPS": 1}
    for key, value in needed.items():
        if get(cfg, key) != value:
            why = "DATA.FOLDS" if key.startswith(("ASSIGNER", "TEST")) else "TRAIN.METHOD"
            words = f"must be {value} with {why} {get(cfg, why)}, got {get(cfg, key)}"
            free = "; with splits (DATA.FOLDS 0) it may be other" if why == "DATA.FOLDS" else ""
            yield Mistake((key, why), words + free)


def check_multi_label(cfg: CfgNode) -> Iterator[Mistake]:
    if not cfg.DATA.MULTI_LABEL:
        return
    if cfg.DATA.PATH_LABEL_SEPARATOR == ",":
        words = "separates the labels of a video with DATA.MULTI_LABEL; paths need another separator"
        yield Mistake(("DATA.PATH_LABEL_SEPARATOR", "DATA.MULTI_LABEL"), words)
    mixing = "MIXUP.ALPHA", "MIXUP.CUTMIX_ALPHA", "MIXUP.TOKEN_ALPHA"
    for key in (*mixing, "DATA.REVERSED_CLASSES", "DATA.TOKEN_LABELS"):
        if get(cfg, key):
            yield Mistake((key, "DATA.MULTI_LABEL"), "is for clips of one class; off with DATA.MULTI_LABEL")


def check_best(cfg: CfgNode) -> Iterator[Mistake]:
    for key in ("TRAIN.BEST", "TRAIN.FREEZE") if cfg.TRAIN.METHOD == "frozen" else ():
        if get(cfg, key):
            words = "is not for TRAIN.METHOD frozen, which solves heads in closed form"
            yield Mistake((key, "TRAIN.METHOD"), words)
    if cfg.TRAIN.BEST and cfg.TRAIN.EVAL_PERIOD == 0:
        words = "chooses among validated epochs; TRAIN.EVAL_PERIOD must be at least 1"
        yield Mistake(("TRAIN.BEST", "TRAIN.EVAL_PERIOD"), words)


def check_folds(cfg: CfgNode) -> Iterator[Mistake]:
    if cfg.MINE.FOLDS and cfg.MINE.HOLDOUT:
        words = f"parts of the training list, but MINE.HOLDOUT names the list {cfg.MINE.HOLDOUT!r}"
        yield Mistake(("MINE.FOLDS", "MINE.HOLDOUT"), f"{words}; give MINE.HOLDOUT '' or MINE.FOLDS 0")


ACROSS_KEYS = (
    check_crops,
    check_batches,
    check_reversed_classes,
    check_solver,
    check_token_labels,
    check_dvt,
    check_assigner,
    check_frozen,
    check_budget,
    check_folds,
    check_best,
    check_multi_label,
)
