"""The draw of what is held out of training."""

from __future__ import annotations

from collections import Counter

from revit_video.prepare.annotation import Entry
from revit_video.prepare.holdout import hold_out


def entries(counts: dict[str, int], per_source: int = 1) -> list[Entry]:
    return [
        Entry("train", label, f"{label}{n // per_source}", (), f"{label}/{n}")
        for label, count in counts.items()
        for n in range(count)
    ]


def test_each_class_gives_its_share_but_its_last_clip() -> None:
    drawn = hold_out(entries({"a": 100, "b": 20, "c": 3, "d": 1}), {"mine": 0.1})
    assert Counter(e.label for e in drawn if e.split == "mine") == {"a": 10, "b": 2, "c": 1}


def test_whole_sources_across_classes() -> None:
    shared = [Entry("train", label, f"video{n}", (), "") for label in "ab" for n in range(50)]
    drawn = hold_out(shared + entries({"a": 50}, per_source=5), {"mine": 0.2, "val": 0.1})
    splits: dict[str, set[str]] = {}
    for entry in drawn:
        splits.setdefault(entry.source, set()).add(entry.split)
    assert all(len(found) == 1 for found in splits.values())
    for label, clips in (("a", 100), ("b", 50)):
        found = Counter(e.split for e in drawn if e.label == label)
        assert abs(found["mine"] / clips - 0.2) <= 0.05 and abs(found["val"] / clips - 0.1) <= 0.05


def test_a_class_of_large_sources_gives_one() -> None:
    drawn = hold_out(entries({"a": 40}, per_source=20), {"mine": 0.1})
    assert Counter(e.split for e in drawn) == {"train": 20, "mine": 20}


def test_the_same_seed_draws_the_same_and_few_new_files_change_little() -> None:
    clips = entries({"a": 200, "b": 200})
    first = {e.path for e in hold_out(clips, {"mine": 0.1}, seed=1) if e.split == "mine"}
    assert first == {e.path for e in hold_out(clips[::-1], {"mine": 0.1}, seed=1) if e.split == "mine"}
    assert first != {e.path for e in hold_out(clips, {"mine": 0.1}, seed=2) if e.split == "mine"}
    fewer = {e.path for e in hold_out(clips[5:], {"mine": 0.1}, seed=1) if e.split == "mine"}
    assert len(first - fewer) <= 4


def test_only_train_is_drawn_from() -> None:
    clips = [Entry("val", "a", "s", (), ""), *entries({"a": 10})]
    assert hold_out(clips, {"mine": 0.5})[0].split == "val"
    assert hold_out(clips, {"mine": 0.0}) == clips
