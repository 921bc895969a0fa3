"""One kind of task a file, named like its YAML in `conf/task/`."""
