"""From files and KEY VALUE pairs to a config, and the messages about mistakes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from revit_video.config import ConfigError, dump_cfg, get_cfg, load_cfg, yaml_options
from revit_video.config.load import nearest_key
from revit_video.config.rules import get


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def mistakes_of(path: str | None, *opts: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_cfg(path, opts)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_get_cfg_gives_copies() -> None:
    get_cfg().TRAIN.BATCH_SIZE = 1
    assert get_cfg().TRAIN.BATCH_SIZE == 64


def test_command_line_over_file_over_base_over_defaults(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 3, MOMENTUM: 0.5}\n")
    path = write(tmp_path / "run.yaml", "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 0.2\n  MAX_EPOCH: 4\n")
    cfg = load_cfg(path, ["SOLVER.BASE_LR", "0.3"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.MOMENTUM) == (0.3, 4, 0.5)
    assert cfg.SOLVER.WEIGHT_DECAY == get_cfg().SOLVER.WEIGHT_DECAY


def test_a_tilde_is_the_home_folder_in_every_key_that_names_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = write(tmp_path / "run.yaml", "OUTPUT_DIR: ~/out\nDATA: {PATH_TO_DATA_DIR: ~/videos}\n")
    weights = ["TRAIN.CHECKPOINT_FILE_PATH", "~/a.pyth", "TEST.CHECKPOINT_FILE_PATH", "~/b.pyth"]
    cfg = load_cfg(
        path, [*weights, "DATA.PATH_PREFIX", "~", "DATA.TOKEN_LABELS", "~/maps", "DATA.NUM_FRAMES", 1]
    )
    places = [cfg.OUTPUT_DIR, cfg.DATA.PATH_TO_DATA_DIR, cfg.TRAIN.CHECKPOINT_FILE_PATH]
    places += [cfg.TEST.CHECKPOINT_FILE_PATH, cfg.DATA.PATH_PREFIX, cfg.DATA.TOKEN_LABELS]
    names = ["/out", "/videos", "/a.pyth", "/b.pyth", "", "/maps"]
    assert places == [f"/home/me{name}" for name in names]


def test_a_files_own_options_lie_over_any_config_without_its_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "SOLVER: {MAX_EPOCH: 3}\n")
    text = "_BASE_: base.yaml\nMODEL: {ARCH: deit_small}\nREVIT: {TOKEN_LENGTHS: [8]}\n"
    own = write(tmp_path / "own.yaml", text)
    assert yaml_options(own) == ["MODEL.ARCH", "deit_small", "REVIT.TOKEN_LENGTHS", [8]]
    other = write(tmp_path / "other.yaml", "SOLVER: {MAX_EPOCH: 7}\n")
    cfg = load_cfg(other, ["REVIT.TOKEN_LENGTHS", "[14, 7]", *yaml_options(own)[2:]])
    assert (cfg.SOLVER.MAX_EPOCH, cfg.REVIT.TOKEN_LENGTHS) == (7, [8])


@pytest.mark.parametrize("given", ["MODEL: {COMPILE: false}", "MODEL: {COMPILE: 'False'}", "MODEL: {}"])
def test_words_that_may_be_true_or_false(given: str, tmp_path: Path) -> None:
    (path := tmp_path / "a.yaml").write_text(given)
    assert ("False" if "COMPILE" in given else "auto") == load_cfg(str(path)).MODEL.COMPILE
    for word, kept in (("True", "True"), ("true", "True"), (True, "True"), ("auto", "auto")):
        assert kept == load_cfg(str(path), ["MODEL.COMPILE", word]).MODEL.COMPILE
    with pytest.raises(ValueError, match="MODEL.COMPILE: must be one of auto, True, False"):
        load_cfg(str(path), ["MODEL.COMPILE", "yes please"])


def test_result_is_frozen_and_survives_pickling() -> None:
    cfg = load_cfg(None)
    with pytest.raises(AttributeError):
        cfg.TRAIN.BATCH_SIZE = 1
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_dump_reads_back_to_an_equal_config(tmp_path: Path) -> None:
    opts = [
        "REVIT.TOKEN_LENGTHS",
        "[14, 7x7]",
        "DATA.REVERSED_CLASSES",
        "[[0, 1]]",
        "SOLVER.BASE_LR",
        "1e-05",
    ]
    cfg = load_cfg(None, opts)
    text = dump_cfg(cfg)
    assert "  TOKEN_LENGTHS: [14, 7x7]\n" in text
    assert load_cfg(write(tmp_path / "config.yaml", text)) == cfg


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.STEPS", "[0, 5, 9]", [0, 5, 9]),
        ("SOLVER.STEPS", (0, 5, 9), [0, 5, 9]),
        ("SOLVER.LRS", "[1, 0.1, 0.01]", [1.0, 0.1, 0.01]),
        ("REVIT.TOKEN_LENGTHS", "[14x14, 10x10, 7]", ["14x14", "10x10", 7]),
        ("REVIT.TOKEN_LENGTHS", ((14, 14), (7, 7)), [[14, 14], [7, 7]]),
        ("TRAIN.ENABLE", "False", False),
        ("OUTPUT_DIR", "007", "007"),
        ("DATA.PATH_LABEL_SEPARATOR", ",", ","),
        ("DATA.PATH_PREFIX", "", ""),
    ],
)
def test_values_become_the_type_of_their_key(key: str, text: object, expected: object) -> None:
    value = get(load_cfg(None, [key, text]), key)
    assert value == expected
    assert type(value) is type(expected)


def test_yaml_reads_exponents_without_a_point(tmp_path: Path) -> None:
    assert load_cfg(write(tmp_path / "c.yaml", "SOLVER: {WEIGHT_DECAY: 1e-3}")).SOLVER.WEIGHT_DECAY == 1e-3


def test_a_group_without_keys_changes_nothing(tmp_path: Path) -> None:
    assert load_cfg(write(tmp_path / "c.yaml", "TRAIN:\n  # BATCH_SIZE: 8\n")) == load_cfg(None)
    assert load_cfg(write(tmp_path / "empty.yaml", "")) == load_cfg(None)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "SOLVER: {BASE_LRR: 0.1}\nTRAIN: {BATCH_SIZE: many}\nNUM_GPUS: 0\n")
    with pytest.raises(ConfigError) as caught:
        load_cfg(path, ["DEVICE", "tpu", "MODEL", "1"])
    assert str(caught.value).splitlines() == [
        f"{path}: 5 mistakes",
        "  SOLVER.BASE_LRR: no such key; nearest: SOLVER.BASE_LR",
        "  TRAIN.BATCH_SIZE: must be a whole number, got 'many'",
        "  MODEL: is a group of keys; set one of them, such as MODEL.ARCH (command line)",
        "  NUM_GPUS: must be at least 1, got 0",
        "  DEVICE: must be one of auto, cpu, cuda, got 'tpu'",
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TRAIN.BATCH_SIZE", "8.5", "a whole number"),
        ("TRAIN.BATCH_SIZE", "true", "a whole number"),
        ("TRAIN.ENABLE", "1", "true or false"),
        ("SOLVER.BASE_LR", "nan", "a number"),
        ("SOLVER.BASE_LR", "fast", "a number"),
        ("SOLVER.STEPS", "3", "a list"),
        ("SOLVER.STEPS", "[0, x]", "a whole number"),
        ("REVIT.TOKEN_LENGTHS", "14x14", "a list"),
        ("OUTPUT_DIR", 3, "text"),
    ],
)
def test_wrong_types(key: str, value: object, words: str) -> None:
    (line,) = mistakes_of(None, key, value)
    assert line.startswith(f"{key}: must be {words}, got ")


def test_a_refused_value_breaks_no_other_rule() -> None:
    """224 stays in TRAIN_CROP_SIZE; that it differs from 112 is no mistake of the user's."""
    lines = mistakes_of(None, "DATA.TRAIN_CROP_SIZE", "112px", "DATA.TEST_CROP_SIZE", "112")
    assert lines == ["DATA.TRAIN_CROP_SIZE: must be a whole number, got '112px' (command line)"]


