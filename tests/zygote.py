"""Runs code in forks of a process that has imported everything, as imports are most of a run's time.

Reads requests from stdin, a JSON object a line (code, arguments, cwd, what is set in the environment,
and files for stdout and stderr), runs the code as `python -c` does, but in a fork, and answers with its
exit code.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

LONGEST = 600
"""Seconds after which a run is ended."""


def main() -> None:
    import_everything()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            run(request)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def import_everything() -> None:
    """What runs import, none of which starts a thread. It stays: no fork looks through it for garbage."""
    gc.disable()
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import pandas as pd  # noqa: F401
    import rich.progress  # noqa: F401
    import sklearn.metrics
    import sklearn.model_selection
    import sklearn.preprocessing  # noqa: F401
    from hydra.core.plugins import Plugins
    from PIL import Image
    from transformers import (  # noqa: F401
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertForSequenceClassification,
        DataCollatorWithPadding,
    )
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import soupkitchen.__main__
    import soupkitchen.demo
    import soupkitchen.experiment
    import soupkitchen.trackers  # noqa: F401

    get_checkpoint_conversion_mapping("bert")  # a thousand expressions, of which each loading needs none
    Plugins.instance()
    Image.init()
    gc.freeze()
    gc.enable()


def run(request: dict[str, Any]) -> NoReturn:
    signal.alarm(LONGEST)
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]  # as `python -m` has it
    for number, name in ((0, os.devnull), (1, request["stdout"]), (2, request["stderr"])):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
    sys.argv = request["arguments"]
    os.environ.update(request["env"])
    code: Any = 0
    try:
        exec(request["code"], {"__name__": "__main__"})
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


if __name__ == "__main__":
    main()
