"""Time and memory of an optimiser step, measured against its peers in one run."""
