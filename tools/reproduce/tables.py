"""Tables 1 to 3: ReViT against one length alone, self-distillation, shared embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from reproduce import paper
from reproduce.claims import Claim, PerSeed, at_each_length
from reproduce.drawing import Spot, accuracies_figure, spots_figure
from reproduce.markdown import Page, markdown_table
from reproduce.rows import NO_DISTILLATION, OWN, PAPERS_TAU, TABLE3, single, tau_row
from revit_video.length import TokenLength
from revit_video.report.results_table import cost_unit

NOTHING = "-"


class RowResults(Protocol):
    """Results of the rows of one config; `Runs` is one."""

    @property
    def lengths(self) -> tuple[TokenLength, ...]: ...
    @property
    def own_tau(self) -> float: ...
    @property
    def own_gate(self) -> float: ...

    def results(self, name: str) -> list[dict[str, Any]]:
        """results.json of each seed."""
        ...


# ---- Table 1 ---------------------------------------------------------------------------------------------


class AtCost(NamedTuple):
    """Top-1 in percent, and GMACs of all views of a video."""

    top1: PerSeed
    gmacs: PerSeed

    @classmethod
    def of(cls, results: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]) -> AtCost:
        """From one entry of each seed's results."""
        costs = [entry["gmacs"] * each["views"] for entry, each in zip(entries, results, strict=True)]
        return cls(PerSeed.of(entry["top1"] for entry in entries), PerSeed.of(costs))


class Comparison(NamedTuple):
    """Table 1 for one config: the baseline of one length, ReViT at that length, and ReViT adaptive."""

    longest: TokenLength
    alone: AtCost
    always: AtCost
    adaptive: AtCost

    @classmethod
    def of(cls, rows: RowResults) -> Comparison:
        longest = rows.lengths[0]
        alone, own = rows.results(single(longest)), rows.results(OWN)
        return cls(
            longest,
            AtCost.of(alone, [each["static"][str(longest)] for each in alone]),
            AtCost.of(own, [each["static"][str(longest)] for each in own]),
            AtCost.of(own, [each.get("policies", {}).get("assigned", each["adaptive"]) for each in own]),
        )

    @property
    def saving(self) -> PerSeed:
        """Percent of the baseline's cost that the adaptive policy saves."""
        return self.adaptive.gmacs.by(self.alone.gmacs, lambda a, b: 100 * (1 - a / b))


def table1(sources: Sequence[RowResults]) -> Page:
    """ReViT, adaptive, against a model of the longest length alone: top-1 and cost of all views.

    Args:
        sources: results at the base resolution and, optionally, at high resolution.
    """
    compared = [Comparison.of(source) for source in sources]
    factor, unit, decimals = _unit(max(each.alone.gmacs.mean for each in compared))
    rows: list[list[str]] = []
    spots: list[Spot] = []
    claims: list[Claim] = []
    for model, (each, theirs) in enumerate(zip(compared, paper.TABLE1, strict=False)):
        suffix = "-HR" if model else ""
        lines = [
            (f"{each.longest} alone", f"TimeSformer{suffix}", each.alone, theirs.baseline),
            (f"ReViT{suffix}, always {each.longest}", NOTHING, each.always, None),
            (f"ReViT{suffix}, adaptive", f"ReViT-TimeSformer{suffix}", each.adaptive, theirs.adaptive),
        ]
        for title, their_title, ours, of_paper in lines:
            cost = ours.gmacs.times(factor)
            cells = [title, ours.top1.text(), cost.text(decimals, exact=True), *_relative(ours, each.alone)]
            rows.append([*cells, their_title, *_papers(of_paper, theirs.baseline)])
            spots.append(Spot(title, cost, ours.top1, model))
        claims += _table1_claims(each, theirs, suffix)
    if len(compared) > 1:
        base, high = compared
        words = "the saving is smaller at high resolution, in percent"
        claims.append(Claim(words, "33 > 28", base.saving, high.saving))
        words = "high resolution is better, top-1, one length alone"
        claims.append(Claim(words, "77.8 > 75.8", high.alone.top1, base.alone.top1))
    header = ["here", "top-1 %", f"{unit}, all views", "cost", "points", "the paper's", "top-1 %", "TFLOPs"]
    return Page(
        "Table 1: ReViT against one length alone",
        [
            "Top-1 on the test list and multiply-accumulates of all views of a video, the assigner's "
            "included. Cost and points are relative to the first line of each model. "
            f"The paper's columns, on the right: {paper.VIDEOS}.",
            markdown_table([*header, "cost", "points"], rows),
        ],
        claims,
        spots_figure(spots, f"{unit}, all views", "Cost saved against accuracy lost"),
    )


