"""Everything around a model that needs neither autograd nor torch: from text to batches, and back to text."""
