"""Experiments that anyone can repeat, one a module: `hat reproduce NAME`."""
