"""A run behind an address: continuous batching over fixed slots, OpenAI's endpoints, and one page."""
