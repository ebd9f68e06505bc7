"""Perturbations, robustness, fairness and their statistics."""
