"""Saves the soup, loads it back as a user would, and proves that it is what was scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from soupkitchen.evaluation import Runtime, Splits, evaluator_of
from soupkitchen.executors import Bench
from soupkitchen.experiment.scores import Scored
from soupkitchen.output import Output, check_answers, check_weights


def save_soup(
    soup: Scored, folder: Path, floor: float, bench: Bench, output: Output, splits: Splits, runtime: Runtime
) -> None:
    """Saves the soup to `folder`.

    The state of the search, then the live model are let go before the soup is loaded: there are never two
    models.

    Args:
        floor: the best single run's score.

    Raises:
        SaveError: if it cannot be written.
        GuaranteeError: if it is not what was scored.
    """
    evaluator, mixer, recipe, expected = bench.evaluator, bench.mixer, soup.recipe, soup.evaluation.score
    live, processor = evaluator.live, evaluator.processor_folder
    if output.format == "adapter":
        runs = [mixer.pool[name] for name in recipe.ingredients]
        mixer.forget()
        adapter = output.save_adapter(
            runs, recipe.coefficients, lambda: mixer.empty(recipe), processor, folder
        )
        live.fill(adapter.tensors())
        again = evaluator.score("heldout").score
        output.check_score(again, expected, min(floor, expected), evaluator.tasks, folder)
        return
    bench.fill(recipe)
    mixer.forget()
    digests = live.digests()
    saved = output.save(live, processor, folder, mixer.pool.reference)
    batch = {name: batches[0] for name, batches in evaluator.examples.batches("heldout").items()}
    outputs = evaluator.outputs("heldout", batch)
    mixer.take_from(saved, recipe)
    evaluator.release()
    whole, heldout = output.verify == "full", splits["heldout"]
    asked = {name: split if whole else split.select(batch[name]) for name, split in heldout.items()}
    live.load(saved)
    check_weights(live, digests, folder)
    rescorer = evaluator_of(
        saved,
        evaluator.tasks,
        {"heldout": asked},
        replace(runtime, batch_size=evaluator.examples.batch_size),
        evaluator.dtype,
        accelerator=evaluator.accelerator,
        live=live,
    )
    check_answers(rescorer, outputs, batch if whole else None, folder)
    if whole:
        again = rescorer.score("heldout", order=soup.order).score
        output.check_score(again, expected, floor, evaluator.tasks, folder)
    rescorer.release()
    live.load(mixer.pool.reference)
