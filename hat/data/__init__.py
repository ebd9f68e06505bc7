"""Documents to packed rows on disk, and rows to batches addressed by index."""
