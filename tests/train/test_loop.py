"""The loop: resuming, clipping, learning rates, statistics."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from revit_video.models import checkpoint, saved_epochs
from revit_video.runtime.launch import launch
from revit_video.runtime.logging import StatsLog
from revit_video.runtime.ranks import Ranks, in_length_groups, init, shared_statistics
from revit_video.train import clock
from revit_video.train.figures import Figures, NonFiniteLoss
from revit_video.train.loop import Training, fit
from revit_video.train.losses import Distillation
from revit_video.train.optim import cosine_schedule, leaves_out_bad_steps, make_optimizer, with_warmup
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import MixedLengthStep, Step
from tests.tiny import CLASSES, random_clips, tiny_revit

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
BATCHES = 3


class Killed(Exception):
    pass


def batches(epoch: int, first: int, dies_at: tuple[int, int] | None = None) -> Iterator[Any]:
    for n in range(first, BATCHES):
        if (epoch, n) == dies_at:
            raise Killed
        labels = torch.randint(CLASSES, (4,), generator=torch.Generator().manual_seed(10 * epoch + n))
        yield random_clips(4, seed=10 * epoch + n), labels, [f"{n}.mp4"] * 4


def training(
    optimizer: str = "adamw", dies_at: tuple[int, int] | None = None, stem: str = "patch", **changes: Any
) -> Training:
    model = tiny_revit(drop_path=0.5, drop_rate=0.2, stem=stem)
    arguments: dict[str, Any] = dict(
        model=model,
        step=MixedLengthStep(model, Distillation(min_teacher_top1=1.0), ALONE),
        optimizer=make_optimizer(model, optimizer, 0.01, 0.05),
        batches=lambda epoch, first: batches(epoch, first, dies_at),
        batches_per_epoch=BATCHES,
        batch_size=4,
        learning_rate=with_warmup(cosine_schedule(0.01, 0.0, 3), 1, 0.0),
        epochs=3,
        ranks=ALONE,
        clip_gradient=1.0,
        seed=1,
    )
    return Training(**arguments | changes)


def averaged(optimizer: str = "adamw", **changes: Any) -> Training:
    job = training(optimizer, **changes)
    job.average = ModelEmaV3(job.model, 0.9, use_warmup=True)
    return job


def with_batch_norms(optimizer: str = "adamw", **changes: Any) -> Training:
    return averaged(optimizer, stem="conv", **changes)


def run_through(job: Training, folder: Path, save: bool = False) -> dict[str, Tensor]:
    """Trains to the end, saving after every iteration if asked to; the resulting weights."""
    with StatsLog(str(folder), tensorboard=False) as stats:
        for _ in fit(job, stats):
            if save:
                payload = {"model": job.result.state_dict(), "training": job.state_dict()}
                saved_epochs.save_progress(str(folder), payload, job.epoch, job.batch)
    return {name: value.clone() for name, value in job.result.state_dict().items()}


def resumed(job: Training, folder: Path) -> Training:
    path = saved_epochs.latest(str(folder))
    assert path is not None
    saved = checkpoint.load_payload(path)
    job.model.load_state_dict(saved["model"])
    job.load_state_dict(saved["training"])
    return job


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], value) for name, value in other.items())


@pytest.mark.parametrize("dies_at", [(1, 2), (2, 0)], ids=["within an epoch", "between two"])
@pytest.mark.parametrize(
    ("make", "optimizer"),
    [(training, "sgd"), (training, "adamw"), (averaged, "adamw"), (with_batch_norms, "adamw")],
    ids=["sgd", "adamw", "averaged", "batch norms"],
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    make: Callable[..., Training], optimizer: str, dies_at: tuple[int, int], tmp_path: Path
) -> None:
    """Bit for bit, though dropout and stochastic depth draw at random."""
    straight = make(optimizer)
    whole = run_through(straight, tmp_path)
    with pytest.raises(Killed):
        run_through(make(optimizer, dies_at=dies_at), tmp_path, save=True)

    torch.manual_seed(99)
    job = resumed(make(optimizer), tmp_path)
    assert (job.epoch, job.batch) == dies_at
    assert same(run_through(job, tmp_path), whole)
    assert same(job.model.state_dict(), straight.model.state_dict())
    assert (job.epoch, job.batch) == (3, 0)


def test_dropout_follows_from_the_seed_alone(tmp_path: Path) -> None:
    """Else the above would say little."""
    whole = run_through(training(), tmp_path)
    assert same(run_through(training(), tmp_path), whole)
    assert not same(run_through(training(seed=2), tmp_path), whole)


@pytest.mark.parametrize(
    ("batch_size", "per_epoch", "place"), [(2, 6, (1, 4)), (8, 1, (2, 0)), (6, 2, (1, 1)), (3, 4, (1, 2))]
)
def test_another_batch_size_goes_on_at_the_clips_not_seen_yet(
    batch_size: int, per_epoch: int, place: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two batches of four clips, of three an epoch, had been seen."""
    with pytest.raises(Killed):
        run_through(training(dies_at=(1, 2)), tmp_path, save=True)
    with caplog.at_level("INFO", "revit_video"):
        job = resumed(training(batch_size=batch_size, batches_per_epoch=per_epoch), tmp_path)
    assert (job.epoch, job.batch) == place
    assert f"(clips a batch 4 -> {batch_size})" in caplog.text and "bit-identical" in caplog.text


