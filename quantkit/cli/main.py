"""Entry point: runs the command and turns an expected error into one line and its exit code."""

import errno
import io
import logging
import os
import re
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from quantkit import __version__
from quantkit.cli import lazy_imports
from quantkit.cli.app import JsonEventsOption, LogFileOption, QuietOption, VerboseOption, app
from quantkit.cli.commands import command_line
from quantkit.cli.hints import extra_arguments, unknown_option
from quantkit.cli.terminal import errors, session
from quantkit.config.nearest import nearest
from quantkit.errors import OutputError, QuantkitError
from quantkit.files import reason

USAGE = 2
# Also what typer returns after Ctrl-C.
INTERRUPTED = 130
UNEXPECTED = 70
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quantkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    log_file: LogFileOption = None,
    json_events: JsonEventsOption = None,
) -> None:
    del version
    if debug:
        os.environ["QUANTKIT_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit with its exit code."""
    # --debug is accepted anywhere on the line, because users add it after a command has failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:
        os.environ["QUANTKIT_DEBUG"] = "1"
    # A file name need not be valid text; invalid bytes are shown as escapes.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow's warnings about odd files are replaced by messages that name the file.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # So are the warnings of onnx_ir about invalid graphs.
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)
    lazy_imports.install()
    session.reset()
    try:
        code = _run(arguments)
        session.event("end", exit_code=code)
    finally:
        session.reset()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        result = command_line().main(args=arguments, prog_name="quantkit", standalone_mode=False)
        if result == INTERRUPTED:
            return _interrupted()
        return result if isinstance(result, int) else 0
    except QuantkitError as error:
        return _report(error.command_line, error.exit_code)
    except TyperException as error:
        if not error.format_message():  # a group without a command has printed its help
            return USAGE
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "quantkit"
        return _report(f"{_explained(error, context)} See {command} --help.", USAGE)
    except (KeyboardInterrupt, typer.Abort) as error:
        # typer takes the end of a file for Ctrl-D; quantkit asks no questions.
        return _unexpected(error.__cause__) if isinstance(error.__cause__, EOFError) else _interrupted()
    except BrokenPipeError:
        # The reader of the output closed the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _NO_ROOM:
            return _unexpected(error)
        # Not a file that quantkit writes, which raises OutputError: numba caches compiled code, libraries write
        # elsewhere.
        return _report(f"the disk cannot be written ({reason(error)}); free space and run again", OutputError.exit_code)
    except Exception as error:  # an unexpected error is reported in one line, too
        return _unexpected(error)


def _interrupted() -> int:
    return _report("interrupted; run the same command again to resume", INTERRUPTED)


def _explained(error: TyperException, context: Any) -> str:
    """Return the message of a wrong command line, with what was probably meant."""
    option, command = getattr(error, "option_name", None), getattr(context, "command", None)
    if option is not None and command is not None and error.format_message().startswith("No such option"):
        return unknown_option(option, command)
    if command is not None and error.format_message().startswith("Got unexpected extra argument"):
        return extra_arguments(error.format_message(), command)
    return _with_guess(error.format_message())


def _with_guess(message: str) -> str:
    """Return the message about an invalid choice with the nearest valid one."""
    found = re.fullmatch(r"Invalid value for '(.+?)': (?:Value error, )?'(.*)' is not one of (.+?)\.", message)
    if found is None:
        return re.sub(r"Invalid value for '(.+?)': Input (.+?)\.?$", _named, message)
    choices = re.findall(r"'([^']+)'", found[3])
    guess = nearest(found[2], choices)
    hint = "" if guess is None else f" Did you mean {guess}?"
    return f"{found[1].split()[0]}: '{found[2]}' is not one of {', '.join(choices)}.{hint}"


def _named(found: re.Match[str]) -> str:
    return f"{found[1].split()[0]}: the value {found[2]}."


def _unexpected(error: Exception) -> int:
    return _report(f"unexpected {type(error).__name__}: {error}; run again with --debug and report it", UNEXPECTED)


def _report(message: str, code: int) -> int:
    if sys.exc_info()[0] is not None:
        if os.environ.get("QUANTKIT_DEBUG"):
            traceback.print_exc()
        session.log(traceback.format_exc())
    text = " ".join(message.split())
    if not session.events_on_stderr:
        errors.print(f"error: {text}", style="red", markup=False, soft_wrap=True)
    session.event("error", text=text, exit_code=code)
    return code


if __name__ == "__main__":
    main()
