"""`jgpt draw RUN`: drawings beside real pictures and their nearest training pictures. Imports no jax before parsing."""

import argparse
import json
from pathlib import Path
from typing import Final

from jgpt.check import counted, require
from jgpt.runtime import configure
from jgpt.sampling import GUIDANCE_SCHEDULES, Sampling

HELP: Final = "draw beside real pictures and the nearest training pictures, and measure copying"
DESCRIPTION: Final = """Draws pictures, and reads the run's data again to put beside each the training picture nearest by
pixels and the held-out pictures of the same caption. A mean distance to the training pictures well below that of held-out
pictures means copying."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description = DESCRIPTION
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--captions", nargs="+", metavar="CAPTION", help="draw these")
    what.add_argument(
        "--held-out", type=int, default=16, metavar="N", help="draw N held-out captions (default %(default)s)"
    )
    parser.add_argument("-n", type=int, default=4, help="pictures of each caption (default %(default)s)")
    parser.add_argument("--task", help="image task to draw (default: the first one)")
    parser.add_argument("--out", help="folder for TASK_drawn.png and TASK_drawn.json (default: RUN/plots)")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 draws from the model itself (default)")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="above 1: pictures follow their caption more closely"
    )
    parser.add_argument(
        "--guidance-schedule",
        choices=GUIDANCE_SCHEDULES,
        default="constant",
        help="how guidance runs over a picture: constant, or rising from 1 (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same (default %(default)s)")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")


def run(arguments: argparse.Namespace) -> None:
    """Write the sheet and the distances, and say what they show."""
    require(arguments.held_out >= 1, f"--held-out is {arguments.held_out}: draw at least 1 caption.")
    sampling = Sampling(
        temperature=arguments.temperature,
        guidance=arguments.guidance,
        guidance_schedule=arguments.guidance_schedule,
    )
    configure()
    import jgpt
    from jgpt import gallery
    from jgpt.tasks import mixture

    model = jgpt.load(arguments.run, step=arguments.step)
    name = gallery.image_task(model, arguments.task)
    data = mixture.build(model.config).tasks[name]
    captions = arguments.captions or gallery.captions_to_draw(data, arguments.held_out)
    drawn = gallery.draw(model, name, data, captions, n=arguments.n, seed=arguments.seed, sampling=sampling)
    folder = Path(arguments.out or Path(arguments.run) / "plots")
    folder.mkdir(parents=True, exist_ok=True)
    picture, figures = folder / f"{name}_drawn.png", folder / f"{name}_drawn.json"
    drawn.sheet().save(picture)
    record = {
        "run": arguments.run,
        "step": model.step,
        "task": name,
        "seed": arguments.seed,
        "temperature": sampling.temperature,
        "guidance": sampling.guidance,
        "guidance_schedule": sampling.guidance_schedule,
        "captions": list(captions),
    }
    figures.write_text(json.dumps(record | drawn.distances, indent=1) + "\n", encoding="utf-8")
    print(f"{counted(drawn.distances['drawn'], 'picture')} of {counted(len(captions), 'caption')}: {picture}")
    print(f"{drawn.words()}: {figures}")
