"""Measurements of minitensor, gpt_numpy and gpt_torch, run from the checkout: `uv run python -m bench`."""
