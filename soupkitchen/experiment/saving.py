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

    The state of the search, then the live model are let go before the soup is loaded: never are
    there two models.

    Args:
        floor: the best single run's score.

    Raises:
        SaveError: where it cannot be written.
        GuaranteeError: where it is not what was scored.
    """
    if output.format == "adapter":
        _save_adapter(soup, folder, floor, bench, output)
    else:
        _save_model(soup, folder, floor, bench, output, splits, runtime)


def _save_adapter(soup: Scored, folder: Path, floor: float, bench: Bench, output: Output) -> None:
    evaluator, recipe, mixer = bench.evaluator, soup.recipe, bench.mixer
    runs = [mixer.pool[name] for name in recipe.ingredients]
    bench.mixer.forget()
    saved = output.save_adapter(
        runs, recipe.coefficients, lambda: mixer.empty(recipe), evaluator.processor_folder, folder
    )
    evaluator.live.fill(saved.tensors())
    again = evaluator.score("heldout").score
    expected = soup.evaluation.score
    output.check_score(again, expected, min(floor, expected), evaluator.tasks, folder)


def _save_model(
    soup: Scored,
    folder: Path,
    floor: float,
    bench: Bench,
    output: Output,
    splits: Splits,
    runtime: Runtime,
) -> None:
    evaluator, pool = bench.evaluator, bench.mixer.pool
    live, examples = evaluator.live, evaluator.examples
    bench.fill(soup.recipe)
    bench.mixer.forget()
    state = live.digests()
    saved_run = output.save(live, evaluator.processor_folder, folder, pool.reference)
    batch = {name: batches[0] for name, batches in examples.batches("heldout").items()}
    outputs = evaluator.outputs("heldout", batch)
    bench.mixer.take_from(saved_run, soup.recipe)
    evaluator.release()
    whole = output.verify == "full"
    asked = {name: split if whole else split.select(batch[name]) for name, split in splits["heldout"].items()}
    live.load(saved_run)
    check_weights(live, state, folder)
    saved = evaluator_of(
        saved_run,
        evaluator.tasks,
        {"heldout": asked},
        replace(runtime, batch_size=examples.batch_size),
        evaluator.dtype,
        accelerator=evaluator.accelerator,
        live=live,
    )
    check_answers(saved, outputs, batch if whole else None, folder)
    if whole:
        saved.examples.reorder("heldout", soup.order)
        expected = soup.evaluation.score
        output.check_score(saved.score("heldout").score, expected, floor, evaluator.tasks, folder)
    saved.release()
    live.load(pool.reference)
