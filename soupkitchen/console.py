"""The one console on stderr, which log lines and the progress bar share."""

from __future__ import annotations

import logging

from rich.console import Console

console = Console(stderr=True, highlight=False)


class ConsoleHandler(logging.Handler):
    """Prints log records above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            style = "bold yellow" if record.levelno >= logging.WARNING else None
            console.print(self.format(record), style=style, markup=False, soft_wrap=True)
        except Exception:  # as every logging handler: a failing log line must not end a run
            self.handleError(record)
