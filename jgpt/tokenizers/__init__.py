"""Ids for text and pixels, and the joint vocabulary that holds them."""
