"""Byte ids and the special ids that follow them."""

NUM_BYTES = 256
BOS = 256  # opens every document; a word of its own, complete at once
EOT = 257  # ends every document; predicted and charged
PAD = 258  # fills the rest of a row; segment 0, never predicted
NUM_IDS = 264  # rows of the byte embedding: room for five more specials, a multiple of 8
SMALLEST_ROW = 3  # ids: BOS, one byte, EOT
