"""Equal-info neural compression: integer probabilities, the window code, a file codec."""
