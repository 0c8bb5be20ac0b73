"""The same GPT in PyTorch."""
