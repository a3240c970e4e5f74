"""What a run costs before a GPU is asked for, of any system: measured on a step of one process whose tensors have no memory."""
