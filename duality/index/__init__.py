"""The durable vector store: one side, two sides. NumPy and Arrow only, never torch."""
