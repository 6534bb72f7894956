"""Ranks that share clips or token lengths, against one rank that reads everything."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from revit_video.data.targets import Targets
from revit_video.data.token_labels import TokenLabels
from revit_video.runtime.gradients import Gradients
from revit_video.runtime.launch import launch
from revit_video.runtime.ranks import Ranks, in_length_groups, init, shutdown
from revit_video.train import replicas
from revit_video.train.losses import Distillation
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import AssignerStep, MixedLengthStep, trainable
from tests.label_maps import constant_map
from tests.tiny import CLASSES, LinearAssigner, random_clips, tiny_revit

# What every rank has at the end of each case
Told = list[dict[str, dict[str, Tensor]]]
ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
CLIPS, STEPS = 8, 3


@dataclass(frozen=True)
class Case:
    """A way to train; `parts` are read one after the other (gradient accumulation)."""

    how: Distillation | None = Distillation(tau=2.0, lam=0.4)
    distill_token: bool = True
    parts: int = 1
    token_labels: bool = False  # and MixToken


CASES = {
    "labels alone": Case(None),
    "distilled": Case(),
    "without distillation token": Case(distill_token=False),
    "hard": Case(Distillation(hard=True)),
    # Zero at the start, the teacher's accuracy is above it after a step.
    "once the teacher is good": Case(Distillation(tau=2.0, lam=0.4, min_teacher_top1=0.1)),
    "in two parts": Case(parts=2),
    "token labels": Case(token_labels=True),
}
# ranks, token lengths, ranks a length group
MESHES = {
    "two data ranks": (2, [8, 4, 2], 1),
    "three length ranks": (3, [8, 4, 2], 3),
    "two by two": (4, [8, 4], 2),
}


def trained(case: Case, lengths: list[int], ranks: Ranks, shares: int = 1) -> dict[str, Tensor]:
    """The first step's gradients, the weights after all steps, and what every step told.

    Args:
        shares: parts that one rank reads one after the other as `shares` ranks would, where clips are mixed
            with others of their share.
    """
    model = tiny_revit(lengths=lengths, distill_token=case.distill_token, dense_head=case.token_labels)
    method = MixedLengthStep if ranks.length_size == 1 else ReplicaStep
    step = method(model, case.how, ranks, smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    share = slice(
        ranks.data_rank * CLIPS // ranks.data_size, (ranks.data_rank + 1) * CLIPS // ranks.data_size
    )
    parts = case.parts * shares if case.token_labels else case.parts
    told: dict[str, Tensor] = {}
    gradients = Gradients(trainable(model), ranks, parts)
    for n in range(STEPS):
        labels = torch.randint(CLASSES, (CLIPS,), generator=torch.Generator().manual_seed(n))
        clips, targets = random_clips(CLIPS, seed=n)[share], labels[share]
        if case.token_labels:
            targets = mixed(labels, n).chunk(ranks.data_size)[ranks.data_rank]
        gradients.clear()
        metrics = [step(*part) for part in zip(clips.chunk(parts), targets.chunk(parts), strict=True)]
        gradients.sum()
        own = {name: sum(each[name] for each in metrics) / parts for name in metrics[0]}
        means = {name: ranks.sum(value) / ranks.world_size for name, value in own.items()}
        step.learn_of(means)
        told |= {f"{name} in step {n}": value for name, value in means.items()}
        if n == 0:
            told |= {f"gradient of {name}": p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    return told | model.state_dict() | step.state_dict()


def mixed(labels: Tensor, n: int) -> Targets:
    """With maps of other classes, and a box that is wider in every step."""
    maps = torch.stack([constant_map((int(label) + 1) % CLASSES, score=3.0).double() for label in labels])
    boxes = torch.tensor([[0.2, 0.1, 0.8, 0.9]]).repeat(len(labels), 1)
    return Targets(labels, TokenLabels(maps, boxes), (0.0, 0.25, 0.5, 0.5 + 0.25 * min(n, 2)))


def assigners_gradient(ranks: Ranks) -> dict[str, Tensor]:
    """Of weighted clips, which must count alike whichever rank reads them."""
    rows = slice(ranks.rank, None, ranks.world_size)
    features, labels = (
        torch.arange(72, dtype=torch.float64).view(12, 6).cos()[rows],
        torch.arange(12)[rows] % 3,
    )
    assigner, weights = LinearAssigner(), torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    gradients = Gradients(trainable(assigner), ranks)
    gradients.clear()
    AssignerStep(assigner, weights)(features, labels)  # type: ignore[arg-type]
    gradients.sum()
    return {name: parameter.grad for name, parameter in assigner.named_parameters()}


def on_this_rank(lengths: list[int], length_size: int) -> Told:
    """All cases in one launch, because starting ranks takes seconds; what every rank has afterwards."""
    plain = init("cpu")
    ranks = in_length_groups(plain, length_size)
    told = {name: trained(case, lengths, ranks) for name, case in CASES.items()}
    told["assigner"] = assigners_gradient(plain)
    everyone = ranks.gather(told)
    shutdown()
    return everyone


@pytest.fixture(scope="module", params=MESHES)
def mesh(request: pytest.FixtureRequest) -> tuple[list[int], int, Told]:
    world_size, lengths, length_size = MESHES[request.param]
    data_size = world_size // length_size
    return lengths, data_size, launch(on_this_rank, world_size, lengths, length_size)


@pytest.mark.parametrize("name", CASES)
def test_ranks_do_what_one_rank_does(name: str, mesh: tuple[list[int], int, Told]) -> None:
    """Every parameter's gradient and weights, the per-length ones too; what is logged; in float64."""
    lengths, data_size, everyone = mesh
    expected = trained(CASES[name], lengths, ALONE, data_size)
    for told in everyone:
        torch.testing.assert_close(told[name], expected, rtol=1e-10, atol=1e-13)


def test_ranks_train_the_assigner_as_one_does(mesh: tuple[list[int], int, Told]) -> None:
    for told in mesh[-1]:
        torch.testing.assert_close(told["assigner"], assigners_gradient(ALONE), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(0, ["read", "broadcast", "learn", "wait"]), (1, ["broadcast", "read", "wait", "learn"])],
)
def test_no_rank_waits_longer_than_it_must(
    rank: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shorter length reads while the teacher's logits are on their way, and the teacher learns."""
    events = []

    class Broadcast:
        def __init__(self, *_: object) -> None:
            events.append("broadcast")

        def wait(self) -> None:
            events.append("wait")

    monkeypatch.setattr(replicas, "broadcast_from_longest", Broadcast)
    model = tiny_revit()
    model.register_forward_hook(lambda *_: events.append("read"))
    model.head.weight.register_hook(lambda _: events.append("learn"))
    ranks = Ranks(rank, 2, torch.device("cpu"), length_size=2)
    ReplicaStep(model, Distillation(), ranks)(random_clips(2), torch.tensor([0, 1]))
    assert events == expected


def test_all_cases_are_cases_of_their_own() -> None:
    """The equalities above say something only if the ways to train differ."""
    ends = [trained(case, [8, 4], ALONE)["blocks.0.attn.proj.weight"] for case in CASES.values()]
    same = [[torch.allclose(one, other, atol=1e-6) for other in ends] for one in ends]
    in_parts = list(CASES).index("in two parts"), list(CASES).index("distilled")  # the same by another road
    assert sum(map(sum, same)) == len(CASES) + 2 and same[in_parts[0]][in_parts[1]]
