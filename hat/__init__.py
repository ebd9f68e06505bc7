"""hat: train byte-level hierarchical language models in JAX (arXiv 2501.10322, 2603.15953)."""

__version__ = "0.1.0"
