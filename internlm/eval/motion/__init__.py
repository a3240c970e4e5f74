"""Body motion: the next chunk, roll-outs, the motion-capture benchmark and its baselines."""
