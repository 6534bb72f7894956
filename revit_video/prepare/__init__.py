"""From a data set's official files to a data folder: lists, class names and what was found on the way."""
