"""The limit of wall-clock time in tests: against hangs alone. No test has one that a busy machine can reach."""

HANG_SECONDS = 600.0  # twenty things run beside a test, and it takes ten times as long; pytest's own limit is longer
