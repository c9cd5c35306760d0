"""Packed rows to look at, and the rules they must keep."""
