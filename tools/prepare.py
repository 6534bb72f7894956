"""Makes a data folder from a data set's official files and its videos; docs/data_sets.md tells each set's."""

import _environment  # noqa: F401

from revit_video.commands.main import main

if __name__ == "__main__":
    main("prepare")
