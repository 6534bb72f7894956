"""Classify files on a Ray cluster: `python examples/ray_predict.py MODEL list.txt answers`.

Ray Data reads the list, keeps a predictor in each actor, starts lost actors anew, and writes Parquet. Files
of a batch share forward passes by token length. Needs `pip install 'revit_video[ray]'`.
"""

import argparse
from typing import Any

import numpy as np
import ray

import revit_video

COLUMNS = ("path", "class", "probability", "length", "gmacs", "error")


class Classify:
    """An actor with a predictor; see `Predictor.predict_many`."""

    def __init__(self, model: str) -> None:
        self.predictor = revit_video.load(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        paths = batch["text"].tolist()
        rows: list[tuple[Any, ...]] = []
        for path, answer in zip(paths, self.predictor.predict_many(paths, num_workers=0), strict=True):
            if isinstance(answer, Exception):
                rows.append((path, "", 0.0, "", 0.0, answer.reason))
            else:
                rows.append((path, *answer.classes[0], str(answer.length), answer.gmacs, ""))
        return dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="an OUTPUT_DIR, a saved folder or hf:<owner>/<name>")
    parser.add_argument("list", metavar="LIST", help="a file with a path per line, where every node finds it")
    parser.add_argument("answers", metavar="ANSWERS", help="folder for the Parquet files")
    parser.add_argument("--actors", type=int, default=2, metavar="N")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="files")
    parser.add_argument("--num-gpus", type=float, default=0, metavar="N", help="of an actor")
    words = parser.parse_args()
    paths = ray.data.read_text(words.list)
    paths.map_batches(
        Classify,
        fn_constructor_args=[words.model],
        batch_size=words.batch_size,
        compute=ray.data.ActorPoolStrategy(size=words.actors),
        num_gpus=words.num_gpus,
    ).write_parquet(words.answers)


if __name__ == "__main__":
    main()
