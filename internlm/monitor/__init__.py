"""What is watched while training: metrics, progress, health."""