def _table1_claims(ours: Comparison, theirs: paper.Table1, suffix: str) -> list[Claim]:
    nothing = PerSeed.of(0.0 for _ in ours.saving.values)
    above, below = theirs.baseline[0], theirs.adaptive[0]
    loses = f"ReViT{suffix} loses a little: one length alone is better, top-1"
    return [
        Claim(f"ReViT{suffix} saves cost, in percent", f"{theirs.saved} > 0", ours.saving, nothing),
        Claim(loses, f"{above} > {below} (by {above - below:.1f})", ours.alone.top1, ours.adaptive.top1),
    ]


def _unit(gmacs: float) -> tuple[float, str, int]:
    """Factor on GMACs, unit, and decimals for costs up to `gmacs`."""
    if gmacs >= 1000:
        return 1e-3, "TMACs", 2
    factor, unit = cost_unit(gmacs)
    return factor, unit, 1 if factor * gmacs >= 10 else 2


def _relative(row: AtCost, baseline: AtCost) -> list[str]:
    """Cost in percent of the baseline's, and the difference of top-1 in points."""
    if row == baseline:
        return ["100 %", NOTHING]
    cost = row.gmacs.by(baseline.gmacs, lambda a, b: 100 * a / b)
    points = row.top1.by(baseline.top1, lambda a, b: a - b)
    return [f"{cost.text(0, exact=True)} %", ("+" if points.mean > 0 else "") + points.text()]


def _papers(row: tuple[float, float] | None, baseline: tuple[float, float]) -> list[str]:
    """The paper's top-1, TFLOPs, and both relative to its baseline."""
    if row is None:
        return [NOTHING] * 4
    points = NOTHING if row is baseline else f"{row[0] - baseline[0]:+.1f}"
    return [f"{row[0]}", f"{row[1]}", f"{100 * row[1] / baseline[1]:.0f} %", points]


# ---- Tables 2 and 3: top-1 at each length ----------------------------------------------------------------


class LengthRow(NamedTuple):
    """Top-1 at each of our lengths, and the paper's at its three."""

    title: str
    top1: list[PerSeed]
    paper: Sequence[float] | None


def table2(sources: Sequence[RowResults]) -> Page:
    """One model per length, then ReViT without self-distillation and with it at several temperatures."""
    (source,) = sources
    lengths, own_tau, own_gate = source.lengths, source.own_tau, source.own_gate
    alone = [_top1(source.results(single(length)), [length])[0] for length in lengths]
    without = _top1(source.results(NO_DISTILLATION), lengths)
    papers = [tau_row(tau, own_tau, own_gate) for tau in PAPERS_TAU]
    low, high = (_top1(source.results(name), lengths) for name in papers)
    rows = [
        LengthRow("one model per length", alone, paper.SINGLES),
        LengthRow("ReViT, no self-distillation", without, paper.NO_DISTILLATION),
        LengthRow("ReViT, τ 0.5", low, paper.TAU[0.5]),
        LengthRow("ReViT, τ 0.9", high, paper.TAU[0.9]),
    ]
    longest, shortest = f"at the longest length ({lengths[0]})", f"at the shortest length ({lengths[-1]})"
    claims = [
        Claim(f"no distillation, as good as one model alone or better {longest}",
              "80.12 > 79.85", without[0], alone[0]),
        Claim(f"no distillation: worse than one model alone {shortest}",
              "72.41 > 70.15", alone[-1], without[-1]),
        Claim(f"distillation (τ 0.9) helps {shortest}", "74.21 > 70.15", high[-1], without[-1]),
        Claim(f"distillation (τ 0.5) helps {shortest}", "71.33 > 70.15", low[-1], without[-1]),
        Claim(f"τ 0.9 beats τ 0.5 {shortest}", "74.21 > 71.33", high[-1], low[-1]),
        Claim(f"distilled (τ 0.9), better than one model alone {shortest}",
              "74.21 > 72.41", high[-1], alone[-1]),
        Claim(f"no distillation beats τ 0.9 {longest}", "80.12 > 79.83", without[0], high[0]),
        Claim(f"no distillation beats τ 0.5 {longest}", "80.12 > 79.92", without[0], low[0]),
    ]  # fmt: skip
    notes = []
    if OWN not in papers:
        own = _top1(source.results(OWN), lengths)
        rows.append(LengthRow(f"ReViT, τ {own_tau:g}, the config's own", own, None))
        words = f"distillation as in the config (τ {own_tau:g}), not in the paper, helps {shortest}"
        claims.append(Claim(words, "no figures", own[-1], without[-1]))
        if own_gate:
            notes.append(
                "The config's own distillation starts once the longest length's training top-1 has passed "
                f"{own_gate:g} % (REVIT.DISTILL.MIN_TEACHER_TOP1); the paper's starts at the first step."
            )
    return _at_lengths_page("Table 2: self-distillation", rows, lengths, claims, notes)


