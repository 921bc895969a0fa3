"""soupkitchen turns a whole fine-tuning sweep into one better model.

The command line is `python -m soupkitchen`. The same in Python is an
`soupkitchen.experiment.Experiment`: a pool, a task, a merge method, a search.
"""

__version__ = "0.1.0"
