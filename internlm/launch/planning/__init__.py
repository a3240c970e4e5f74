"""What a training step costs on a mesh, counted before a GPU is asked for: the work, its memory, its traffic, its seconds."""
