"""What a person looks at: the table in the terminal and `report.html`.

All of it is made from the files in OUTPUT_DIR, so the page can be drawn again at any time.

`results.json` holds (accuracies in percent, cost in GMACs per view, speed in clips/s without decoding,
speed-ups against the longest length for all clips):

    {
      "dataset": str, "split": "test", "clips": int, "videos": int, "skipped": int,
      "classes": [str] | null, "lengths": ["14x14", "7x7"],      # longest first
      "command": str, "seed": int, "views": int,
      "static": {"14x14": POLICY}, "adaptive": null | POLICY + {"assigner_gmacs", "threshold"},
      "policies": {"random": POLICY, "cascade": POLICY + {"threshold"}, "oracle": POLICY without SPEED},
      "clock": {"control": SPEED},                               # the longest length, timed once more
      "curves": {"assigned" | "cascade" | "random": [{"threshold", "gmacs", "top1"}]}
    }

    POLICY  {"top1", "top5", "gmacs", "macs_speedup", "length_counts": {"14x14": int}} + SPEED
    SPEED   {"clips_per_sec", "speedup"}, medians over the rounds of the clock, and their lower and upper
            quartiles {"clips_per_sec_quartiles", "speedup_quartiles": [float, float]}
"""

from revit_video.report.page import write_labels_picture, write_report
from revit_video.report.table import print_table, summary

__all__ = ["print_table", "summary", "write_labels_picture", "write_report"]
