"""What keeps a run from a bad step: meters of collapse, a watch over each step, capsules of those that went wrong."""
