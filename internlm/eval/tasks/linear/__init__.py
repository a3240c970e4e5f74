"""Linear probe and few-shot classes on frozen features."""
