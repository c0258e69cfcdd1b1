"""One process that trains the same cases on a device and says their figures: `python -m conformance_run`."""
