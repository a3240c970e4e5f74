"""How one model is divided over many processes; the model itself knows nothing of it."""
