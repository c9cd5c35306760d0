"""What a step of the real loop costs beyond the step itself: data, logging, checkpoints, evaluation.

    python bench/input.py --data shakespeare.txt

train.py's own loop runs; after every stretch of it, with one asynchronous checkpoint each, the same compiled step is taken
bare, on one batch; the checkpoint falls in the middle, so that it is on the disk by then. The difference is all that the loop
adds, work of its background threads included: by the clock, which drifts on shared machines, and in time of the cores, which
does less. The main thread's time in each activity is listed beside it (while the device computes, it waits for nothing).
"""

from harness import Worker, arguments, publish, summary

WIDTH = 160


def main() -> None:
    """Measure and write the table."""
    options = arguments(
        __doc__ or "",
        data={"required": True, "help": "a text file"},
        width={"type": int, "default": WIDTH, "help": "of the model: sets the length of a step"},
        stretch={"type": int, "default": 250, "help": "steps of the loop between checkpoints"},
    )
    spec = {
        "data": options.data,
        "rounds": options.rounds,
        "stretch": options.stretch,
        "bare": 100,
        "width": options.width,
    }
    with Worker("loop_side.py", spec) as side:
        about, r = side.call("about"), side.call("run")
    # a stretch stands between two bare ones
    loop, loop_cores = zip(*r["loop"], strict=True)
    bare, bare_cores = ([(a + b) / 2 for a, b in zip(of, of[1:], strict=False)] for of in zip(*r["bare"], strict=True))
    added, added_cores = (
        [1 - b / a for a, b in zip(of, base, strict=True)] for of, base in ((loop, bare), (loop_cores, bare_cores))
    )
    step = summary(loop)["median"]
    rows = [("what", "ms a step", "share of the step")]
    rows.append(("a step in the loop", f"{step * 1e3:.2f}", "100 %"))
    rows.append(("a bare step", f"{summary(bare)['median'] * 1e3:.2f}", ""))
    for what, of in (("all that the loop adds", added), ("  time of the cores, of theirs", added_cores)):
        low, median, high = (summary(of)[key] for key in ("low", "median", "high"))
        rows.append((what, f"{step * median * 1e3:.2f}" * (of is added), f"{median:.1%} ({low:.1%} to {high:.1%})"))
    for what, seconds in sorted(r["spent_per_step"].items(), key=lambda item: -item[1]):
        rows.append((f"  main thread: {what}", f"{seconds * 1e3:.3f}", f"{seconds / step:.2%}"))
    rows.append(("one evaluation of the held-out text", f"{r['evaluation_seconds'] * 1e3:.0f}", ""))
    results = {
        "headline": {"loop adds": summary(added)["median"], "step": step},
        "loop": summary(loop),
        "bare": summary(bare),
        "added_share": summary(added),
        "core_seconds": {"loop": summary(loop_cores), "bare": summary(bare_cores)},
        "added_share_of_core_seconds": summary(added_cores),
        "main_thread_seconds_per_step": r["spent_per_step"],
        "evaluation_seconds": r["evaluation_seconds"],
        "stretch": options.stretch,
        "width": options.width,
    }
    name = "input" if options.width == WIDTH else f"input_width_{options.width}"
    publish(name, results, rows, None if about["platform"] == "cpu" else about["device"])


if __name__ == "__main__":
    main()
