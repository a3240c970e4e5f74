"""Body poses of Ego-Exo4D: annotations, camera poses, filters, and the fragments that EgoAgent's first release wrote."""
