"""`prepare`: a data folder from a data set's official files and its videos.

Exit code 0: done; 1: done, but files are missing or broken, with --check; 2: a mistake in the command.
"""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from dataclasses import fields

from revit_video.prepare.annotation import TableColumns
from revit_video.runtime.machine import usable_cores

DATA_SETS = (  # the keys of `READERS`, whose modules a help need not load
    *("kinetics400", "kinetics600", "kinetics700", "ssv2", "ucf101", "hmdb51", "diving48", "imagenet"),
    *("cifar", "mnist", "folder", "csv", "lists"),
)
ANNOTATIONS = {
    **dict.fromkeys(("kinetics400", "kinetics600", "kinetics700"), "folder of train.csv, val.csv"),
    "ssv2": "folder of something-something-v2-{labels,train,validation}.json",
    "ucf101": "folder ucfTrainTestlist",
    "hmdb51": "folder testTrainMulti_7030_splits",
    "diving48": "folder of Diving48_V2_{train,test}.json and Diving48_vocab.json",
    "imagenet": "folder of the devkit, or of LOC_val_solution.csv; for validation images in one folder",
    "csv": "a table with a header",
    "lists": "a data folder with train.csv, …",
}
VIDEOS = {
    "cifar": "unpacked python version of CIFAR-10 or CIFAR-100",
    "mnist": "{train,t10k}-{images-idx3,labels-idx1}-ubyte, or with .gz",
}
DRAWN = {"folder": ("val", "test"), "csv": ("val", "test"), "cifar": ("val",), "mnist": ("val",)}


def prepare_command(parser: ArgumentParser, words: Sequence[str]) -> int:
    """Prints counts and the folder."""
    parser.epilog = "docs/data_sets.md tells each set's files."
    _add_data_sets(parser)
    arguments = parser.parse_args(words)
    given = vars(arguments)
    from revit_video.cli import clear_errors
    from revit_video.prepare.pipeline import DatasetFiles, Steps, prepare_data
    from revit_video.prepare.resize import Encoding
    from revit_video.runtime.logging import setup
    from revit_video.runtime.text import printable, printable_lines

    setup()
    with clear_errors("; the same command goes on from here"):
        columns = {field.name: given.get(f"{field.name}_column", "") for field in fields(TableColumns)}
        size = arguments.resize
        source = DatasetFiles(
            arguments.dataset,
            given.get("videos", ""),
            given.get("annotations", ""),
            given.get("split", 1),
            given.get("group", ""),
            TableColumns(**columns),
        )
        steps = Steps(
            mine=arguments.mine,
            val=given.get("val", 0.0),
            test=given.get("test", 0.0),
            seed=arguments.seed,
            check=arguments.check,
            min_frames=arguments.min_frames,
            resize=Encoding(size, arguments.crf, arguments.keyframe_every) if size else None,
            shard_bytes=int(arguments.pack * 1e6),
            processes=arguments.processes,
        )
        prepared = prepare_data(source, arguments.out, steps)
        print(printable_lines(str(prepared)))
        print(printable(arguments.out))
    return 1 if arguments.check and not prepared.is_complete else 0


def _add_data_sets(whole: ArgumentParser) -> None:
    """A sub-command for each data set."""
    commands = whole.add_subparsers(
        dest="dataset", required=True, metavar="DATASET", help=", ".join(DATA_SETS)
    )
    for name in DATA_SETS:
        command = commands.add_parser(name, formatter_class=ArgumentDefaultsHelpFormatter)
        add = command.add_argument
        if name != "lists":
            add(
                "--videos",
                required=True,
                metavar="DIR",
                help=VIDEOS.get(name, "videos or images, in any layout"),
            )
        add("--out", required=True, metavar="DIR", help="the data folder to write")
        if name in ANNOTATIONS:
            required = name != "imagenet"
            add("--annotations", required=required, default="", metavar="PATH", help=ANNOTATIONS[name])
        if name in ("ucf101", "hmdb51"):
            add("--split", type=int, default=1, choices=(1, 2, 3), help="official split")
        if name in ("folder", "csv"):
            add("--group", default="", metavar="REGEX", help="what paths of one source share")
        for split in DRAWN.get(name, ()):
            add(f"--{split}", type=float, default=0.1, metavar="SHARE", help="of each class")
        if name == "csv":
            for field in fields(TableColumns):
                add(f"--{field.name}-column", default=field.default, metavar="NAME", help="of the table")
        add("--mine", type=float, default=0.1, metavar="SHARE", help="of each class, held out of train")
        add("--seed", type=int, default=0, help="of what is held out")
        add("--check", action="store_true", help="open every file; leave out what is broken")
        add("--min-frames", type=int, default=8, metavar="N", help="fewer are called short")
        add("--resize", type=int, default=0, metavar="PIXELS", help="list copies of this short side")
        add("--crf", type=int, default=23, help="their quality, 0 (lossless) to 51")
        add("--keyframe-every", type=int, default=12, metavar="N", help="frames from keyframe to keyframe")
        add("--pack", type=float, default=0, metavar="MB", help="list parts of tar shards of this size")
        add("--processes", type=int, default=usable_cores(), metavar="N", help="that open, encode and pack")
