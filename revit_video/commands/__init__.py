"""The command `revit-video`; PyTorch is imported after its words are understood."""
