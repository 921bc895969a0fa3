"""One kind of task a file, each called like the YAML of `conf/task/` that chooses it."""
