"""From a torch model and its optimizer to tensors: which are pruned, and what they are now."""
