"""Project Aria cameras: calibration, the map from the fisheye to a pinhole picture, recordings in VRS files."""
