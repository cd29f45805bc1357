"""`python -m duality`: the command line, where no script is installed or another program starts it."""

from duality.cli.main import run

run()
