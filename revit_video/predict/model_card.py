"""The model card of a predictor: what its test measured, and how it was made."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from revit_video.runtime import output_dir

if TYPE_CHECKING:
    from revit_video.predict import Predictor

FOLDERS = r"(?<![\w.])/(?:[^\s/'\"]+/)*"  # of a machine, in front of a name: nobody else's matter
CARD = """---
{data}
---

# {name}

{model}

{results}
```python
import revit_video

revit_video.load("{source}").predict("clip.mp4")  # hf:<owner>/<name>, or the folder of this card
```

- classes: {classes}
- clips: {frames} frames of {size} x {size} pixels
- certified: {certificate}
- licence of the weights: {license}
{made}"""


def model_card(predictor: Predictor, license: str | None) -> ModelCard:
    """The card, with the figures of the run's results.json, where the model lies beside it."""
    return ModelCard(_card(predictor, license))


def _card(predictor: Predictor, license: str | None) -> str:
    lengths = ", ".join(map(str, predictor.model.lengths))
    results = _results(os.path.join(predictor.folder, output_dir.RESULTS))
    tags = ["video-classification", "adaptive-inference"]
    data = ModelCardData(
        license=license, library_name="revit_video", pipeline_tag="video-classification", tags=tags
    )
    made = ""
    if results and results.get("command"):
        command = re.sub(
            r"(?<![\w.])/(?:[^\s/'\"]+/)*", "", results["command"]
        )  # folders of a machine say nothing
        made = f"- made by `{command}`\n"
    return CARD.format(
        data=data.to_yaml(),
        name=os.path.basename(os.path.abspath(predictor.folder)) or "model",
        model=f"{type(predictor.model).__name__} of token lengths {lengths}; policy {predictor.policy}.",
        results=_table(results),
        source="hf:<owner>/<name>",
        classes=", ".join(predictor.class_names),
        frames=predictor.data.num_frames,
        size=predictor.data.crop_size,
        certificate=predictor.certificate or "nothing",
        license=license or "not stated",
        made=made,
    )


def _results(path: str) -> dict[str, Any] | None:
    """What a run's test measured; None where there was none. ValueError for a file of another shape."""
    if not os.path.isfile(path):
        return None
    from revit_video.models.transformers_folder import read_object
    from revit_video.report.results_file import check_results

    results = read_object(path)
    try:
        check_results(results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return results


def _table(results: dict[str, Any] | None) -> str:
    """Accuracy, cost and speed as Markdown."""
    if not results:
        return "It was saved without the results of a test.\n"
    rows = {f"always {length}": entry for length, entry in results["static"].items()}
    if results.get("adaptive"):
        rows[f"adaptive ({results['adaptive'].get('policy', 'assigned')})"] = results["adaptive"]
    lines = ["| | top-1 | GMACs per view | clips/s |", "|---|---|---|---|"]
    for name, entry in rows.items():
        speed = entry.get("clips_per_sec")
        said = "not measured" if speed is None else f"{speed:.4g}"
        lines.append(f"| {name} | {entry['top1']:.1f} % | {entry['gmacs']:.4g} | {said} |")
    where = f"{results.get('videos', 'the')} videos of the split {results.get('split', 'test')}"
    return "\n".join([f"Measured on {where} of {results.get('dataset', 'its data')}:", "", *lines, ""])
