"""The table on the terminal and report.html, made from the files in OUTPUT_DIR (docs/output.md)."""

from revit_video.report.page import write_labels_picture, write_report
from revit_video.report.results_table import print_table, summary

__all__ = ["print_table", "summary", "write_labels_picture", "write_report"]
