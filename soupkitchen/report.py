"""The command `python -m soupkitchen.report`; see `soupkitchen.cli.report`."""

from soupkitchen.cli.report import main

if __name__ == "__main__":
    main()
