"""Runs one function in a fresh process: `child.py MODULE:FUNCTION '{"argument": …}'` prints its JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Call the function with the arguments and print what it returns."""
    here = Path(__file__).resolve().parent
    sys.path[0] = str(here.parent)
    sys.path.insert(1, str(here.parent.parent))
    module, function = sys.argv[1].split(":")
    called = getattr(importlib.import_module(f"index.{module}"), function)
    print(json.dumps(called(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