def table3(sources: Sequence[RowResults]) -> Page:
    """Shared or own patch and position embeddings, resampled ones, and shared layer norms."""
    (source,) = sources
    lengths = source.lengths
    top1 = {name: _top1(source.results(name), lengths) for name in TABLE3}
    one_kernel = LengthRow("shared kernel, own positions", top1["shared_patch"], paper.SHARED_PATCH)
    one_grid = LengthRow("own kernels, shared positions", top1["shared_position"], paper.SHARED_POSITION)
    own = LengthRow("own kernels, own positions", top1[OWN], paper.NEITHER_SHARED)
    one_norm = LengthRow("own kernels, own positions, shared norms", top1["shared_norm"], None)
    rows = [
        LengthRow("shared kernel, shared positions", top1["shared_both"], None),
        one_kernel,
        one_grid,
        own,
        LengthRow("one kernel, resampled; own positions", top1["resized_patch"], None),
        LengthRow("own kernels; positions interpolated", top1["resized_position"], None),
        one_norm,
    ]
    claims = [
        *_better("own kernels beat a shared one", own, one_kernel, lengths),
        *_better("own positions beat shared ones", own, one_grid, lengths),
        *_better("sharing positions loses less than sharing the kernel", one_grid, one_kernel, lengths),
        *_better("an own layer norm for each length helps", own, one_norm, lengths),
    ]
    note = (
        "Shared kernel: the centre of one large kernel. Shared positions: one grid, zero-padded. A tick in "
        "the paper's table means an own embedding: its row of two ticks equals Table 2's. It has no row with "
        "both shared, none with FlexiViT's resampled kernel and interpolated positions, and none with shared "
        "norms."
    )
    return _at_lengths_page("Table 3: shared embeddings", rows, lengths, claims, [note])


def _better(words: str, above: LengthRow, below: LengthRow, lengths: Sequence[TokenLength]) -> list[Claim]:
    """The claim that one row is better than another, at every length."""
    figures = None
    if above.paper is not None and below.paper is not None and (places := _places(lengths)):
        figures = [(above.paper[i], below.paper[i]) for i in places]
    return at_each_length(words, lengths, figures, above.top1, below.top1)


def _top1(results: Sequence[dict[str, Any]], lengths: Sequence[TokenLength]) -> list[PerSeed]:
    return [PerSeed.of(each["static"][str(length)]["top1"] for each in results) for length in lengths]


def _places(lengths: Sequence[TokenLength]) -> list[int]:
    """Which of the paper's three lengths corresponds to each of ours; empty where there are more."""
    return {2: [0, 2], 3: [0, 1, 2]}.get(len(lengths), [])


def _at_lengths_page(
    title: str,
    rows: Sequence[LengthRow],
    lengths: Sequence[TokenLength],
    claims: list[Claim],
    notes: Sequence[str],
) -> Page:
    places = _places(lengths)
    header = ["top-1 %, here and in the paper", *map(str, lengths)]
    header += [f"paper {paper.LENGTHS[i]}" for i in places]
    cells = []
    for row in rows:
        theirs = [NOTHING if row.paper is None else f"{row.paper[i]:.2f}" for i in places]
        cells.append([row.title, *(value.text() for value in row.top1), *theirs])
    intro = (
        "Top-1 in percent on the test list at each token length. "
        f"The paper's columns, on the right: {paper.IMAGES}; its lengths stand beside ours by rank."
    )
    figure = accuracies_figure([(row.title, row.top1) for row in rows], lengths, title)
    return Page(title, [intro, markdown_table(header, cells), *notes], claims, figure)
