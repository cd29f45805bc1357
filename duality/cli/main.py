"""The `duality` command: finds the group that was asked for and loads only that one.

Exit codes: 0 done, 1 failed while running, 2 bad usage or bad input, 3 a gate failed,
130 interrupted. Errors are one line on stderr.
"""

from __future__ import annotations

import importlib
import sys

import click

from duality.errors import DualityError
from duality.runtime import brief_spins

# name: (module, attribute, one-line help). The help stands here so that `duality --help`
# imports none of the modules.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("duality.cli.demo", "demo", "The whole story on the bundled sample, end to end."),
    "data": ("duality.cli.data", "data", "Import an interaction log and describe it."),
    "train": ("duality.cli.train", "train", "Train both encoders jointly."),
    "evaluate": ("duality.cli.evaluate", "evaluate", "Honest numbers, both directions."),
    "compare": ("duality.cli.compare", "compare", "Which model is better, or that no difference is shown."),
    "calibrate": (
        "duality.cli.calibrate",
        "calibrate",
        "Turn scores into probabilities, by logged impressions.",
    ),
    "off-policy": (
        "duality.cli.off_policy",
        "off_policy",
        "What another policy would have earned, from a log.",
    ),
    "horizon": ("duality.cli.horizon", "horizon", "Several steps ahead, generated against plain top-h."),
    "exposure": (
        "duality.cli.exposure",
        "exposure",
        "Who gets shown: coverage, providers, floors and ceilings.",
    ),
    "embed": ("duality.cli.train", "embed", "Write the embeddings of both sides as Parquet."),
    "index": ("duality.cli.index", "index", "Build, change, search and check the vector indexes."),
    "query": ("duality.cli.query", "query", "Items for a user, or users for an item."),
    "recommend": ("duality.cli.query", "recommend", "Batch answers for a whole side."),
    "target": ("duality.cli.target", "target", "Audiences for campaigns."),
    "forget": ("duality.cli.forget", "forget", "Take users out of everything, and prove it."),
    "run": ("duality.cli.run", "run", "Run every stage of a recipe, skipping what is up to date."),
    "doctor": ("duality.cli.doctor", "doctor", "What is installed, what works, what to install."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, _, help_text) in COMMANDS.items()])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from duality.errors import suggestion

        if args and args[0] not in COMMANDS:
            raise click.UsageError(f"No such command '{args[0]}'{suggestion(args[0], COMMANDS)}", context)
        return super().resolve_command(context, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="duality", prog_name="duality")
def duality() -> None:
    """Two-sided retrieval for recommenders: which items for this user, which users for this item."""


def run() -> None:
    """Entry point: every deliberate error becomes one line on stderr and its exit code."""
    brief_spins()
    try:
        sys.exit(duality.main(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _end("interrupted", 130)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        _end(f"{error.format_message()}{hint}", 2)
    except DualityError as error:
        _end(str(error), error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        # A full disk, a missing permission: the machine's doing, so a line, not a traceback.
        place = f"{error.filename}: " if error.filename else ""
        _end(f"{place}{error.strerror or error}", 1)


def _end(message: str, code: int) -> None:
    sys.stderr.write("duality: " + " ".join(message.split()) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    run()
