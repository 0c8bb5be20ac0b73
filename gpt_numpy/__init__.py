"""The GPT written by hand, on minitensor."""
