"""One module a benchmark, run by `hat bench NAME`."""
