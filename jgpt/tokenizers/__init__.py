"""Tokenizers of text and pictures, and the vocabulary that joins their ids."""
