"""One module an experiment, run by `hat reproduce NAME`."""
