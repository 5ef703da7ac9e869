"""Raw files → a prepared folder: in parallel, restartable, with a report; and whether it is whole."""
