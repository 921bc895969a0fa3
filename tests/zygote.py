"""Runs code in forks of a process that has imported everything, as imports are most of a run's time.

Reads requests from stdin, one a line, in JSON. Code (with arguments, cwd, what is set in the environment,
and files for stdout and stderr) is run as `python -c` does, but in a fork: the answer is the number of its
process. To such a number the answer is the exit code, null where the process has not ended.
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
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # waiting shows nothing while the power stays on
    import_everything()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            process, status = os.waitpid(request, os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if process else None), flush=True)
        elif process := os.fork():
            print(process, flush=True)
        else:
            run(request)


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
    import soupkitchen.cli.command
    import soupkitchen.demo
    import soupkitchen.experiment
    import soupkitchen.experiment.session
    import soupkitchen.records.report
    import soupkitchen.records.trackers  # noqa: F401
    from soupkitchen import metrics

    metrics.shipped()
    get_checkpoint_conversion_mapping("bert")  # a thousand expressions, of which each loading needs none
    Plugins.instance()
    Image.init()
    gc.freeze()
    gc.enable()


def run(request: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.alarm(LONGEST)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background has ignored
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
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


if __name__ == "__main__":
    main()
