"""Parts of benchmarks/study.py."""
