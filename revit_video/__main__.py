"""`python -m revit_video COMMAND …`."""

from revit_video.commands.main import main

if __name__ == "__main__":
    main()
