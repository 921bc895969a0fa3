"""The command `python -m soupkitchen.cache`; see `soupkitchen.cli.cache`."""

from soupkitchen.cli.cache import main

if __name__ == "__main__":
    main()
