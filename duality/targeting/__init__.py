"""Campaigns in, audiences out."""
