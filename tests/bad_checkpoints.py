"""Bad inputs: checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from bad import Bad


def change_config(run: Path, **changes: object) -> None:
    """Sets keys of a run's `config.json`."""
    file = run / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


ROWS = [
    Bad(
        "quantised run",
        says=("b", "its weights are quantised", "use the unquantised run"),
        spoil=lambda folder: change_config(folder / "runs/b", quantization_config={"bits": 4}),
    ),
]
