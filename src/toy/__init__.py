"""A drawn world with known people, in which every method can learn on a CPU in minutes."""
