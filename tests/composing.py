"""Composes command lines as the command does, sweeps job by job, and runs none of them.

Reads requests from stdin, a JSON object a line (arguments, cwd, and a file for what is printed). Each is
answered with the command's exit code; the file has the name of each job on a line of its own.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, NoReturn

from zygote import import_everything

from soupkitchen import __main__ as entry
from soupkitchen.cli import command


def main() -> None:
    import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            compose(request)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def compose(request: dict[str, Any]) -> NoReturn:
    os.chdir(request["cwd"])
    for number, name in ((0, os.devnull), (1, request["said"]), (2, request["said"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["soupkitchen", *request["arguments"]]
    command._session = lambda: lambda plain, *rest: print(f"job {plain['name']}", flush=True)
    command._is_there = lambda *rest: False
    command._report = lambda folder: 0.0
    code: Any = 0
    try:
        entry.main()
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(int(code or 0))


if __name__ == "__main__":
    main()