def test_other_ranks_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = training(ranks=Ranks(0, 2, ALONE.device), accumulate=2).state_dict()
    with caplog.at_level("INFO", "revit_video"):
        training().load_state_dict(training().state_dict())
        assert not caplog.messages
        training().load_state_dict(state)
    (message,) = caplog.messages
    assert "(ranks 2 -> 1, shares of a batch 2 -> 1, parts of a share 2 -> 1)" in message


def test_a_request_to_stop_is_passed_on_after_the_iteration(tmp_path: Path) -> None:
    job, places = training(), []
    asked = iter([False, True])
    with StatsLog(str(tmp_path), tensorboard=False) as stats:
        for stop in fit(job, stats, lambda: next(asked)):
            places.append((job.epoch, job.batch, stop))
            if stop:
                break
    assert places == [(0, 1, False), (0, 2, True)]


# ---- The average of the weights --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [averaged, with_batch_norms])
def test_the_average_follows_the_weights(make: Callable[..., Training], tmp_path: Path) -> None:
    """Against the recursion written out; early on, the initial weights do not linger."""
    job = make()
    expected = {name: value.clone() for name, value in job.model.state_dict().items()}
    with StatsLog(str(tmp_path), tensorboard=False) as stats:
        for done, _ in enumerate(fit(job, stats)):
            decay = min(0.9, 1 - max(done, 1) ** (-2 / 3))
            for name, value in job.model.state_dict().items():
                own = value.is_floating_point()  # no count of batches
                expected[name] = decay * expected[name] + (1 - decay) * value if own else value.clone()
    torch.testing.assert_close(dict(job.result.state_dict()), expected)
    assert not same(job.model.state_dict(), expected)


def test_an_average_may_be_taken_up_and_given_up(tmp_path: Path) -> None:
    for make, other in ((training, averaged), (averaged, training)):
        with pytest.raises(Killed):
            run_through(make(dies_at=(1, 1)), tmp_path, save=True)
        saved = checkpoint.load_payload(str(tmp_path / "epoch_00001_batch_00001.pyth"))
        job = resumed(other(), tmp_path)
        raw = saved["model"] if make is training else saved["training"]["weights"]
        assert same(job.model.state_dict(), raw)
        assert same(job.result.state_dict(), raw)


# ---- Iterations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_it(parts: int, tmp_path: Path) -> None:
    """For every parameter, in double precision."""
    gradients = []
    for accumulate in (1, parts):
        model = tiny_revit()
        step = MixedLengthStep(model, Distillation(), ALONE)
        job = training(model=model, step=step, accumulate=accumulate, clip_gradient=0.0)
        with StatsLog(str(tmp_path), tensorboard=False) as stats:
            next(fit(job, stats))
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


