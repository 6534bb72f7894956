"""DVT, the paper's baseline (Wang et al., 2021): a cascade of transformers with ever more tokens.

The token lengths share nothing. Instead, each transformer reuses results of the next shorter length for the
same clip: its patch tokens (feature reuse) and its attention scores (relationship reuse).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from revit_video.length import TokenLength, find
from revit_video.models.base import NO_STATE, CascadeState, Output, ResizableModel, count_params
from revit_video.models.config import DVTConfig
from revit_video.models.reuse import RelationReuse, ReusingBlock, reusing_block_of
from revit_video.models.revit import ReViT


class DVT(ResizableModel):
    """A cascade of ViTs (`space_only`) or TimeSformers (`divided_space_time`), one per token length.

    Modifications:
        Grids are up-sampled bilinearly, as in the paper; its code repeats and averages cells instead.
        For videos, features are reused per frame, and relations are those of the attention over space in each
        frame. The attention over time, which the paper does not consider, is not reused.
    """

    kind, carries_state = "dvt", True

    def __init__(self, config: DVTConfig) -> None:
        super().__init__(config)
        self.reuses = config.feature_reuse, config.relation_reuse
        self.backbones = nn.ModuleList(Backbone(config, i) for i in range(len(config.lengths)))

    def forward(self, clips: Tensor, length: int | str | TokenLength) -> Output:
        """Classify `clips` `(B, 3, T, H, W)` at one length, after all shorter ones.

        Raises:
            ValueError: the model does not have this length, or the clips have another shape.
        """
        i, state = find(self.lengths, length), NO_STATE
        for k in reversed(range(i + 1, len(self.lengths))):
            _, state = self.step(clips, k, state)
        output, _ = self.parts[i].reuse(clips, state, keep_features=False, keep_relations=False)
        return output

    def step(self, clips: Tensor, i: int, state: CascadeState = NO_STATE) -> tuple[Output, CascadeState]:
        features, relations = (reused and i > 0 for reused in self.reuses)
        return self.parts[i].reuse(clips, state, features, relations)

    def forward_in_full(self, clips: Tensor, length: TokenLength) -> list[tuple[Tensor, Tensor]]:
        i, state, passes = find(self.lengths, length), NO_STATE, []
        for k in reversed(range(i, len(self.lengths))):
            output, state = self.parts[k].reuse(clips, state, True, self.reuses[1] and k > i)
            assert state.features is not None
            passes.append((output.logits, state.features))
        return passes

    @property
    def parts(self) -> list[Backbone]:  # type: ignore[override]
        """The transformer of each length."""
        return cast(list[Backbone], list(self.backbones))

    def params_at(self, length: TokenLength) -> int:
        """Parameters of this length's transformer and of all shorter ones."""
        return sum(map(count_params, self.parts[find(self.lengths, length) :]))

    def no_weight_decay(self) -> set[str]:
        parts = enumerate(self.parts)
        return {f"backbones.{i}.{name}" for i, part in parts for name in part.no_weight_decay()}


class Backbone(ReViT):
    """The transformer for `lengths[i]`: a `ReViT` of one length that reuses the state of `lengths[i + 1]`."""

    def __init__(self, config: DVTConfig, i: int) -> None:
        length, before = (*config.lengths, None)[i : i + 2]
        assert length is not None
        super().__init__(config.of_length(i), partial(reusing_block_of, cascade=config, before=before))
        self.relation_reuse: RelationReuse | None = None
        if config.relation_reuse and before is not None:
            self.relation_reuse = RelationReuse(config.depth * config.num_heads, before, length)

    def reuse(
        self, clips: Tensor, state: CascadeState, keep_features: bool, keep_relations: bool
    ) -> tuple[Output, CascadeState]:
        """Classify `clips`, given the shorter length's `state`; returns its own, with the parts to keep."""
        self._check(clips)
        blocks = cast(list[ReusingBlock], list(self.blocks))
        features, relations = state
        added: Sequence[Tensor | None] = [None] * len(blocks)
        if self.relation_reuse is not None and relations is not None:
            added = self.relation_reuse(relations.flatten(0, 1)).chunk(len(blocks), dim=1)
        special, patches = self._embed(clips, 0)
        scores = []
        for n, block in enumerate(blocks):
            # The last block's patch tokens are of use to the next length alone.
            only_special = n == len(blocks) - 1 and not keep_features and not keep_relations
            special, patches, score = self._run(
                block.reuse, special, patches, features, added[n], keep_relations, only_special
            )
            scores.append(score)
        output = self.classify(self._pool(special, 0))
        kept = CascadeState(patches if keep_features else None)
        if keep_relations:
            kept = kept._replace(relations=torch.cat(scores, dim=1).unflatten(0, patches.shape[:2]))
        return output, kept
