"""Honest numbers: protocols, metrics with intervals, baselines."""
