"""What a step of the real loop costs beyond the step itself: data, logging, checkpoints, evaluation.

    python bench/input.py --data shakespeare.txt

train.py's own loop runs; after every stretch of it the stretch's batches are taken again by the same compiled step, bare. Every
second stretch has an asynchronous checkpoint in its middle, so that it is on the disk by the end. The differences are what the
loop adds, and what a checkpoint adds to that, work of their background threads included: by the clock, which drifts on shared
machines, and in time of the cores, which does less. The main thread's time in each activity is listed beside it (while the
device computes, it waits for nothing).
"""

from harness import Worker, arguments, publish, summary

WIDTH = 160


def main() -> None:
    """Measure and write the table."""
    options = arguments(
        __doc__ or "",
        data={"required": True, "help": "a text file"},
        width={"type": int, "default": WIDTH, "help": "of the model: sets the length of a step"},
        stretch={"type": int, "default": 60, "help": "steps of the loop between bare ones"},
        every={"type": int, "default": 250, "help": "steps between the checkpoints that a run is reckoned with"},
    )
    stretch = options.stretch
    spec = {"data": options.data, "rounds": options.rounds, "stretch": stretch, "width": options.width}
    with Worker("loop_side.py", spec) as side:
        about, r = side.call("about"), side.call("run")
    loop, bare, plain, saves, added = {}, {}, {}, {}, {}
    for clock, of in enumerate(("seconds", "core_seconds")):
        loop[of] = [pair[clock] for pair in r["loop"]]
        around = [pair[clock] for pair in r["bare"]]
        # a stretch stands between two bare ones
        bare[of] = [(a + b) / 2 for a, b in zip(around, around[1:], strict=False)]
        more = [a - b for a, b in zip(loop[of], bare[of], strict=True)]
        plain[of] = [a / b for a, b in zip(more[::2], loop[of][::2], strict=True)]
        saves[of] = [(b - a) * stretch for a, b in zip(more[::2], more[1::2], strict=True)]
        added[of] = [
            share + save / options.every / step
            for share, save, step in zip(plain[of], saves[of], loop[of][::2], strict=True)
        ]
    step = summary(loop["seconds"][::2])["median"]
    rows = [("what", "ms", "share of the step")]
    rows.append(("a step in the loop, without checkpoints", f"{step * 1e3:.2f}", "100 %"))
    rows.append(("a bare step", f"{summary(bare['seconds'])['median'] * 1e3:.2f}", ""))
    for what, shares in (("the loop adds, without checkpoints", plain), (f"with one in {options.every} steps", added)):
        for name, of in ((what, "seconds"), ("  in time of the cores, of theirs", "core_seconds")):
            low, median, high = (summary(shares[of])[key] for key in ("low", "median", "high"))
            amount = f"{step * median * 1e3:.2f}" if of == "seconds" else ""
            rows.append((name, amount, f"{median:.1%} ({low:.1%} to {high:.1%})"))
    for name, of in (("a checkpoint", "seconds"), ("  in time of the cores", "core_seconds")):
        low, median, high = (summary(saves[of])[key] * 1e3 for key in ("low", "median", "high"))
        rows.append((name, f"{median:.0f}", f"({low:.0f} to {high:.0f} ms)"))
    for what, seconds in sorted(r["spent_per_step"].items(), key=lambda item: -item[1]):
        rows.append((f"main thread, a step: {what}", f"{seconds * 1e3:.3f}", f"{seconds / step:.2%}"))
    rows.append(("main thread: a checkpoint", f"{r['save_seconds'] * 1e3:.1f}", ""))
    rows.append(("one evaluation of the held-out text", f"{r['evaluation_seconds'] * 1e3:.0f}", ""))
    results = {
        "headline": {"loop adds": summary(added["seconds"])["median"], "step": step},
        **{
            name: {of: summary(values) for of, values in each.items()}
            for name, each in (
                ("loop", loop),
                ("bare", bare),
                ("added_share_without_checkpoints", plain),
                ("checkpoint", saves),
                ("added_share", added),
            )
        },
        "main_thread_seconds_per_step": r["spent_per_step"],
        "main_thread_seconds_per_checkpoint": r["save_seconds"],
        "evaluation_seconds": r["evaluation_seconds"],
        "stretch": stretch,
        "every": options.every,
        "width": options.width,
    }
    name = "input" if options.width == WIDTH else f"input_width_{options.width}"
    publish(name, results, rows, None if about["platform"] == "cpu" else about["device"])


if __name__ == "__main__":
    main()
