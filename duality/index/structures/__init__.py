"""Search structures over the vectors of one side: derived data, rebuilt from the records at any time."""
