"""EgoWorld: a procedurally generated first-person world with full ground truth (numpy and OpenCV only)."""
