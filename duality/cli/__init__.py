"""Commands: read options, call a workflow, print."""
