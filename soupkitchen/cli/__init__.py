"""What is run from a shell: the command, which alone knows Hydra, and its smaller siblings."""
