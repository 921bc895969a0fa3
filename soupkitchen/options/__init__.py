"""Options: what each may be, objects made of them and told as them again, and where their files lie."""

from soupkitchen.options.kinds import (
    POSITIVE,
    RANKING,
    check,
    check_fields,
    check_tree,
    is_number,
    shown,
    unknown,
)

__all__ = ["POSITIVE", "RANKING", "check", "check_fields", "check_tree", "is_number", "shown", "unknown"]
