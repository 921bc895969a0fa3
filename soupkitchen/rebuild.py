"""The command `python -m soupkitchen.rebuild`; see `soupkitchen.cli.rebuild`."""

from soupkitchen.cli.rebuild import main

if __name__ == "__main__":
    main()
