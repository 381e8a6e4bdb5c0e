"""How a user's mistake ends: one line that names the file, row or flag and the fix, and no traceback."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import sys
from collections.abc import Callable, Generator


class UserError(Exception):
    """A mistake the user can fix; its message is the whole report, in one line."""


@contextlib.contextmanager
def errors_at(place: str) -> Generator[None]:
    """Put `place`, such as a flag or a file, before the text of a UserError raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}{error}") from None


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command line's `main`, turning `UserError` into `error: …` on stderr and exit status 2.

    Ctrl-C exits 130, a reader that went away (`| head`) exits 0; anything else is our bug and keeps its traceback. What
    standard output cannot encode, such as a file name that is no text, is printed as `\\udc80`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main() or 0)
    except UserError as error:
        # What a Ray actor raised comes as both its own type and Ray's, with the actor's traceback for a text.
        print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def one_line(error: object, most: int = 300) -> str:
    """The text of an error (or its type's name where it has none) in one line of at most `most` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else text[: most - 1] + "…"


def versions(*packages: str) -> dict[str, str | None]:
    """Installed versions by package; None for what is not installed."""
    return {package: installed_version(package) for package in packages}


def installed_version(package: str) -> str | None:
    """The installed version of a package, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
