"""What it saves to compute no logits of prompts: the train step of a run's own rows, with the limits of its rows and without.

    python bench/prompts.py configs/qa_babi.py --data.path FOLDER

Both steps see the same batches, in one process, in turns; their losses are printed side by side.
"""

import argparse
import time
from typing import Any

from harness import alternate, paired_ratio, publish, summary

SIDES = ("all logits", "of targets")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="run card; options of train.py may follow")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    options, overrides = parser.parse_known_args()
    from jgpt.runtime import configure

    configure()
    import jax

    from jgpt import optim, sharding, state, step
    from jgpt.batch import RowLimits
    from jgpt.configio import from_arguments
    from jgpt.data.loader import train_batches
    from jgpt.model import gpt
    from jgpt.tasks import mixture

    config = from_arguments(options.config, overrides, "prompts.py", __doc__ or "")
    data = mixture.build(config)
    limits, length = data.limits(), config.model.context_length
    model = gpt.resolve(config.model, backend=jax.default_backend(), **data.ids_for_model())
    mesh = sharding.make_mesh(config.mesh)
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    of = dict(zip(SIDES, (RowLimits(limits.documents), limits), strict=True))
    states = {name: state.create(model, tx, mesh, seed=0, ema=config.optim.ema_decay is not None) for name in SIDES}
    steps = {name: step.compile_train_step(config, model, tx, states[name], mesh, of[name]) for name in SIDES}
    weights = {name: task.weight for name, task in config.task_configs().items()}
    batches = {
        name: train_batches(
            {task: part.train for task, part in data.tasks.items()}, weights, batch_size=config.train.batch_size, seed=0
        )
        for name in SIDES
    }
    losses: dict[str, list[float]] = {name: [] for name in SIDES}

    def turn(name: str) -> float:
        """Return the seconds of a step; the batches are made before."""
        rows = [sharding.shard_batch(next(batches[name]), mesh) for _ in range(options.steps)]
        measured: Any = None
        begun = time.perf_counter()
        for batch in rows:
            states[name], measured = steps[name](states[name], batch)
        losses[name].append(float(measured["loss"]))
        return (time.perf_counter() - begun) / options.steps

    for name in SIDES:
        turn(name)  # compiles
    seconds = alternate({name: lambda name=name: turn(name) for name in SIDES}, options.rounds)
    whole, some = (seconds[name] for name in SIDES)
    ratio = paired_ratio(whole, some)
    rows = [("side", "ms a step", "tokens/s", "loss after the last")]
    for name in SIDES:
        median = summary(seconds[name])["median"]
        rate = config.train.batch_size * length / median
        rows.append((name, f"{median * 1e3:.0f}", f"{rate:,.0f}", f"{losses[name][-1]:.6f}"))
    rows.append((f"{ratio['median']:.2f} x", f"{ratio['low']:.2f} to {ratio['high']:.2f}", "", ""))
    results = {
        "headline": {"times as fast": ratio["median"]},
        "config": options.config,
        "steps_a_turn": options.steps,
        "targets_of_a_row_at_most": limits.targets,
        "context_length": length,
        "vocabulary": data.vocabulary.size,
        "seconds": {name: summary(seconds[name]) for name in SIDES},
        "ratio": ratio,
        "losses": losses,
    }
    device = jax.devices()[0]
    card = options.config.rsplit("/", 1)[-1].removesuffix(".py")
    publish(f"prompts_{card}", results, rows, None if device.platform == "cpu" else device.device_kind)


if __name__ == "__main__":
    main()
