#!/usr/bin/env python
"""Takes the picture of the demo's report that README and docs show: docs/report.png. Needs Chromium.

python -m soupkitchen && python scripts/report_picture.py [results/demo-linear-greedy]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

SIZE = "900,830"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results/demo-linear-greedy"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "report.png")
    given = parser.parse_args()
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("this needs Chromium: apt-get install chromium")
    page = (given.folder / "report.html").resolve().as_uri()
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={SIZE}",
    ]
    subprocess.run(
        [browser, *options, f"--screenshot={given.output.resolve()}", page], check=True, capture_output=True
    )
    print(given.output)


if __name__ == "__main__":
    main()
