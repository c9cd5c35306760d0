"""Text, questions and pictures: each task owns both directions, encoding and decoding."""