def test_odd_number_of_arguments() -> None:
    assert mistakes_of(None, "NUM_GPUS", "2", "DEVICE") == ["DEVICE: a KEY without a VALUE"]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("- a\n- b\n", "must be `KEY: value` lines, got list"),
        ("TRAIN: [1\n", "not YAML: "),
        ("TRAIN: !!python/object/apply:os.system ['true']\n", "not YAML: "),
        ("_BASE_: other.yaml\n", "no such file"),
        ("_BASE_: {a: 1}\n", "_BASE_: must be a file name or a list of them"),
        ("_BASE_: 3\n", "_BASE_: must be a file name or a list of them"),
        ("TRAIN: 3\n", "TRAIN: is a group of keys"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, mistake: str) -> None:
    (line,) = mistakes_of(write(tmp_path / "c.yaml", text))
    assert line.startswith(mistake)


def test_circular_bases(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    path = write(tmp_path / "b.yaml", "_BASE_: [a.yaml]\n")
    (line,) = mistakes_of(path)
    assert line.endswith("b.yaml includes itself")


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=f"{path}: 1 mistake\n  no such file"):
        load_cfg(path)


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "NUM_GPU: 1\n")
    path = write(tmp_path / "run.yaml", "_BASE_: base.yaml\n")
    assert mistakes_of(path) == [f"NUM_GPU: no such key; nearest: NUM_GPUS ({base})"]


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("BASE_LR", "SOLVER.BASE_LR"),
        ("REVIT.TAU", "REVIT.DISTILL.TAU"),
        ("data.num_frame", "DATA.NUM_FRAMES"),
    ],
)
def test_nearest_key(mistyped: str, meant: str) -> None:
    known = ["DATA.NUM_FRAMES", "ASSIGNER.NUM_FRAMES", "REVIT.NORM", "REVIT.DISTILL.TAU", "SOLVER.BASE_LR"]
    assert nearest_key(mistyped, known) == meant


def test_a_removed_key_is_accepted_at_its_old_default(tmp_path: Path) -> None:
    """The config.yaml of an earlier version still starts its run again."""
    assert load_cfg(write(tmp_path / "old.yaml", "MINE: {BATCH_SIZE: 0}\n")) == load_cfg(None)
    assert load_cfg(None, ["ASSIGNER.LABEL_SMOOTHING", "0.0"]) == load_cfg(None)
    assert mistakes_of(None, "MINE.BATCH_SIZE", "4") == [
        "MINE.BATCH_SIZE: no longer exists; TEST.BATCH_SIZE is used (command line)"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "SOLVER:\n  BASE_LR: 0.1\nTRAIN: {}\nSOLVER:\n  MAX_EPOCH: 3\n",
            "SOLVER stands twice, in lines 1 and 4",
        ),
        (
            "SOLVER:\n  BASE_LR: 0.1\n  BASE_LR: 0.2\n",
            "BASE_LR stands twice, in lines 2 and 3",
        ),
    ],
)
def test_a_key_that_stands_twice(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load_cfg(write(tmp_path / "twice.yaml", text))
