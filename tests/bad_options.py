"""Bad inputs: options, command lines, results folders."""

from __future__ import annotations

from bad import Bad

ROWS = [
    Bad("no such option", ("method.densty=0.3",), ("method.densty", "--cfg job")),
]