class Constant(Step):
    """A step whose gradient is always (3, 4) and whose loss is given, one a batch."""

    def __init__(self, model: nn.Module, losses: list[float]) -> None:
        self.model, self.losses = model, iter(losses)
        self.gradient = torch.tensor([[3.0, 4.0]])

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        (parameter,) = self.model.parameters()
        assert (parameter.grad is None or not parameter.grad.any()) and self.model.training
        (parameter * self.gradient).sum().backward()
        return {"loss": torch.tensor(next(self.losses))}


NAMES = [f"{letter}.mp4" for letter in "abcd"]


def constant(losses: list[float], **changes: Any) -> Training:
    """Two batches an epoch of plain gradient descent at learning rate 1 from the origin."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    arguments: dict[str, Any] = dict(
        batches=lambda epoch, first: [(torch.zeros(4, 2), torch.zeros(4), NAMES)] * 2,
        batches_per_epoch=2,
        batch_size=4,
        learning_rate=lambda epoch: 1.0,
        epochs=len(losses) // 2,
        ranks=ALONE,
        log_period=1,
    )
    optimizer = torch.optim.SGD(model.parameters(), 123.0)
    return Training(model, Constant(model, losses), optimizer, **arguments | changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("largest", "step"), [(0.0, (3.0, 4.0)), (10.0, (3.0, 4.0)), (1.0, (0.6, 0.8))])
def test_gradients_are_clipped_to_their_common_norm(
    largest: float, step: tuple[float, float], tmp_path: Path
) -> None:
    job = constant([1.0] * 4, clip_gradient=largest)
    weights = run_through(job, tmp_path)["weight"]
    torch.testing.assert_close(weights, -4 * torch.tensor([step]), rtol=1e-5, atol=1e-5)
    assert [line["grad_norm"] for line in lines(tmp_path)] == [5.0] * 4  # as it was before


def test_each_iteration_has_its_own_rate(tmp_path: Path) -> None:
    job = constant([1.0] * 6, learning_rate=lambda epoch: 10 + epoch)
    weights = run_through(job, tmp_path)["weight"]
    rates = [10.0, 10.5, 11.0, 11.5, 12.0, 12.5]
    torch.testing.assert_close(weights, -sum(rates) * torch.tensor([[3.0, 4.0]]))
    assert [line["lr"] for line in lines(tmp_path)] == rates


def test_statistics_lines(tmp_path: Path) -> None:
    job = constant([4.0, 3.0, 2.0, 1.0], stage="assigner", log_period=2)
    run_through(job, tmp_path)
    told = lines(tmp_path)
    assert [(line["epoch"], line["iter"], line["step"], line["loss"]) for line in told] == [
        (0, 1, 2, 3.0),
        (1, 1, 4, 1.0),
    ]
    assert {line["stage"] for line in told} == {"assigner"}
    assert all(line["clips_per_sec"] > 0 and line["data_time"] >= 0 for line in told)
    assert told[0]["eta"] > 0 and told[-1]["eta"] == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(loss: float, tmp_path: Path) -> None:
    job = constant([1.0, 1.0, 1.0, loss])
    with pytest.raises(
        NonFiniteLoss,
        match=r"train epoch 2/2, iteration 1: loss not finite on a.mp4, b.mp4, c.mp4, d.mp4; lower SOLVER",
    ):
        run_through(job, tmp_path)
    assert len(lines(tmp_path)) == 3
    torch.testing.assert_close(job.model.weight.detach(), -3 * torch.tensor([[3.0, 4.0]]))


def test_a_gradient_that_is_not_finite_ends_the_run_too(tmp_path: Path) -> None:
    many = [f"{n}.mp4" for n in range(11)]
    job = constant([1.0] * 2, batches=lambda epoch, first: [(torch.zeros(4, 2), torch.zeros(4), many)] * 2)
    job.step.gradient = torch.tensor([[3.0, math.inf]])  # type: ignore[attr-defined]
    with pytest.raises(
        NonFiniteLoss, match=r"iteration 0: grad_norm not finite on 0.mp4, .*7.mp4 and 3 more;"
    ):
        run_through(job, tmp_path)
    assert torch.equal(job.model.weight, torch.zeros(1, 2))


def test_a_fused_optimizer_leaves_out_bad_steps_and_they_are_named_when_metrics_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose metrics are read every LOG_PERIOD iterations, and in a run's first."""
    read: list[int] = []
    real = Figures.read
    monkeypatch.setattr(Figures, "read", lambda self, title: read.append(job.batch) or real(self, title))
    clips = iter("abcdefgh")
    job = constant(
        [1.0] * 4 + [math.nan, 1.0, 1.0, 1.0],
        batches=lambda epoch, first: ((torch.zeros(4, 2), torch.zeros(4), [next(clips)]) for _ in range(8)),
        batches_per_epoch=8,
        epochs=1,
        log_period=4,
    )
    job.optimizer = make_optimizer(job.model, "sgd", 1.0, 0.0, momentum=0.0, nesterov=False)
    assert not leaves_out_bad_steps(job.optimizer)
    job.optimizer = torch.optim.SGD(job.model.parameters(), 1.0, fused=True)
    with pytest.raises(NonFiniteLoss, match="train epoch 1/1, iteration 4: loss not finite on e; lower"):
        for _ in fit(job, stats := StatsLog(str(tmp_path), tensorboard=False)):
            assert bool(job.bad_steps) == (job.batch > 4)
            steps = job.batch - (job.batch > 4)
            torch.testing.assert_close(job.model.weight.detach(), -steps * torch.tensor([[3.0, 4.0]]))
    stats.close()
    assert read == [0, 3, 7]


