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
from revit_video.report.table import cost_unit

NOTHING = "-"


class RowResults(Protocol):
    """What the rows of a config gave; `Runs` is one."""

    @property
    def lengths(self) -> tuple[TokenLength, ...]: ...
    @property
    def own_tau(self) -> float: ...
    @property
    def own_gate(self) -> float: ...

    def results(self, name: str) -> list[dict[str, Any]]:
        """results.json of each seed."""
        ...


class LengthRow(NamedTuple):
    """A row of Table 2 or 3: top-1 at each of our lengths, and the paper's at its own."""

    title: str
    top1: list[PerSeed]
    paper: Sequence[float] | None


# ---- Table 1 ---------------------------------------------------------------------------------------------


def table1(sources: Sequence[RowResults]) -> Page:
    """ReViT, adaptive, against a model of the longest length alone: accuracy and cost of all views."""
    pairs = [(paper.BASELINE, paper.ADAPTIVE), (paper.BASELINE_HR, paper.ADAPTIVE_HR)]
    factor, unit, decimals = _unit(max(_baseline(source)[1].mean for source in sources))
    rows: list[list[str]] = []
    spots: list[Spot] = []
    claims: list[Claim] = []
    savings: list[PerSeed] = []
    for source, (theirs, theirs_adaptive), saved, suffix in zip(
        sources, pairs, paper.SAVED, ("", "-HR"), strict=False
    ):
        longest = str(source.lengths[0])
        alone, ours = _baseline(source), _adaptive(source.results(OWN))
        always = _static(source.results(OWN), longest)
        lines = [
            (f"{longest} alone", f"TimeSformer{suffix}", alone, theirs),
            (f"ReViT{suffix}, always {longest}", "", always, None),
            (f"ReViT{suffix}, adaptive", f"ReViT-TimeSformer{suffix}", ours, theirs_adaptive),
        ]
        for title, name, (top1, cost), of_paper in lines:
            rows.append([title, top1.text(), cost.times(factor).text(decimals, exact=True)])
            rows[-1] += [*_relative((top1, cost), alone), name or NOTHING]
            rows[-1] += [NOTHING] * 4 if of_paper is None else _papers(of_paper, theirs)
            spots.append(Spot(title, cost.times(factor), top1, len(spots) // 3))
        saving = ours[1].by(alone[1], lambda a, b: 100 * (1 - a / b))
        savings.append(saving)
        lost = theirs[0] - theirs_adaptive[0]
        nothing = PerSeed.of(0.0 for _ in saving.values)
        claims += [
            Claim(f"ReViT{suffix} saves cost, in percent", f"{saved} > 0", saving, nothing),
            Claim(
                f"ReViT{suffix} loses a little: one length alone is better, top-1",
                f"{theirs[0]} > {theirs_adaptive[0]} (by {lost:.1f})",
                alone[0],
                ours[0],
            ),
        ]
    if len(savings) > 1:
        base, high = savings
        claims += [
            Claim("the saving is smaller at high resolution, in percent", "33 > 28", base, high),
            Claim(
                "high resolution is better, top-1, one length alone",
                f"{paper.BASELINE_HR[0]} > {paper.BASELINE[0]}",
                _baseline(sources[1])[0],
                _baseline(sources[0])[0],
            ),
        ]
    header = ["here", "top-1 %", f"{unit}, all views", "cost", "points", "the paper's", "top-1 %", "TFLOPs"]
    return Page(
        "Table 1: ReViT against one length alone",
        [
            "Top-1 on the test list and multiply-accumulates of all views of a video, the assigner's "
            "included. Cost and points are against the first line of each model. "
            f"The paper's columns, on the right: {paper.VIDEOS}.",
            markdown_table([*header, "cost", "points"], rows),
        ],
        claims,
        spots_figure(spots, f"{unit}, all views", "What is saved, and what it costs in accuracy"),
    )


def _unit(gmacs: float) -> tuple[float, str, int]:
    """Factor on GMACs, unit and decimals in which costs up to `gmacs` read well."""
    if gmacs >= 1000:
        return 1e-3, "TMACs", 2
    factor, unit = cost_unit(gmacs)
    return factor, unit, 1 if factor * gmacs >= 10 else 2


def _baseline(source: RowResults) -> tuple[PerSeed, PerSeed]:
    longest = str(source.lengths[0])
    return _static(source.results(single(longest)), longest)


def _static(results: Sequence[dict[str, Any]], length: str) -> tuple[PerSeed, PerSeed]:
    return _top1_and_cost(results, [each["static"][length] for each in results])


def _adaptive(results: Sequence[dict[str, Any]]) -> tuple[PerSeed, PerSeed]:
    return _top1_and_cost(results, [each["adaptive"] for each in results])


def _top1_and_cost(
    results: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]
) -> tuple[PerSeed, PerSeed]:
    """Top-1, and GMACs of all views, of one entry of each result."""
    costs = (entry["gmacs"] * each["views"] for entry, each in zip(entries, results, strict=True))
    return PerSeed.of(entry["top1"] for entry in entries), PerSeed.of(costs)


def _relative(row: tuple[PerSeed, PerSeed], baseline: tuple[PerSeed, PerSeed]) -> list[str]:
    """Cost in percent of the baseline's, and points more or less than it."""
    if row == baseline:
        return ["100 %", NOTHING]
    cost = row[1].by(baseline[1], lambda a, b: 100 * a / b)
    points = row[0].by(baseline[0], lambda a, b: a - b)
    return [f"{cost.text(0, exact=True)} %", ("+" if points.mean > 0 else "") + points.text()]


def _papers(row: tuple[float, float], baseline: tuple[float, float]) -> list[str]:
    points = NOTHING if row is baseline else f"{row[0] - baseline[0]:+.1f}"
    return [f"{row[0]}", f"{row[1]}", f"{100 * row[1] / baseline[1]:.0f} %", points]


# ---- Table 2 ---------------------------------------------------------------------------------------------


def table2(sources: Sequence[RowResults]) -> Page:
    """One model per length, then ReViT without self-distillation and with it at several temperatures."""
    (source,) = sources
    lengths, own_tau, own_gate = source.lengths, source.own_tau, source.own_gate
    alone = [_top1(source.results(single(length)), [length])[0] for length in lengths]
    without = _top1(source.results(NO_DISTILLATION), lengths)
    lines = [
        LengthRow("one model a length", alone, paper.SINGLES),
        LengthRow("ReViT, no self-distillation", without, paper.NO_DISTILLATION),
    ]
    papers = [tau_row(tau, own_tau, own_gate) for tau in PAPERS_TAU]
    for tau, name in zip(PAPERS_TAU, papers, strict=True):
        lines.append(LengthRow(f"ReViT, τ {tau:g}", _top1(source.results(name), lengths), paper.TAU[tau]))
    low, high = (line.top1 for line in lines[-2:])
    shortest = f"at the shortest length ({lengths[-1]})"
    claims = [
        Claim(f"no distillation, longest length: as one model alone or better ({lengths[0]})",
              "80.12 > 79.85", without[0], alone[0]),
        Claim(f"no distillation: worse than one model alone {shortest}",
              "72.41 > 70.15", alone[-1], without[-1]),
        Claim(f"distillation (τ 0.9) helps {shortest}", "74.21 > 70.15", high[-1], without[-1]),
        Claim(f"distillation (τ 0.5) helps {shortest}", "71.33 > 70.15", low[-1], without[-1]),
        Claim(f"τ 0.9 beats τ 0.5 {shortest}", "74.21 > 71.33", high[-1], low[-1]),
        Claim(f"distilled (τ 0.9), better than one model alone {shortest}",
              "74.21 > 72.41", high[-1], alone[-1]),
        Claim(f"no distillation is best at the longest length ({lengths[0]}): than τ 0.9",
              "80.12 > 79.83", without[0], high[0]),
        Claim(f"no distillation is best at the longest length ({lengths[0]}): than τ 0.5",
              "80.12 > 79.92", without[0], low[0]),
    ]  # fmt: skip
    notes = []
    if OWN not in papers:
        own = _top1(source.results(OWN), lengths)
        lines.append(LengthRow(f"ReViT, τ {own_tau:g}, the config's own", own, None))
        words = f"distillation as in the config (τ {own_tau:g}), which the paper has not, helps {shortest}"
        claims.append(Claim(words, "no figures", own[-1], without[-1]))
        if own_gate:
            notes.append(
                "The config's own distillation begins once the longest length's training top-1 has passed "
                f"{own_gate:g} % (REVIT.DISTILL.MIN_TEACHER_TOP1); the paper's begins at once."
            )
    page = _at_lengths_page("Table 2: self-distillation", lines, lengths, claims)
    page.paragraphs.extend(notes)
    return page


# ---- Table 3 ---------------------------------------------------------------------------------------------


def table3(sources: Sequence[RowResults]) -> Page:
    """Shared or own patch and position embeddings, resampled ones, and shared layer norms."""
    (source,) = sources
    lengths = source.lengths
    top1 = {name: _top1(source.results(name), lengths) for name in TABLE3}
    lines = [
        LengthRow("shared kernel, shared positions", top1["shared_both"], None),
        LengthRow("shared kernel, own positions", top1["shared_patch"], paper.SHARED_PATCH),
        LengthRow("own kernels, shared positions", top1["shared_position"], paper.SHARED_POSITION),
        LengthRow("own kernels, own positions", top1[OWN], paper.NEITHER_SHARED),
        LengthRow("one kernel, resampled; own positions", top1["resized_patch"], None),
        LengthRow("own kernels; positions interpolated", top1["resized_position"], None),
        LengthRow("own kernels, own positions, shared norms", top1["shared_norm"], None),
    ]
    places = _places(lengths)
    claims = [
        *_everywhere(
            "own kernels beat a shared one", lengths, places, top1[OWN], top1["shared_patch"],
            paper.NEITHER_SHARED, paper.SHARED_PATCH,
        ),
        *_everywhere(
            "own positions beat shared ones", lengths, places, top1[OWN], top1["shared_position"],
            paper.NEITHER_SHARED, paper.SHARED_POSITION,
        ),
        *_everywhere(
            "sharing positions costs less than sharing the kernel", lengths, places, top1["shared_position"],
            top1["shared_patch"], paper.SHARED_POSITION, paper.SHARED_PATCH,
        ),
        *at_each_length(
            "an own layer norm for each length pays", lengths, None, top1[OWN], top1["shared_norm"]
        ),
    ]  # fmt: skip
    page = _at_lengths_page("Table 3: shared embeddings", lines, lengths, claims)
    page.paragraphs.append(
        "Shared kernel: the centre of one large kernel. Shared positions: one grid, zero-padded. A tick in "
        "the paper's table means an own embedding: its row of two ticks equals Table 2's. It has no row with "
        "both shared, none with FlexiViT's resampled kernel and interpolated positions, and none with shared "
        "norms."
    )
    return page


def _everywhere(
    words: str,
    lengths: Sequence[TokenLength],
    places: Sequence[int] | None,
    above: Sequence[PerSeed],
    below: Sequence[PerSeed],
    paper_above: Sequence[float],
    paper_below: Sequence[float],
) -> list[Claim]:
    figures = None if places is None else [(paper_above[i], paper_below[i]) for i in places]
    return at_each_length(words, lengths, figures, above, below)


# ---- What Tables 2 and 3 share ---------------------------------------------------------------------------


def _top1(results: Sequence[dict[str, Any]], lengths: Sequence[TokenLength]) -> list[PerSeed]:
    return [PerSeed.of(each["static"][str(length)]["top1"] for each in results) for length in lengths]


def _places(lengths: Sequence[TokenLength]) -> list[int] | None:
    """Which of the paper's three lengths each of ours stands beside; None where there are more."""
    return {2: [0, 2], 3: [0, 1, 2]}.get(len(lengths))


def _at_lengths_page(
    title: str, lines: Sequence[LengthRow], lengths: Sequence[TokenLength], claims: list[Claim]
) -> Page:
    places = _places(lengths) or []
    header = ["top-1 %, here and in the paper", *map(str, lengths)]
    header += [f"paper {paper.LENGTHS[i]}" for i in places]
    rows = []
    for line in lines:
        theirs = [NOTHING if line.paper is None else f"{line.paper[i]:.2f}" for i in places]
        rows.append([line.title, *(value.text() for value in line.top1), *theirs])
    intro = (
        "Top-1 in percent on the test list at each token length. "
        f"The paper's columns, on the right: {paper.IMAGES}; lengths are set beside ours by rank."
    )
    figure = accuracies_figure([(line.title, line.top1) for line in lines], lengths, title)
    return Page(title, [intro, markdown_table(header, rows)], claims, figure)
