"""The transformer: the only code that imports Flax; the rest sees `gpt.init` and `gpt.apply`."""
