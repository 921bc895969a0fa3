"""What a forward pass puts out has to be finite where it decides."""

from __future__ import annotations

from typing import Any

import torch

from soupkitchen.evaluation.evaluator import FiniteCheck


def test_only_what_decides_has_to_be_finite():
    def seen(logits: list[list[float]], **inputs: Any) -> bool:
        class Model(torch.nn.Module):
            def forward(self, **inputs: Any) -> dict[str, torch.Tensor]:
                return {"logits": torch.tensor(logits)}

        model = Model()
        boundary = FiniteCheck(model)
        model(**inputs)
        return boundary.finite

    nan, inf = float("nan"), float("inf")
    assert seen([[1.0, 2.0], [3.0, -inf]])
    assert not seen([[1.0, 2.0], [3.0, nan]])
    assert not seen([[1.0, inf], [3.0, 0.0]])
    assert not seen([[1.0, 2.0], [-inf, -inf]])


def test_padding_may_be_anything():
    class Model(torch.nn.Module):
        def forward(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.tensor([[[1.0], [2.0]], [[3.0], [float("nan")]]]),)

    model = Model()
    boundary = FiniteCheck(model)
    model(attention_mask=torch.tensor([[1, 1], [1, 0]]))
    assert boundary.finite
    model(attention_mask=torch.tensor([[1, 1], [1, 1]]))
    assert not boundary.finite
