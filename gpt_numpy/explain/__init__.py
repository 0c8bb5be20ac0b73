"""Reading the gradients of attention, entry by entry: in the terminal, and on a page. README.md is the lesson."""
