"""The verbs of `jgpt VERB`: one file each, with `HELP`, `add_arguments(parser)` and `run(arguments)`."""
