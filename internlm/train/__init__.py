"""From a configuration to a trained model: state, step, loop, signals, command."""
