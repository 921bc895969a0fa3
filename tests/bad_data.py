"""Bad inputs: data, labels, tokenizers and metrics."""

from __future__ import annotations

from bad import Bad

ROWS = [
    Bad("no such column", ("task.text=body",), ("task.text=body", "it has text, label")),
]
