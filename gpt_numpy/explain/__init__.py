"""The gradients of attention, explained entry by entry: in the terminal, and on a page. README.md is the tutorial."""
