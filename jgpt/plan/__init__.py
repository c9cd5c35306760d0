"""Knowing before you rent: what a train step takes on machines that are not here, by compiling it for them."""
