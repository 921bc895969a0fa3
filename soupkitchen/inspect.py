"""The command `python -m soupkitchen.inspect`; see `soupkitchen.cli.inspect`."""

import sys
from collections.abc import Sequence

from soupkitchen.console import check_place
from soupkitchen.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. The working directory is checked first: torch ends a process if it was removed."""
    try:
        check_place()
    except ConfigError as error:
        sys.exit(f"error: {error}")
    from soupkitchen.cli import inspect

    inspect.main(arguments)


if __name__ == "__main__":
    main()
