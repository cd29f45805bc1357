"""One sequence in, one state per position out."""
