"""The command, which alone knows Hydra, and what smaller commands share."""
