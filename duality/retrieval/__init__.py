"""Candidates both ways: who may be retrieved, what was already seen."""
