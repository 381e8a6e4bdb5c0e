"""How a user's mistake ends: one line that names the file, row or flag and the fix, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the user can mend; its message is the whole report, in one line."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command line's `main`, turning `UserError` into `error: …` on stderr and exit status 2.

    Ctrl-C exits 130, a reader that went away (`| head`) exits 0; anything else is our bug and keeps its traceback.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
