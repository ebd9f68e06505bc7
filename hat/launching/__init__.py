"""Launches: one description of a run, and what starts it on each kind of cluster."""
