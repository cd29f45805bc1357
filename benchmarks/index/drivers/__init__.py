"""One driver per engine, all with the verbs of base.py; each runs in an environment of its own."""
