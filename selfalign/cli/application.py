"""From arguments to a command, and from an exception to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from selfalign import __version__
from selfalign.cli import COMMANDS
from selfalign.cli.errors import INTERRUPTED, USAGE, CommandError, explain, print_error


def build() -> App:
    """The cyclopts application; commands stay unimported until one is called."""
    flags = Parameter(negative=())  # --json, and no --no-json
    app = App(
        name="selfalign",
        version=__version__,
        help_format="plaintext",
        result_action="return_value",
        default_parameter=flags,
    )
    for commands in COMMANDS.values():
        for command in commands:
            app.command(command.target, name=command.name)
    return app


def _check_command(tokens: Sequence[str]) -> None:
    """Refuse an unknown command here: cyclopts would import every command to find the nearest."""
    names = [command.name for commands in COMMANDS.values() for command in commands]
    if tokens and tokens[0] not in [*names, "--version", "--help", "-h"]:
        from selfalign.source import did_you_mean

        fix = did_you_mean(tokens[0], names) or "selfalign --help lists the commands"
        raise CommandError(f'there is no command "{tokens[0]}"', fix=fix, code=USAGE)


def call(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; return the exit code and leave no traceback without --debug."""
    debug = "--debug" in arguments
    tokens = [argument for argument in arguments if argument != "--debug"]
    try:
        _check_command(tokens)
        code = build()(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        print_error(str(error), fix=f"selfalign {tokens[0]} --help")
        return USAGE
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return explain(error)
