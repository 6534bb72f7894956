"""The Token-Length Assigner: a tiny network that predicts the token length of a clip (paper section 3.1)."""

from __future__ import annotations

import copy
import logging
from itertools import pairwise
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from revit_video.models.timm_weights import pretrained_network

PATCHES, PATCH, WIDTH = "patches", 4, 16  # the smallest network: pixels a side, and channels
LABEL, SUFFICIENCY = "label", "sufficiency"  # what an assigner's logits are of
OBJECTIVES = (LABEL, SUFFICIENCY)

logger = logging.getLogger(__name__)


class TokenLengthAssigner(nn.Module):
    """A shrunk EfficientNet, or less, on a few small frames of the clip, averaged over time.

    Features are pooled by mean and by maximum over the frame: a single small object makes a clip hard, and
    the mean hides it.

    Args:
        num_lengths: token lengths to choose from; one logit each, longest first.
        model: any timm network of the EfficientNet family; `tinynet_e` is the shrunk EfficientNet-B0. Or
            `patches`, one projection of patches, where a small model is as fast as several convolutions.
        stages: number of stages of the network to keep (0: all). Small inputs do not need the late,
            low-resolution ones.
        num_frames: evenly spaced frames of the clip.
        input_size: side of these frames after shrinking, in pixels.
        pretrained: start from timm's ImageNet weights if they are available, else from random ones.
        objective: what the logits are of: `label`, that each length is the token-length label (softmax, the
            paper's), or `sufficiency`, that each length is right (sigmoids).
    """

    def __init__(
        self,
        num_lengths: int,
        *,
        model: str = "tinynet_e",
        stages: int = 0,
        num_frames: int = 8,
        input_size: int = 112,
        pretrained: bool = False,
        objective: str = LABEL,
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(f"assigner objective {objective!r}; there are {', '.join(OBJECTIVES)}")
        if model == PATCHES and input_size < PATCH:
            raise ValueError(f"assigner input of {input_size} px is smaller than a patch of {PATCH} px")
        self.objective = objective
        self.num_frames, self.input_size = num_frames, input_size
        self.spec = {
            "num_lengths": num_lengths,
            "model": model,
            "stages": stages,
            "num_frames": num_frames,
            "input_size": input_size,
        }
        if objective != LABEL:  # absent in checkpoints of earlier versions
            self.spec["objective"] = objective
        self.backbone, width = _trunk(model, stages, pretrained)
        self.head = nn.Linear(2 * width, num_lengths)

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised `clips` `(B, 3, T, H, W)` -> logits `(B, lengths)`."""
        batch = clips.shape[0]
        frames = small_frames(clips, self.num_frames, self.input_size)
        features = self.backbone(frames)
        if self.training or features.is_contiguous() or torch.compiler.is_exporting():
            largest = features.amax(dim=(2, 3))
        else:  # the same values; with channels last `amax` takes a fifth of a small assigner's time on a CPU.
            # PyTorch's export to ONNX lacks this operation up to 2.11.
            largest = F.adaptive_max_pool2d(features, 1).flatten(1)
        pooled = torch.cat([features.mean(dim=(2, 3)), largest], dim=1)
        return self.head(pooled.unflatten(0, (batch, -1)).mean(dim=1))

    def for_inference(self) -> TokenLengthAssigner:
        """A faster copy: each batch norm is folded into the convolution before it.

        Not in a network whose layers do not run in the order of their registration.
        """
        plain = copy.deepcopy(self).eval().requires_grad_(False)
        fast = copy.deepcopy(plain)
        for module in list(fast.backbone.modules()):
            for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, name, fuse_conv_bn_eval(conv, norm))
                    setattr(module, norm_name, getattr(norm, "act", nn.Identity()))  # timm's also activate
        pixels = torch.linspace(-1, 1, 3 * 64 * 64, device=self.head.weight.device)
        with torch.inference_mode():
            ours, theirs = (each(pixels.view(1, 3, 1, 64, 64)) for each in (fast, plain))
        return fast if torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3) else plain


def _trunk(model: str, stages: int, pretrained: bool) -> tuple[nn.Module, int]:
    """The convolutional part of a timm network, cut after `stages`, and its output channels."""
    if model == PATCHES:
        if stages:
            raise ValueError(f"assigner model {model!r} cannot be cut after stage {stages}; it has one layer")
        projection = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        return nn.Sequential(projection, nn.BatchNorm2d(WIDTH), nn.Hardswish()), WIDTH
    if not timm.is_model(model):
        raise ValueError(f"assigner model {model!r}: timm has no such model")
    network: Any = timm.create_model(model, num_classes=0, global_pool="")
    if pretrained:
        try:
            network = pretrained_network(model, num_classes=0, global_pool="")
        except Exception as error:  # no weights, no network, no cache: types differ by library
            reason = str(error).splitlines()[0]
            logger.warning("no ImageNet weights for %s, starting from random ones: %s", model, reason)
    trunk = network
    if stages:
        if not hasattr(network, "conv_stem") or stages > len(network.blocks):
            raise ValueError(f"assigner model {model!r} cannot be cut after stage {stages}")
        trunk = nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:stages])
    with torch.no_grad():
        width = trunk.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    # Small convolutions are faster with channels last, on CPU and GPU.
    return trunk.train().to(memory_format=torch.channels_last), width


def small_frames(clips: Tensor, num_frames: int, size: int) -> Tensor:
    """Evenly spaced frames of `clips` `(B, C, T, H, W)`, shrunk to `(B num_frames, C, size, size)`.

    All frames, if the clip has fewer.
    """
    total = clips.shape[2]
    count = min(num_frames, total)
    middles = [(2 * k + 1) * total // (2 * count) for k in range(count)]  # of equal segments of the clip
    frames = torch.stack([clips[:, :, t] for t in middles], dim=1).flatten(0, 1)
    if frames.shape[-1] == size and frames.shape[-2] == size:
        return frames
    return F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