def test_an_optimizer_goes_on_fused_or_not(tmp_path: Path) -> None:
    """A run may be resumed on another kind of device."""
    plain = run_through(training(), tmp_path)
    for made, goes_on in ((None, True), (True, None)):
        with pytest.raises(Killed):
            job = training(dies_at=(1, 1))
            job.optimizer.param_groups[0]["fused"] = job.optimizer.param_groups[1]["fused"] = made
            run_through(job, tmp_path, save=True)
        job = training()
        for group in job.optimizer.param_groups:
            group["fused"] = goes_on
        weights = run_through(resumed(job, tmp_path), tmp_path)
        assert job.optimizer.param_groups[0]["fused"] == goes_on
        torch.testing.assert_close(weights, plain)


def one_bad_share() -> list[str]:
    """What each rank says where rank 1 alone has a loss that is not finite, with finite gradients."""
    ranks = init("cpu")
    losses = [math.nan, 1.0] if ranks.rank else [1.0, 1.0]
    names = [f"{ranks.rank}.mp4"]
    job = constant(
        losses, ranks=ranks, batches=lambda epoch, first: [(torch.zeros(4, 2), torch.zeros(4), names)] * 2
    )
    with tempfile.TemporaryDirectory() as folder, pytest.raises(NonFiniteLoss) as caught:
        run_through(job, Path(folder))
    said = [str(caught.value), str(job.model.weight.abs().sum().item())]
    return ranks.gather(said)


def test_all_ranks_stop_together_and_name_the_clips_of_the_one() -> None:
    for message, weights in launch(one_bad_share, 2):
        assert "loss not finite on 1.mp4; lower" in message and weights == "0.0"


# ---- Batch norms and ranks -------------------------------------------------------------------------------


def steps_of_ranks(ranks: Ranks) -> dict[str, Tensor]:
    """The state after two steps with all that touches gradients: parts, clipping, momentum, an average."""
    model = tiny_revit()
    share = torch.arange(8).view(2, ranks.data_size, -1)[:, ranks.data_rank].flatten()
    method = MixedLengthStep if ranks.length_size == 1 else ReplicaStep
    job = training(
        accumulate=2,
        epochs=1,
        batches_per_epoch=2,
        ranks=ranks,
        model=model,
        step=method(model, Distillation(), ranks),
        optimizer=torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=0.01),
        average=ModelEmaV3(model, 0.9),
        clip_gradient=0.1,
        batches=lambda epoch, first: [(random_clips(8)[share], share % CLASSES, NAMES)] * 2,
    )
    with tempfile.TemporaryDirectory() as folder:
        average = run_through(job, Path(folder))
    return average | {f"raw {name}": value for name, value in job.model.state_dict().items()}


