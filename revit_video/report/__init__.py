"""What a person looks at: the table in the terminal and `report.html`.

All of it is made from the files in OUTPUT_DIR, so the page can be drawn again at any time.

`results.json` holds (accuracies in percent, cost in GMACs a view, speed in clips/s without decoding,
speed-ups against always reading the longest length):

    {
      "dataset": str, "split": "test", "clips": int, "videos": int, "skipped": int,
      "classes": [str] | null, "lengths": ["14x14", "7x7"],      # longest first
      "command": str, "seed": int, "views": int,
      "static": {"14x14": {"top1", "top5", "gmacs", "clips_per_sec", "speedup"}},
      "adaptive": null | {"top1", "top5", "gmacs", "length_counts": {"14x14": int}, "clips_per_sec",
                          "speedup", "macs_speedup", "assigner_gmacs", "threshold"},
      "policies": {"random" | "cascade" | "oracle": {"top1", "top5", "gmacs", "length_counts",
                   "clips_per_sec", "speedup", "macs_speedup"}},  # cascade: also "threshold"
      "curves": {"assigned" | "cascade" | "random": [{"threshold", "gmacs", "top1"}]}
    }
"""

from revit_video.report.page import write_labels_picture, write_report
from revit_video.report.table import print_table, summary

__all__ = ["print_table", "summary", "write_labels_picture", "write_report"]
