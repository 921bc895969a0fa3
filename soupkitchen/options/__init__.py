"""Options: their types, trees of them, objects built of these, and the YAMLs of `conf/`."""

from soupkitchen.options.building import check_tree
from soupkitchen.options.kinds import check_fields, is_number, shown

__all__ = ["check_fields", "check_tree", "is_number", "shown"]
