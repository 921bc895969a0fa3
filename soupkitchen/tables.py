"""The command `python -m soupkitchen.tables`; see `soupkitchen.cli.tables`."""

from soupkitchen.cli.tables import main

if __name__ == "__main__":
    main()
