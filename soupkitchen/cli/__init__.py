"""The command line, the only part that knows Hydra, and smaller commands."""
