"""Exact compression driven by a model: what its likelihood claims, made into a file that comes back."""
