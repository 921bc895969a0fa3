"""soupkitchen turns a whole fine-tuning sweep into one better model."""

__version__ = "0.1.0"
