"""`export`: a trained model and its policy for other runtimes."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence


def export_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints the files, and how far the graphs' outputs are from the model's."""
    add = parser.add_argument
    add("checkpoint", metavar="MODEL", help="an OUTPUT_DIR, or a .pyth file in it")
    add("folder", metavar="DIR", help="for the graphs, policy.json and runtime.py")
    add("--to", required=True, choices=("onnx", "torch_export"), help="kind of the graphs")
    add("--policy", metavar="P", help="longest, 14x14, budget=0.5, max_drop=0.2, … (default: as shipped)")
    arguments = parser.parse_intermixed_args(words)
    from revit_video.cli import clear_errors
    from revit_video.runtime.text import printable

    with clear_errors():
        import revit_video
        from revit_video.export.traced import export

        predictor = revit_video.load(arguments.checkpoint, "cpu", dtype="float32", policy=arguments.policy)
        for file, difference in export(predictor, arguments.folder, arguments.to).items():
            print(f"{file}: outputs within {difference:.0e} of the model's")
        print(printable(arguments.folder))