def a_step_with_batch_norms(ranks: Ranks) -> dict[str, Tensor]:
    """The state after two parts of a batch of eight clips, each part shared among the ranks."""
    model = tiny_revit(stem="conv")
    share = torch.arange(8).view(2, ranks.data_size, -1)[:, ranks.data_rank].flatten()
    clips, labels = random_clips(8)[share], share % CLASSES
    method = MixedLengthStep if ranks.length_size == 1 else ReplicaStep
    job = training(
        accumulate=2,
        epochs=1,
        batches_per_epoch=1,
        ranks=ranks,
        model=model,
        step=method(model, Distillation(), ranks),
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        batches=lambda epoch, first: [(clips, labels, NAMES)],
    )
    with tempfile.TemporaryDirectory() as folder:
        return run_through(job, Path(folder))


def steps_with_batch_norms() -> dict[str, list[dict[str, Tensor]]]:
    ranks = init("cpu")
    meshes = {"data": ranks, "length": in_length_groups(ranks, 2)}
    states = {name: a_step_with_batch_norms(mesh) for name, mesh in meshes.items()}
    states |= {f"no norms, {name}": steps_of_ranks(mesh) for name, mesh in meshes.items()}
    return {name: ranks.gather(state) for name, state in states.items()}


def test_without_batch_norms_ranks_tell_each_other_nothing() -> None:
    with shared_statistics(tiny_revit(), Ranks(0, 2, ALONE.device)):
        pass  # here is no other rank to talk to


Found = dict[str, list[dict[str, Tensor]]]


@pytest.fixture(scope="module")
def found() -> Found:
    return launch(steps_with_batch_norms, 2)


@pytest.mark.parametrize("mesh", ["data", "length"])
def test_ranks_end_with_the_weights_of_one(mesh: str, found: Found) -> None:
    """Clipped, averaged, in parts; in double precision."""
    for states in found[f"no norms, {mesh}"]:
        torch.testing.assert_close(states, steps_of_ranks(ALONE), rtol=1e-10, atol=1e-13)


def test_ranks_have_the_statistics_of_all_clips(found: Found) -> None:
    """Those of each length, from its rank; the mean of all shares', the whole's in the first norm's mean."""
    alone = a_step_with_batch_norms(ALONE)
    for states in found.values():
        assert same(*states)
    names = [name for name in alone if name.endswith(("running_mean", "running_var", "batches_tracked"))]
    assert len(names) == 3 * (2 + 3)
    for name in names:
        torch.testing.assert_close(found["length"][0][name], alone[name])
        if "bn1.running_mean" in name or "batches_tracked" in name:
            torch.testing.assert_close(found["data"][0][name], alone[name])


def test_waiting_for_clips_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, with what to do; not of the first window, in which workers start."""
    monkeypatch.setattr(clock, "SHORT", 0.0)
    for patience, said in ((0.1, 1), (0.0, 0)):
        caplog.clear()
        monkeypatch.setattr(clock, "STARVED", 0.1 if patience else 0.9)

        def slow(epoch: int, first: int, patience: float = patience) -> Iterator[Any]:
            for batch in batches(epoch, first):
                time.sleep(patience)
                yield batch

        with StatsLog(str(tmp_path), tensorboard=False) as stats, caplog.at_level("WARNING"):
            for _ in fit(training(batches=slow, log_period=1), stats):
                pass
        lines = [line for line in caplog.messages if line.startswith("waiting for clips took")]
        assert len(lines) == said and all("DATA_LOADER.NUM_WORKERS" in line for line in lines)
