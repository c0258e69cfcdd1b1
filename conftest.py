"""The options of the benchmark run. An installed package brings them by a plugin (bench/installed/)."""

pytest_plugins = ["bench.options"]
