"""Every key with its default value. Keys are named as in TimeSformer where it has them.

A comment gives the meaning, the unit and the legal values; `checks.py` holds the same rules as code.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

_C = CfgNode()

_C.NUM_GPUS = 1  # ranks on this machine, CPU processes where there is no GPU; >= 1; torchrun sets it itself
_C.DEVICE = "auto"  # auto (a GPU if there is one) | cpu | cuda
_C.RNG_SEED = 0  # seed of everything random; >= 0
_C.OUTPUT_DIR = "./outputs/default"  # folder for everything a run writes; all its machines must see it
_C.LOG_PERIOD = 10  # iterations between two lines of stats.jsonl; >= 1

_C.TENSORBOARD = CfgNode()
_C.TENSORBOARD.ENABLE = True  # write the scalars of stats.jsonl for TensorBoard as well

# ---- Training the backbone -------------------------------------------------------------------------------
_C.TRAIN = CfgNode()
_C.TRAIN.ENABLE = True  # run this stage
_C.TRAIN.BATCH_SIZE = 64  # clips a step, over all ranks; a multiple of NUM_GPUS and of ACCUMULATE
_C.TRAIN.METHOD = "revit_b"  # revit_b (each rank reads all lengths in turn) | revit_e (a rank a length)
_C.TRAIN.ACCUMULATE = 1  # parts that a step's clips are read in, one after the other, to save memory; >= 1
_C.TRAIN.AUTO_RESUME = True  # go on from the last checkpoint in OUTPUT_DIR
_C.TRAIN.CHECKPOINT_PERIOD = 1  # epochs between two checkpoints; >= 1
_C.TRAIN.CHECKPOINT_MINUTES = 30.0  # minutes between two checkpoints within an epoch; 0 = none
_C.TRAIN.EVAL_PERIOD = 1  # epochs between two validations; 0 = never
_C.TRAIN.CHECKPOINT_FILE_PATH = ""  # weights to start from: a checkpoint of revit_video or TimeSformer, a
#   transformers folder, a ViT's .pth or .safetensors, or timm:<name>; empty = from scratch
_C.TRAIN.MIXED_PRECISION = True  # bfloat16 autocast, on a GPU only
_C.TRAIN.DENSE_WEIGHT = 1.0  # of the loss of the patch tokens, where the model has a dense head; >= 0
_C.TRAIN.EMA_DECAY = 0.0  # of the moving average of the weights, which is then what is tested; 0 = none, < 1

# ---- Testing: every policy on the test list --------------------------------------------------------------
_C.TEST = CfgNode()
_C.TEST.ENABLE = True  # run this stage
_C.TEST.BATCH_SIZE = 8  # videos a step, over all ranks; >= 1
_C.TEST.NUM_ENSEMBLE_VIEWS = 1  # clips a video, evenly spread; >= 1
_C.TEST.NUM_SPATIAL_CROPS = 3  # crops a clip, along its longer side; 1 | 3
_C.TEST.CHECKPOINT_FILE_PATH = ""  # checkpoint to test; empty = the last one in OUTPUT_DIR
_C.TEST.SPLIT = "test"  # list to test on; val where there is no other: its thresholds were chosen there
_C.TEST.DTYPE = "auto"  # of the weights, in mining as well: float32 | bfloat16 | auto (bfloat16 where that is
#   faster: on a GPU or CPU that computes in it, for models at least 256 wide)
_C.TEST.POLICIES = ["static", "assigned", "random", "cascade", "oracle"]  # any of these five

# ---- From a video or image file to a clip ----------------------------------------------------------------
_C.DATA = CfgNode()
_C.DATA.PATH_TO_DATA_DIR = ""  # folder of the lists train.csv, mine.csv, val.csv and test.csv, or of such
#   folders with a folder a class in each, or of the classes' folders themselves, to be split by SPLIT
_C.DATA.SPLIT = [0.6, 0.15, 0.1, 0.15]  # shares of train, mine, val and test in a folder that has no lists
_C.DATA.PATH_PREFIX = ""  # put before every path in the lists
_C.DATA.PATH_LABEL_SEPARATOR = " "  # between path and label in the lists
_C.DATA.NUM_FRAMES = 8  # frames a clip; >= 1
_C.DATA.SAMPLING_RATE = 32  # frames at TARGET_FPS from one frame of the clip to the next; >= 1
_C.DATA.TARGET_FPS = 30.0  # frames a second in which SAMPLING_RATE counts; > 0
_C.DATA.MEAN = []  # subtracted from R, G, B, in 0..1; empty = the checkpoint's, without one 0.45 each
_C.DATA.STD = []  # then divided by; > 0; empty = likewise, 0.225 each
_C.DATA.TRAIN_JITTER_SCALES = [256, 320]  # px, range of the short side; ascending, >= the crop
_C.DATA.TRAIN_JITTER_SCALES_RELATIVE = []  # instead: smallest and largest part of the frame that is cut out,
#   in a shape of 3:4 to 4:3, and scaled to the crop, such as [0.08, 1]; empty = off
_C.DATA.TRAIN_CROP_SIZE = 224  # px, the model's input
_C.DATA.TEST_CROP_SIZE = 224  # px, equal to TRAIN_CROP_SIZE: a model has one input size
_C.DATA.TEST_SCALE = 0  # px, short side that test crops are cut from, >= the crop; 0 = the crop's
_C.DATA.RANDOM_FLIP = True  # mirror half of the training clips; off where classes tell left from right
_C.DATA.BRIGHTNESS = 0.0  # strength of the photometric jitter, drawn once a training clip; 0..1, 0 = off
_C.DATA.CONTRAST = 0.0  # likewise
_C.DATA.SATURATION = 0.0  # likewise
_C.DATA.DECODING_BACKEND = "pyav"  # pyav | decord
_C.DATA.FRAME_JITTER = False  # training: a random frame of each of NUM_FRAMES equal segments
_C.DATA.FRAME_ORDER = "time"  # time | shuffled | first | last; all but time check whether motion matters
_C.DATA.REVERSED_CLASSES = []  # class pairs that swap when time runs backwards, [[0, 1], [2, 3]]; given, each
#   training batch holds every clip twice, forward and reversed
_C.DATA.TOKEN_LABELS = ""  # folder of label maps in TokenLabeling's layout, for models with a dense head;
#   empty = every patch token learns its image's label
_C.DATA.MAX_SKIPPED_FRACTION = 0.1  # unreadable videos, as a fraction, above which a stage stops; 0..1

_C.AUG = CfgNode()
_C.AUG.AA_TYPE = ""  # timm's RandAugment of the training clips, such as rand-m9-mstd0.5-inc1; empty = off
_C.AUG.REPEATS = 1  # how often a clip comes in an epoch, which shows 1 / REPEATS of the list (DeiT's
#   repeated augmentation); >= 1
_C.AUG.RE_PROB = 0.0  # probability that a box of a training clip is erased; 0..1

_C.MIXUP = CfgNode()  # of the training clips of a rank's batch; off where all alphas are 0
_C.MIXUP.ALPHA = 0.0  # of the shares in mixup; 0 = no mixup
_C.MIXUP.CUTMIX_ALPHA = 0.0  # of the shares in CutMix; 0 = no CutMix
_C.MIXUP.PROB = 1.0  # probability that a batch is mixed; 0..1
_C.MIXUP.SWITCH_PROB = 0.5  # probability of CutMix where both are on; 0..1
_C.MIXUP.TOKEN_ALPHA = 0.0  # of the shares in MixToken, which mixes patch tokens and not pixels; 0 = off

_C.DATA_LOADER = CfgNode()
_C.DATA_LOADER.NUM_WORKERS = 4  # decoding processes a rank; 0 = decode in the rank itself, which a decoder's
#   crash or endless loop then stops; with workers, that video counts as unreadable and the run goes on
_C.DATA_LOADER.PIN_MEMORY = True  # page-locked batches, for faster copies to a GPU
_C.DATA_LOADER.TIMEOUT = 60.0  # seconds that decoding a video may take; then it counts as unreadable; 0 = any
_C.DATA_LOADER.PREFETCH_FACTOR = 2  # batches ahead, per worker; >= 1

# ---- The model -------------------------------------------------------------------------------------------
_C.MODEL = CfgNode()
_C.MODEL.ARCH = "timesformer_base"  # preset: timesformer_base | timesformer_base_hr | timesformer_tiny |
#   deit_small | lvvit_small, the last two for images with NUM_FRAMES 1 and ATTENTION_TYPE space_only
_C.MODEL.NUM_CLASSES = 400  # 0 = as many as the data folder names
_C.MODEL.EMBED_DIM = 0  # width; 0 = the preset's
_C.MODEL.DEPTH = 0  # blocks; 0 = the preset's
_C.MODEL.NUM_HEADS = 0  # attention heads, a divisor of the width; 0 = the preset's
_C.MODEL.MLP_RATIO = 0.0  # hidden width of the MLPs over the width; 0 = the preset's
_C.MODEL.DROP_RATE = 0.0  # dropout; 0..1, 1 excluded
_C.MODEL.DROP_PATH = 0.1  # stochastic depth of the last block, rising linearly to it; 0..1, 1 excluded
_C.MODEL.STEM = ""  # from pixels to tokens: patch (one convolution) | conv (several, 3x3, with batch norms) |
#   lvvit (LV-ViT's); empty = the preset's
_C.MODEL.POS_INIT = "normal"  # how position embeddings start: normal (noise) | sincos (waves)
_C.MODEL.QK_INIT_GAIN = 1.0  # factor on the initial query and key weights; > 0
_C.MODEL.ACT_CHECKPOINT = False  # training: compute blocks twice rather than keep all they computed
_C.MODEL.COMPILE = False  # torch.compile: faster, once each token length's first steps have waited for it

_C.TIMESFORMER = CfgNode()
_C.TIMESFORMER.ATTENTION_TYPE = "divided_space_time"  # divided_space_time | joint_space_time | space_only

_C.REVIT = CfgNode()
_C.REVIT.TOKEN_LENGTHS = ["14x14", "7x7"]  # grids of patches a frame, longest first; 14 is 14x14
_C.REVIT.NORM = "per_length"  # layer norms: per_length | shared
_C.REVIT.PATCH_EMBED = "per_length"  # patch embedding: per_length | shared (the centre of one large kernel) |
#   resized (one kernel, resampled to each length's patch)
_C.REVIT.POS_EMBED = "per_length"  # position embedding in space: per_length | shared (one, zero-padded) |
#   resized (one, interpolated)

_C.REVIT.DISTILL = CfgNode()
_C.REVIT.DISTILL.ENABLE = True  # shorter lengths learn from the longest one's logits too
_C.REVIT.DISTILL.TAU = 0.9  # temperature; > 0
_C.REVIT.DISTILL.LAMBDA = 0.5  # weight of the distillation loss, the labels' is 1 - LAMBDA; 0..1
_C.REVIT.DISTILL.HARD = False  # the teacher's arg-max as a label, instead of its distribution
_C.REVIT.DISTILL.TOKEN = True  # a distillation token and head for the shorter lengths
_C.REVIT.DISTILL.TOKEN_AT_LONGEST = False  # for the longest one too, to start from a distilled DeiT
_C.REVIT.DISTILL.MIN_TEACHER_TOP1 = 0.0  # percent; distil once the longest length's training top-1 passed it

# ---- DVT, the baseline: a cascade of models, one a token length ------------------------------------------
_C.DVT = CfgNode()
_C.DVT.ENABLE = False  # such a cascade instead of one resizable model; it exits early by its confidence, or
#   where an assigner is trained too (MINE.ENABLE, ASSIGNER.ENABLE), at the length that this picks
_C.DVT.FEATURE_REUSE = True  # a model's MLPs read the last tokens of the model before it
_C.DVT.RELATION_REUSE = True  # a model's attention adds to its scores those of the model before it

# ---- Mining token-length labels --------------------------------------------------------------------------
_C.MINE = CfgNode()
_C.MINE.ENABLE = True  # run this stage
_C.MINE.HOLDOUT = "mine"  # list to mine, of clips not trained on; empty = the training list
_C.MINE.FOLDS = 0  # with no HOLDOUT: mine each of k parts with a model trained on the rest; 0 = as the paper
_C.MINE.NUM_CLIPS = 1  # clips a video, evenly spread; >= 1
_C.MINE.NONE_CORRECT = "longest"  # label where no length is right: longest | drop (leave the clip out)
_C.MINE.BATCH_SIZE = 0  # videos a step, over all ranks; 0 = TEST.BATCH_SIZE

# ---- The Token-Length Assigner ---------------------------------------------------------------------------
_C.ASSIGNER = CfgNode()
_C.ASSIGNER.ENABLE = True  # run this stage
_C.ASSIGNER.MODEL = "tinynet_e"  # a network of timm's EfficientNet family
_C.ASSIGNER.PRETRAINED = False  # start from timm's ImageNet weights where they can be had, else at random
_C.ASSIGNER.STAGES = 0  # keep the first n stages of the network; 0 = all
_C.ASSIGNER.NUM_FRAMES = 8  # frames it looks at, taken from the clip; >= 1
_C.ASSIGNER.INPUT_SIZE = 112  # px; >= 1
_C.ASSIGNER.CACHE_GB = 8.0  # GiB of memory a rank; its frames are decoded once if they fit, else every epoch
_C.ASSIGNER.CLASS_WEIGHTS = False  # weigh the rarer lengths up
_C.ASSIGNER.BATCH_SIZE = 64  # clips a step, over all ranks; a multiple of NUM_GPUS
_C.ASSIGNER.MAX_EPOCH = 20  # >= 1
_C.ASSIGNER.BASE_LR = 0.001  # > 0
_C.ASSIGNER.WEIGHT_DECAY = 0.05  # >= 0
_C.ASSIGNER.WARMUP_EPOCHS = 1.0  # >= 0
_C.ASSIGNER.LABEL_SMOOTHING = 0.0  # 0..1, 1 excluded

# ---- Adaptive inference ----------------------------------------------------------------------------------
_C.ADAPTIVE = CfgNode()
_C.ADAPTIVE.POLICY = "cumulative"  # cumulative (shortest length whose summed probability is enough) | argmax
_C.ADAPTIVE.THRESHOLD = 0.0  # that probability, 0..1; 0 = choose it on the validation split
_C.ADAPTIVE.CASCADE_THRESHOLD = 0.0  # the cascade's confidence, 0..1; 0 = likewise; DVT has its own
_C.ADAPTIVE.MAX_DROP = 0.5  # points of top-1 under the longest length that a chosen threshold may cost; >= 0
_C.ADAPTIVE.SAFETY = 1.0  # standard errors of the drop that must fit under MAX_DROP as well; >= 0
_C.ADAPTIVE.BUDGET = 0.0  # share of the longest length's GMACs that a chosen threshold may spend; given, the
#   most accurate such threshold is chosen, whatever it drops; 0..1, 0 = off
_C.ADAPTIVE.DECISION = "video"  # one length for all views of a video | one for each: video | view

# ---- Optimisation ----------------------------------------------------------------------------------------
_C.SOLVER = CfgNode()
_C.SOLVER.OPTIMIZING_METHOD = "sgd"  # sgd | adamw
_C.SOLVER.BASE_LR = 0.005  # learning rate; > 0
_C.SOLVER.BASE_LR_BATCH_SIZE = 0  # TRAIN.BATCH_SIZE that the rates are for; at others they scale; 0 = never
_C.SOLVER.LR_POLICY = "steps_with_relative_lrs"  # steps_with_relative_lrs | cosine
_C.SOLVER.STEPS = [0, 11, 14]  # epochs at which the steps begin; from 0, ascending
_C.SOLVER.LRS = [1.0, 0.1, 0.01]  # the steps' learning rates, as factors of BASE_LR; one for each of STEPS
_C.SOLVER.MAX_EPOCH = 15  # >= 1
_C.SOLVER.MOMENTUM = 0.9  # sgd; 0..1, 1 excluded
_C.SOLVER.NESTEROV = True  # sgd; needs MOMENTUM > 0
_C.SOLVER.BETAS = [0.9, 0.999]  # adamw; two numbers, 0..1, 1 excluded
_C.SOLVER.WEIGHT_DECAY = 1e-4  # >= 0
_C.SOLVER.WARMUP_EPOCHS = 0.0  # linear, from WARMUP_START_LR; >= 0
_C.SOLVER.WARMUP_START_LR = 0.0  # >= 0
_C.SOLVER.COSINE_END_LR = 0.0  # learning rate at the end of cosine; >= 0
_C.SOLVER.CLIP_GRADIENT = 0.0  # largest gradient norm; 0 = off
_C.SOLVER.LABEL_SMOOTHING = 0.0  # 0..1, 1 excluded


def get_cfg() -> CfgNode:
    """The defaults, as a copy that may be changed."""
    return _C.clone()
