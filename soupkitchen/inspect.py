"""The command `python -m soupkitchen.inspect`; see `soupkitchen.cli.inspect`."""

from soupkitchen.cli.inspect import main

if __name__ == "__main__":
    main()
