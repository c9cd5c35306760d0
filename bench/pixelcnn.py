"""A gated PixelCNN of the same size on the same pictures: what an image config of ours is to be compared with.

    python bench/pixelcnn.py configs/mnist.py [--section.field value ...] [--steps N | --seconds S] [--against RUN]

The model is that of van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", section 2: a vertical
stack without a blind spot and a horizontal one, gated, conditioned on the caption as a bag of its tokens. Instead of masks,
inputs are shifted and paddings one-sided, so that a pixel cannot reach itself. Several codes a pixel (RGB) are predicted in
turn by a head that sees the earlier ones.

It learns from the codes that ours learns from, in batches of as many picture tokens, for as many of them (or --steps, or
--seconds of training), and is scored once on the same held-out pictures. Its width is chosen so that it has about as many
parameters as the config's model. Ours also codes the end of each picture, which costs about nothing.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import publish, say

EVAL_ROWS = 128


class Pictures(NamedTuple):
    """Pictures as codes with their captions.

    Attributes:
        codes: [pictures, height, width, codes of one pixel], from 0.
        bags: [pictures, most tokens of a caption], text ids from 1; 0 where a caption is shorter.
    """

    codes: np.ndarray
    bags: np.ndarray


class Sizes(NamedTuple):
    """Shape of the network: `levels` codes, `channels` of them a pixel, `words` ids of captions."""

    levels: int
    channels: int
    words: int
    width: int
    layers: int
    kernel: int


def shapes_of(sizes: Sizes) -> dict[str, Any]:
    """Return the shape of each parameter; the last axis is the output."""
    levels, channels, words, width, layers, kernel = sizes
    half = kernel // 2 + 1
    return {
        "pixels": (channels, levels, width),
        "words": (words + 1, width),
        "first_down": (half, kernel, width, width),
        "first_right": (1, half, width, width),
        "layers": {
            "down": (layers, half, kernel, width, 2 * width),
            "right": (layers, 1, half, width, 2 * width),
            "down_to_right": (layers, 2 * width, 2 * width),
            "caption": (layers, width, 4 * width),
            "out": (layers, width, width),
        },
        "hidden": (width, width),
        "logits": (channels, width, levels),
        "bias": (channels, 1, 1, 1, levels),
    }


def is_shape(node: Any) -> bool:
    """Return whether `node` is a leaf of `shapes_of`."""
    return isinstance(node, tuple)


def initial(sizes: Sizes, key: Any) -> dict[str, Any]:
    """Return parameters, N(0, 1 / fan_in); embeddings N(0, 1), biases zero."""
    import jax
    import jax.numpy as jnp

    shapes = shapes_of(sizes)
    leaves, tree = jax.tree.flatten(shapes, is_leaf=is_shape)
    fan_in = jax.tree.map(lambda shape: math.prod(shape[:-1]), shapes, is_leaf=is_shape)
    fan_in["layers"] = {name: n // sizes.layers for name, n in fan_in["layers"].items()}  # stacked, not added up
    fan_in |= {"pixels": 1, "words": 1, "logits": sizes.width}
    drawn = [
        jax.random.normal(k, shape) / math.sqrt(n)
        for k, shape, n in zip(jax.random.split(key, len(leaves)), leaves, jax.tree.leaves(fan_in), strict=True)
    ]
    return jax.tree.unflatten(tree, drawn) | {"bias": jnp.zeros(shapes["bias"])}


def logits(params: dict[str, Any], codes: Any, bags: Any) -> Any:
    """Return f32 logits [pictures, height, width, codes of one pixel, levels], each from earlier codes alone.

    The order is that of ours: rows from the top, pixels from the left, codes of a pixel in turn.
    """
    import jax
    import jax.numpy as jnp

    def convolve(x: Any, kernel: Any, up: int, left: int, right: int) -> Any:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((up, 0), (left, right)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def gate(x: Any) -> Any:
        one, other = jnp.split(x, 2, axis=-1)
        return jnp.tanh(one) * jax.nn.sigmoid(other)

    channels = codes.shape[-1]
    embedded = [params["pixels"][c][codes[..., c]] for c in range(channels)]
    pixels = sum(embedded) / math.sqrt(channels)
    known = (bags > 0)[..., None]
    caption = (params["words"][bags] * known).sum(1) / jnp.maximum(known.sum(1), 1)
    half, side = params["first_down"].shape[0] - 1, params["first_down"].shape[1] // 2
    # one row down: what stands at a pixel of `down` has seen the rows above it alone
    down = convolve(jnp.pad(pixels, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1], params["first_down"], half, side, side)
    # one pixel to the right: what stands at a pixel of `right` has seen those left of it
    shifted = jnp.pad(pixels, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    right = down + convolve(shifted, params["first_right"], 0, half, 0)

    layers = params["layers"]["out"].shape[0]
    for i in range(layers):  # unrolled: on CPU, convolutions inside a loop of XLA are many times slower
        p = jax.tree.map(lambda stacked: stacked[i], params["layers"])  # noqa: B023 - used at once
        to_down, to_right = jnp.split((caption @ p["caption"])[:, None, None, :], 2, axis=-1)
        below = convolve(down, p["down"], half, side, side)
        beside = convolve(right, p["right"], 0, half, 0) + below @ p["down_to_right"]
        down, right = down + gate(below + to_down), right + gate(beside + to_right) @ p["out"]
    right = right / math.sqrt(1 + layers)
    out, earlier = [], jnp.zeros_like(pixels)
    for c in range(channels):
        hidden = jax.nn.relu((jax.nn.relu(right) + earlier) @ params["hidden"])
        out.append(hidden @ params["logits"][c] + params["bias"][c])
        earlier = earlier + embedded[c]
    return jnp.stack(out, axis=-2)


def nats(params: dict[str, Any], codes: Any, bags: Any) -> Any:
    """Return the code length of each picture [nats]."""
    import jax
    import jax.numpy as jnp

    log_p = jax.nn.log_softmax(logits(params, codes, bags))
    return -jnp.take_along_axis(log_p, codes[..., None], axis=-1).sum((1, 2, 3, 4))


def size_of(sizes: Sizes) -> int:
    """Return the number of parameters."""
    shapes = shapes_of(sizes)
    layers = shapes.pop("layers")
    return sum(math.prod(shape) for shape in (*shapes.values(), *layers.values()))


def width_for(wanted: int, sizes: Sizes) -> int:
    """Return the width, a multiple of 4, with which the network has about `wanted` parameters."""
    return min(range(4, 1025, 4), key=lambda width: abs(size_of(sizes._replace(width=width)) - wanted))


def read(task_data: Any, part: str) -> Pictures:
    """Return one split of a task as codes: what our model is trained on and scored on."""
    task, examples = task_data.task, getattr(task_data.splits, part)
    image, text = task.vocabulary.image_ids, task.vocabulary.text_ids
    height, width = examples[0].pixels.shape[:2]
    codes, captions = [], []
    for example in examples:
        tokens = np.asarray(task.encode(example).tokens)
        codes.append(tokens[(tokens >= image.start) & (tokens < image.stop)] - image.start)
        captions.append(tokens[(tokens >= text.start) & (tokens < text.stop)] - text.start + 1)
    count = len(codes[0])
    if count % (height * width):  # one code a block of pixels
        side = math.isqrt(height * width // count)
        height, width = height // side, width // side
    if height * width * max(count // (height * width), 1) != count:
        raise SystemExit(
            f"{count} codes a picture of {examples[0].pixels.shape}: neither of pixels nor of square blocks."
        )
    bags = np.zeros((len(captions), max(1, max(map(len, captions)))), np.int32)
    for bag, caption in zip(bags, captions, strict=True):
        bag[: len(caption)] = caption
    return Pictures(np.stack(codes).reshape(len(codes), height, width, -1).astype(np.int32), bags)


def batches(pictures: Pictures, rows: int, seed: int) -> Iterator[Pictures]:
    """Yield shuffled batches without an end, every picture once an epoch but for an incomplete last batch."""
    random = np.random.default_rng(seed)
    rows = min(rows, len(pictures.codes))
    while True:
        order = random.permutation(len(pictures.codes))
        for start in range(0, len(order) - rows + 1, rows):
            chosen = order[start : start + rows]
            yield Pictures(*(part[chosen] for part in pictures))


def score(params: Any, pictures: Pictures) -> float:
    """Return the mean code length of a picture [nats]."""
    import jax

    run, total = jax.jit(nats), 0.0
    for start in range(0, len(pictures.codes), EVAL_ROWS):
        part = [array[start : start + EVAL_ROWS] for array in pictures]
        short = EVAL_ROWS - len(part[0])
        filled = [np.concatenate([array, array[:1].repeat(short, 0)]) for array in part] if short else part
        total += float(np.asarray(run(params, *filled), np.float64)[: len(part[0])].sum())
    return total / len(pictures.codes)


def train(
    params: Any, pictures: Pictures, rows: int, options: argparse.Namespace, steps: int
) -> tuple[Any, dict[str, Any]]:
    """Return trained parameters and what it took; Adam, warmup of a twentieth, then cosine to zero over the budget."""
    import jax
    import optax

    # the rate follows the share of the budget that is spent, be it steps or seconds
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    state = tx.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, rate: Any, batch: Pictures) -> tuple[Any, Any, Any]:
        loss, slope = jax.value_and_grad(lambda p: nats(p, *batch).mean())(params)
        updates, state = tx.update(slope, state, params)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), state, loss

    source = batches(pictures, rows, options.seed)
    begun, spent, at, losses = time.perf_counter(), 0.0, 0, []
    while (at < steps) if options.seconds is None else (spent < options.seconds):
        share = at / steps if options.seconds is None else spent / options.seconds
        rate = options.lr * min(1.0, (share + 1e-3) / 0.05) * 0.5 * (1 + math.cos(math.pi * share))
        params, state, loss = step(params, state, np.float32(rate), next(source))
        losses.append(float(loss))
        at += 1
        spent = time.perf_counter() - begun
        if at == 1:
            compiled, begun = spent, time.perf_counter()  # compiling is not training
            spent = 0.0
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of step {at} is {losses[-1]}: lower --lr.")
        if at % 50 == 0 or at == 1:
            say(f"  step {at}  {np.mean(losses[-50:]):.2f} nats a picture  {spent:.0f} s")
    return params, {"steps": at, "seconds": spent, "compile_seconds": compiled, "last_training_nats": losses[-1]}


def main() -> None:
    """Train, score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "config", help="image config, e.g. configs/mnist.py; its fields can be overridden as in train.py"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="optimizer steps (default: until as many picture tokens were seen)")
    budget.add_argument("--seconds", type=float, help="train for this long, compiling not counted")
    parser.add_argument("--against", help="complete run of ours, to stand in the table")
    parser.add_argument("--task", help="image task of the config (default: the first one)")
    parser.add_argument("--layers", type=int, default=8, help="gated layers (default %(default)s)")
    parser.add_argument("--kernel", type=int, default=5, help="width of the convolutions, odd (default %(default)s)")
    parser.add_argument("--width", type=int, help="channels (default: as many parameters as the config's model)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of Adam (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args()
    if options.kernel % 2 == 0 or min(options.layers, options.kernel) < 1 or (options.steps or 1) < 1:
        parser.error("--kernel must be odd, and --kernel, --layers and --steps at least 1")

    import tyro

    from jgpt.config import Config
    from jgpt.configio import load_config_file

    config = tyro.cli(Config, default=load_config_file(options.config), args=overrides)
    from jgpt.runtime import configure

    configure()
    import jax

    from jgpt.model import gpt
    from jgpt.tasks import mixture

    data = mixture.build(config)
    images = [name for name, task in data.tasks.items() if task.task.kind == "image"]
    name = options.task or (images or [""])[0]
    if name not in images:
        parser.error(f"{options.config} has the image tasks {images}, not {name!r}")
    task, vocabulary = data.tasks[name], data.vocabulary
    model = gpt.resolve(config.model, backend=jax.default_backend(), **data.ids_for_model())
    ours = jax.eval_shape(partial(gpt.init, model), jax.random.key(0))
    wanted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(ours))
    training, held_out = read(task, "train"), read(task, "validation")
    sizes = Sizes(
        levels=len(vocabulary.image_ids),
        channels=training.codes.shape[-1],
        words=len(vocabulary.text_ids),
        width=options.width or 4,
        layers=options.layers,
        kernel=options.kernel,
    )
    if options.width is None:
        sizes = sizes._replace(width=width_for(wanted, sizes))
    tokens = math.prod(training.codes.shape[1:])
    shares = {key: setting.weight for key, setting in config.task_configs().items()}
    per_step = (
        config.train.batch_size * config.model.context_length * task.train.fill() * shares[name] / sum(shares.values())
    )
    rows = max(1, round(per_step / tokens))
    steps = options.steps or max(1, round(config.train.steps * per_step / (rows * tokens)))
    count = size_of(sizes)
    say(
        f"{name}: {len(training.codes):,} pictures of {training.codes.shape[1:]}, {sizes.levels} levels; width {sizes.width}, "
        f"{count:,} parameters (ours {wanted:,}); {rows} pictures a step, "
        + (f"{steps:,} steps" if options.seconds is None else f"{options.seconds:g} s")
    )
    params = jax.jit(partial(initial, sizes))(jax.random.key(options.seed))
    params, spent = train(params, training, rows, options, steps)
    mean = score(params, held_out)
    dimensions = sum(task.task.dimensions(example) or 0 for example in task.splits.validation) / len(held_out.codes)
    bits = mean / math.log(2) / dimensions
    result: dict[str, Any] = {
        "config": options.config,
        "overrides": overrides,
        "sizes": sizes._asdict(),
        "parameters": count,
        "parameters_ours": wanted,
        "held_out": len(held_out.codes),
        "pictures_seen": spent["steps"] * rows,
        "nats_per_picture": mean,
        "bits_per_dim": bits,
        **spent,
    }
    header = ("side", "parameters", "steps", "pictures seen", "seconds", "nats a picture", "bits per dim")
    table = [
        header,
        ("gated PixelCNN", f"{count:,}", f"{spent['steps']:,}", f"{spent['steps'] * rows:,}", f"{spent['seconds']:.0f}",
         f"{mean:.2f}", f"{bits:.4f}"),
    ]  # fmt: skip
    if options.against is not None:
        result["against"] = against(Path(options.against), name)
        of_ours, seen = result["against"], round(result["against"]["step"] * per_step / tokens)
        table.append(
            ("jgpt", f"{wanted:,}", f"{of_ours['step']:,}", f"{seen:,}", f"{of_ours['seconds']:.0f}",
             f"{of_ours['bits_per_dim'] * math.log(2) * dimensions:.2f}", f"{of_ours['bits_per_dim']:.4f}")
        )  # fmt: skip
    device = jax.devices()[0]
    headline = {"bits_per_dim": bits, "nats_per_picture": mean}
    publish(
        f"pixelcnn_{Path(options.config).stem}",
        {"headline": headline} | result,
        table,
        None if device.platform == "cpu" else device.device_kind,
    )


def against(run: Path, name: str) -> dict[str, Any]:
    """Return bits per dim, steps and seconds of a run of ours."""
    report = json.loads((run / "report.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = max(record["seconds"] for record in records if "seconds" in record)
    return {
        "run": str(run),
        "step": report["step"],
        "bits_per_dim": report["scores"][f"{name}/bits_per_dim"],
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
