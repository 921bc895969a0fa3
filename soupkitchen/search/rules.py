"""When a candidate replaces the soup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soupkitchen.errors import ConfigError
from soupkitchen.options import is_number
from soupkitchen.options.kinds import Ranking, check

_FORMS = "better, not_worse, {margin: x} with x of 0 or more, or {significant: α} with α between 0 and 1"

_NO_P_VALUES = (
    "search.accept={significant: …} needs a metric with values for examples; this one has none. Choose "
    "better, not_worse or {margin: x}"
)


@dataclass(frozen=True)
class AcceptRule:
    """The gain that a candidate needs.

    "better" is strictly better, as in the paper's code; "not_worse" at least as good,
    as in its text; "margin" better by more than an amount; "significant" better
    with a one-sided paired p-value of at most an amount; "any" whatever it is.
    """

    kind: Literal["better", "not_worse", "margin", "significant", "any"] = "better"
    amount: float = 0.0

    @classmethod
    def of(cls, option: str | Mapping[str, Any]) -> AcceptRule:
        """The rule that ``search.accept`` asks for.

        Raises:
            ConfigError: where it is none. A rule that lets a worse soup pass is none.
        """
        if option == "better":
            return cls("better")
        if option == "not_worse":
            return cls("not_worse")
        if isinstance(option, Mapping) and len(option) == 1:
            ((kind, amount),) = option.items()
            number = is_number(amount)
            if kind == "margin" and number and amount >= 0:
                return cls("margin", float(amount))
            if kind == "significant" and number and 0 < amount < 1:
                return cls("significant", float(amount))
        raise ConfigError(f"search.accept={option}: choose {_FORMS}")

    @property
    def text(self) -> str:
        """As tables state it."""
        return {
            "any": "any",
            "better": "gain > 0",
            "not_worse": "gain >= 0",
            "margin": f"gain > {self.amount:g}",
            "significant": f"gain > 0 and p <= {self.amount:g}",
        }[self.kind]

    def check(self, least_p: float | None) -> None:
        """Checks that the rule can accept anything, `least_p` being the least p-value; None for none at all.

        Raises:
            ConfigError: where it can not.
        """
        if self.kind != "significant":
            return
        if least_p is None:
            raise ConfigError(_NO_P_VALUES)
        if self.amount < least_p:
            raise ConfigError(
                f"search.accept={{significant: {self.amount:g}}} can accept nothing: the least p-value that "
                f"this metric can give on this held-out data is {least_p:.2g}; take more than that, or "
                "another rule"
            )

    def accepts(self, gain: float, p_value: Callable[[], float | None]) -> bool:
        """Tells whether a gain is enough.

        It stays so if the gain grows and the p-value falls: early stopping asks with the most and the least
        that these can still be.

        `p_value` computes how likely such a gain is by chance, where that can be told.

        Raises:
            ConfigError: where the rule needs a p-value and the metric allows none.
        """
        if self.kind == "any":
            return True
        if self.kind == "not_worse":
            return gain >= 0
        if self.kind == "margin":
            return gain > self.amount
        if not gain > 0:
            return False
        if self.kind == "better":
            return True
        p = p_value()
        if p is None:
            raise ConfigError(_NO_P_VALUES)
        return p <= self.amount


def share_of(ranking: str | Mapping[str, Any]) -> float | None:
    """The share of the held-out examples that ``search.ranking`` asks for; None for all of them.

    Raises:
        ConfigError: where it asks for something else.
    """
    check("search.ranking", ranking, Ranking)
    return None if isinstance(ranking, str) else float(ranking["examples"])


OnError = Literal["skip", "stop"]
"""The treatment of a candidate that cannot be scored, or scores NaN."""
